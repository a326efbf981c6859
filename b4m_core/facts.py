"""What an adapter says about itself: the facts in the header of its file."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from .errors import B4MError

FORMAT = 1
ROLES = ("content", "style", "together", "merged")
FILE_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Concept:
    """What one half was taught: its trigger word, the class word beside it, and the prompts of its pictures."""

    trigger: str = ""
    class_word: str = ""
    prompts: tuple[str, ...] = ()

    def words(self) -> str:
        """The trigger and the class word together, as a prompt says them."""
        return " ".join(filter(None, (self.trigger, self.class_word)))


@dataclass(frozen=True)
class Facts:
    """The facts of one adapter. All of them go into the file and come back out of it.

    ``role`` is one of :data:`ROLES`; ``basis`` is the fingerprint of the frozen halves, which must agree for a merge; ``base`` is the
    fingerprint of the weights it was trained on; ``losses`` are (step, own loss, partner loss), thinned out; ``file_dtype`` is the
    dtype of the tensors in the file.
    """

    role: str
    rank: int
    basis_seed: int = 0
    basis: str = ""
    start: str = "zero_start"
    base: str = ""
    base_name: str = ""
    prediction: str = ""
    content: Concept | None = None
    style: Concept | None = None
    steps: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    losses: tuple[tuple[float, ...], ...] = ()
    parents: tuple[str, ...] = ()
    file_dtype: str = "float32"
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise B4MError(f"Unknown adapter role {self.role!r}: expected one of {', '.join(ROLES)}.")
        if self.file_dtype not in FILE_DTYPES:
            raise B4MError(f"Unknown file dtype {self.file_dtype!r}: choose one of {', '.join(FILE_DTYPES)}.")

    @property
    def factor_rank(self) -> int:
        """The rank of the LoRA in the file: without the constant A C it takes two factors of ``rank`` side by side."""
        return self.rank if self.start == "published" else 2 * self.rank

    def to_json(self) -> str:
        """The facts as canonical JSON: equal facts give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        """The facts back from :meth:`to_json`. Raises :class:`B4MError` for anything else."""
        try:
            raw = json.loads(text)
            version = int(raw["format"])
            if version > FORMAT:
                raise B4MError(f"This adapter was written by a newer B4M (format {version}, this one reads up to {FORMAT}): update B4M.")
            for side in ("content", "style"):
                raw[side] = None if raw[side] is None else Concept(**{**raw[side], "prompts": tuple(map(str, raw[side]["prompts"]))})
            raw["losses"] = tuple(tuple(map(float, row)) for row in raw["losses"])
            raw["parents"] = tuple(map(str, raw["parents"]))
            facts = cls(**raw)
            _require_types(facts)
            return facts
        except B4MError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise B4MError(f"The B4M facts in this file are damaged ({error}): make or download the file again.") from error

    def summary(self) -> str:
        """The facts as a few lines for people."""
        lines = [
            f"{self.role} adapter, rank {self.rank}, {self.steps} steps",
            f"base model: {self.base_name or 'unknown'} ({self.base[:12] or '-'})",
        ]
        for side, concept in (("content", self.content), ("style", self.style)):
            if concept is not None:
                lines.append(f"{side}: {concept.words() or '-'}")
                lines += [f"  prompt: {prompt}" for prompt in concept.prompts[:4]]
        lines.append(f"basis: seed {self.basis_seed}, {self.basis[:12]}, start {self.start}")
        lines += [f"{key.replace('_', ' ')}: {value}" for key, value in sorted(self.settings.items())]
        if self.losses:
            lines.append(f"loss: {self.losses[0][1]:.4f} at first, {self.losses[-1][1]:.4f} at last")
        return "\n".join(lines)


_TYPES: dict[str, type] = {"rank": int, "basis_seed": int, "steps": int, "format": int, "settings": dict}
_TEXTS = ("role", "basis", "start", "base", "base_name", "prediction", "file_dtype")


def _require_types(facts: Facts) -> None:
    """Refuse what JSON allows and a file of ours never holds."""
    for name, kind in (_TYPES | dict.fromkeys(_TEXTS, str)).items():
        value = getattr(facts, name)
        if type(value) is not kind:
            raise TypeError(f"{name} is {value!r}")
    for concept in (facts.content, facts.style):
        if concept is not None and not (isinstance(concept.trigger, str) and isinstance(concept.class_word, str)):
            raise TypeError("a trigger or class word is not text")
    if facts.rank < 1 or facts.format < 1 or facts.steps < 0 or not all(math.isfinite(value) for row in facts.losses for value in row):
        raise ValueError("a number is out of range")
