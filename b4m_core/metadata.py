"""What an adapter says about itself: the facts in the header of its file.

Later formats added what is in :data:`ADDED`. A file is written in the first one that can say it: the same bytes as
ever, which every version of B4M reads.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from .errors import B4MError
from .facts_shape import parsed
from .layers import ATTENTION, LAYERS
from .splits import Split, split_named

ROLES = ("content", "style", "together", "merged")
FILE_DTYPES = ("float32", "float16", "bfloat16")
ADDED: dict[int, dict[str, Any]] = {
    2: {"split": "halves", "compact": False},
    3: {"family": "sdxl", "file_format": ""},
    4: {"origin": "", "stored_basis": False, "carried": ()},
    5: {"layers": ATTENTION},
}
"""The facts that each format added, as the formats before it mean them."""
FORMAT = max(ADDED)
RENAMED = {
    "clip": "max_grad_norm",
    "batch": "batch_size",
    "accumulation": "gradient_accumulation_steps",
    "damping": "preconditioner_damping",
    "partner_learning_rate": "auxiliary_learning_rate",
    "keep": "output_preservation",
    "partner": "multi_correspondence",
}
"""What settings, and the values of ``correspondence``, were called in the first files."""
MOST_PROMPTS, _LONGEST_PROMPT = 200, 1000
"""What is kept of the prompts of a large set: a header is read whole wherever a file is listed."""


@dataclass(frozen=True)
class Concept:
    """A content or a style in words: its trigger word, the class word beside it, and the prompts of the pictures that
    taught it.
    """

    trigger: str = ""
    class_word: str = ""
    prompts: tuple[str, ...] = ()

    @classmethod
    def of(cls, trigger: str, class_word: str, prompts: tuple[str, ...]) -> "Concept":
        """A concept with no more of its prompts than a header should hold."""
        return cls(trigger, class_word, tuple(prompt[:_LONGEST_PROMPT] for prompt in prompts[:MOST_PROMPTS]))

    def words(self) -> str:
        """The trigger and the class word together, as a prompt says them."""
        return " ".join(filter(None, (self.trigger, self.class_word)))


@dataclass(frozen=True)
class Facts:
    """The facts of one adapter. All of them go into the file and come back out of it.

    ``role`` is one of :data:`ROLES`; ``basis`` is the fingerprint of the basis: where two agree, a merge keeps the split;
    ``base`` is the fingerprint of the network it was trained on (fingerprint.py); ``losses`` are (step, loss of the train
    rows, loss of the others), thinned out; ``file_dtype`` is the dtype of the tensors in the file; ``split`` is a name in
    splits.py; ``family`` is one in models/; ``compact`` tells a file that holds the taught parts alone, and
    ``file_format`` names any other row of files.py. ``origin``: the tool and the file that another tool's LoRA came
    from; ``stored_basis``: the frozen parts are the file's own, not those that we draw; ``carried``: (concept, layer,
    rank) of every update that the file holds beside the split, the rank 0 where it is no up times a down; ``layers``, one
    of layers.py's, says what has an update at all.
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
    split: str = "halves"
    compact: bool = False
    family: str = "sdxl"
    file_format: str = ""
    origin: str = ""
    stored_basis: bool = False
    carried: tuple[tuple[str, str, int], ...] = ()
    layers: str = ATTENTION

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise B4MError(f"Unknown adapter role {self.role!r}: expected one of {', '.join(ROLES)}.")
        if self.file_dtype not in FILE_DTYPES:
            raise B4MError(f"Unknown file dtype {self.file_dtype!r}: choose one of {', '.join(FILE_DTYPES)}.")
        if self.layers not in LAYERS:
            raise B4MError(f"Unknown layers {self.layers!r}: expected one of {', '.join(LAYERS)}.")

    @property
    def split_row(self) -> Split:
        """The row of ``split``. Raises :class:`B4MError` for an unknown one."""
        return split_named(self.split)

    def factor_rank(self, alone: str = "") -> int:
        """The rank of the LoRA in the file: ``rank`` for each of its blocks, those of a concept ``alone`` or all."""
        others = {"content": ("style",), "style": ("content",)}.get(alone, ())
        return self.rank * len(self.split_row.written(self.start, without=others))

    @property
    def rounds_frozen(self) -> bool:
        """Whether the frozen parts count as the file has them, as other loaders read them, and not as they are drawn:
        bfloat16 rounds them by more than 0.001, float16 by a tenth of that.
        """
        return self.file_dtype == "bfloat16" and not self.compact and bool(self.split_row.frozen)

    @property
    def form(self) -> str:
        """The name of the row of files.py that the file is written by."""
        return self.file_format or ("compact" if self.compact else "lora")

    def common(self) -> dict[str, Any]:
        """What a content and a style must have in common to fit together, by the names that settings have for it."""
        return {name: getattr(self, name) for name in ("rank", "basis_seed", "start", "split", "layers")}

    @property
    def taught(self) -> tuple[str, ...]:
        """The parts that this adapter was made for, a content's or a style's; what else it holds was a help while it
        trained.
        """
        row = self.split_row
        return {"content": row.content, "style": row.style}.get(self.role, row.learned)

    def to_json(self) -> str:
        """The facts as canonical JSON: equal facts give equal text."""
        raw = dataclasses.asdict(self)
        needed = [
            version for version, added in ADDED.items() if any(raw[name] != value for name, value in added.items())
        ]
        raw["format"] = max(needed, default=1)
        for version, added in ADDED.items():
            if version > raw["format"]:
                raw = {name: value for name, value in raw.items() if name not in added}
        return json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        """The facts back from :meth:`to_json`. Raises :class:`B4MError` for anything else."""
        try:
            raw = parsed(text)
            version = raw.pop("format")
            if type(version) is not int or version < 1:
                raise TypeError(f"format is {version!r}")
            if version > FORMAT:
                raise B4MError(
                    f"This adapter was written by a newer B4M (format {version}, this one reads up to {FORMAT}): update B4M."
                )
            for side in ("content", "style"):
                raw[side] = (
                    None
                    if raw[side] is None
                    else Concept(**{**raw[side], "prompts": tuple(map(str, raw[side]["prompts"]))})
                )
            raw["losses"] = tuple(tuple(map(float, row)) for row in raw["losses"])
            raw["parents"] = tuple(map(str, raw["parents"]))
            raw["carried"] = tuple((str(a), str(b), int(c)) for a, b, c in raw.get("carried", ()))
            raw["settings"] = {
                RENAMED.get(name, name): RENAMED.get(value, value) if name == "correspondence" else value
                for name, value in raw["settings"].items()
            }
            meant = {name: value for added in ADDED.values() for name, value in added.items()}
            facts = cls(**{**meant, **raw})
            _require_types(facts)
            return facts
        except B4MError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise B4MError(
                f"The B4M facts in this file are damaged ({error}): make or download the file again."
            ) from error

    def summary(self) -> str:
        """The facts as a few lines for people."""
        lines = [
            f"{self.role} adapter, rank {self.rank}, {self.steps} steps",
            f"base model: {self.base_name or 'unknown'} ({self.base[-12:] or '-'})",
        ]
        for side, concept in (("content", self.content), ("style", self.style)):
            if concept is not None:
                lines.append(f"{side}: {concept.words() or '-'}")
                lines += [f"  prompt: {prompt}" for prompt in concept.prompts[:4]]
        lines.append(f"basis: seed {self.basis_seed}, {self.basis[:12]}, start {self.start}, split {self.split}")
        if self.layers != ATTENTION:
            lines.append("layers: attention and convolutions (LoCon)")
        if self.origin:
            lines.append(f"from another tool: {self.origin}")
        if self.compact:
            lines.append("compact: only what was taught is in the file, the rest is drawn again")
        lines += [f"{key.replace('_', ' ')}: {value}" for key, value in sorted(self.settings.items())]
        if self.losses:
            lines.append(f"loss: {self.losses[0][1]:.4f} at first, {self.losses[-1][1]:.4f} at last")
        return "\n".join(lines)


_TYPES: dict[str, type] = {
    "rank": int,
    "basis_seed": int,
    "steps": int,
    "settings": dict,
    "compact": bool,
    "stored_basis": bool,
}
_TEXTS = (
    "role",
    "basis",
    "start",
    "base",
    "base_name",
    "prediction",
    "file_dtype",
    "split",
    "family",
    "file_format",
    "origin",
    "layers",
)


def _require_types(facts: Facts) -> None:
    """Refuse what JSON allows and a file of ours never holds."""
    for name, kind in (_TYPES | dict.fromkeys(_TEXTS, str)).items():
        value = getattr(facts, name)
        if type(value) is not kind:
            raise TypeError(f"{name} is {value!r}")
    for concept in (facts.content, facts.style):
        if concept is not None and not (isinstance(concept.trigger, str) and isinstance(concept.class_word, str)):
            raise TypeError("a trigger or class word is not text")
    if any(len(row) != 3 for row in facts.losses):
        raise TypeError("a loss is not a step, an own and a partner loss")
    if facts.rank < 1 or facts.steps < 0 or not all(math.isfinite(value) for row in facts.losses for value in row):
        raise ValueError("a number is out of range")
