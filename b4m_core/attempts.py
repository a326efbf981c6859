"""What one training leaves on disk while it goes: states to go on from, adapters to take, samples to look at.

    state-00000612.safetensors      parameters, moments and losses after 612 steps: the newest two
    adapter-00000600.safetensors    what was learned after 600 steps, float32: a few, spread over the training
    sample-00000600.jpg             what it painted then, with its loss and prompt in the picture's comment

Every file is written whole or not at all, and carries a checksum or is verified. A file that is damaged is set aside
and told; one that the system does not let us read now stays where it is.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .adapter import Adapter
from .atomic import write_atomically
from .container import UnreadableFile, read_container, read_text, write_container
from .errors import B4MError
from .files import load_adapter, read_facts, save_adapter
from .painted import as_bytes

STATES = 2
"""Generations of states: the older one is there for when the newer is damaged."""
MOST_ADAPTERS, MOST_ADAPTER_BYTES = 20, 2 * 10**9
MOST_SAMPLES = 100
_ENDINGS = {"state": "safetensors", "adapter": "safetensors", "sample": "jpg"}
_NAME = re.compile(r"(state|adapter|sample)-(\d{8,})\.(safetensors|jpg)")
_RETRAINING = "retraining"

Losses = Sequence[Sequence[float]]


def names_in(folder: Path) -> list[str]:
    """What lies in a folder of a run; nothing where it is not there.

    Raises :class:`UnreadableFile` where it cannot be read now.
    """
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnreadableFile(f"{folder} cannot be read ({error.strerror or error}): check its disk, then run it again.") from error


@dataclass(frozen=True)
class KeptStep:
    """A step of which something is kept: its ``loss`` (None where nothing says it), the path of its ``sample``, and
    whether its ``adapter`` is there, or a ``state`` from which it is had without training.
    """

    step: int
    loss: float | None
    sample: Path | None
    adapter: bool
    state: bool


class Attempt:
    """One training in its ``folder``, which is made with the first file. ``tell`` gets sentences for the artist.

    ``retraining``: it was asked for although there was one before it, and has not come to its end.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None], *, retraining: bool = False) -> None:
        self.folder, self._tell = folder, tell
        self._begins_retraining = retraining
        self._written: list[int] = []  # steps of the states that were written just now, the last two

    @property
    def retraining(self) -> bool:
        """See the class."""
        return self._begins_retraining or (self.folder / _RETRAINING).exists()

    def end_retraining(self) -> None:
        """It has come to its end."""
        self._begins_retraining = False
        (self.folder / _RETRAINING).unlink(missing_ok=True)

    def steps_of(self, kind: str) -> list[int]:
        """The steps of which there is a "state", an "adapter" or a "sample", ascending."""
        return sorted(int(found[2]) for found in self._files() if found[1] == kind)

    def path(self, kind: str, step: int) -> Path:
        """Where the "state", "adapter" or "sample" of a step lies."""
        return self.folder / f"{kind}-{step:08}.{_ENDINGS[kind]}"

    def save_state(self, tensors: Mapping[str, Tensor], step: int, losses: Losses = ()) -> None:
        """Keep the state after ``step`` steps, with some of the ``losses``; older ones make room when it is there.

        Beside the newest two those stay that were written just now: a training of fewer steps than there were has its
        own below.
        """
        self._make()
        text = json.dumps({"step": step, "losses": [list(row) for row in losses]})
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_container(self.path("state", step), whole, text)
        self._written = [*(other for other in self._written if other != step), step][-STATES:]
        steps = self.steps_of("state")
        for other in set(steps[:-STATES]) - set(self._written):
            self._remove("state", other)

    def load_state(self, most: int | None = None) -> tuple[int, dict[str, Tensor]] | None:
        """(step, tensors) of the newest good state, of at most ``most`` steps; None without one."""
        for step in reversed(self.steps_of("state")):
            if most is None or step <= most:
                found = self._read("state", step, read_container)
                if found is not None:
                    return step, found[1]
        return None

    def keep(self, adapter: Adapter) -> None:
        """Keep what was learned after ``adapter.facts.steps`` steps, in float32: any file dtype is made of that."""
        self._make()
        step = adapter.facts.steps
        settings = {**adapter.facts.settings, "steps": step, "file_dtype": "float32"}
        kept = adapter.with_facts(settings=settings, file_dtype="float32")
        save_adapter(kept, self.path("adapter", step))
        self._thin("adapter", MOST_ADAPTERS, MOST_ADAPTER_BYTES, spare=step)

    def adapter(self, step: int) -> Adapter | None:
        """What was learned after ``step`` steps; None where that was not kept."""
        found: Adapter | None = self._read("adapter", step, load_adapter)
        return found

    def keep_sample(self, pixels: Tensor, step: int, *, loss: float | None = None, prompt: str = "") -> Path:
        """Keep a sample (H, W, 3) in 0..1 as the picture of ``step``; returns where it lies."""
        self._make()
        picture = Image.fromarray(as_bytes(pixels))
        said = json.dumps({"step": step, "loss": loss, "prompt": prompt[:1000]}).encode()
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=92, comment=said)
        path = self.path("sample", step)
        write_atomically(path, [buffer.getvalue()], check=lambda partial: Image.open(partial).verify())
        self._thin("sample", MOST_SAMPLES, MOST_ADAPTER_BYTES, spare=step)
        return path

    def kept(self) -> list[KeptStep]:
        """Every step of which something is kept, ascending."""
        there = {kind: set(self.steps_of(kind)) for kind in _ENDINGS}
        return [
            KeptStep(
                step,
                self._loss(step, there),
                self.path("sample", step) if step in there["sample"] else None,
                step in there["adapter"],
                step in there["state"],
            )
            for step in sorted(set().union(*there.values()))
        ]

    def losses(self) -> list[list[float]]:
        """(step, loss of the train rows, of the others) as far as anything says them, thinned out."""
        ends = [(step, kind) for kind in ("state", "adapter") for step in self.steps_of(kind)]
        for step, kind in sorted(ends, reverse=True):
            with contextlib.suppress(B4MError, OSError, ValueError, KeyError, TypeError):
                return self._losses(kind, step)
        return []

    def _losses(self, kind: str, step: int) -> list[list[float]]:
        if kind == "adapter":
            return [list(row) for row in read_facts(self.path(kind, step)).losses]
        return [[float(value) for value in row] for row in json.loads(read_text(self.path(kind, step)))["losses"]]

    def _loss(self, step: int, there: Mapping[str, set[int]]) -> float | None:
        if step in there["sample"]:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError), Image.open(self.path("sample", step)) as picture:
                return float(json.loads(picture.info["comment"])["loss"])
        for kind in ("adapter", "state"):
            if step in there[kind]:
                with contextlib.suppress(B4MError, OSError, ValueError, KeyError, TypeError, IndexError):
                    return float(self._losses(kind, step)[-1][1])
        return None

    def reach(self) -> int:
        """The highest step of which there is a state or an adapter; 0 without one."""
        return max([*self.steps_of("state"), *self.steps_of("adapter")], default=0)

    def remove(self) -> None:
        """Forget it. Raises OSError where a file cannot be taken away."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _files(self) -> list[re.Match[str]]:
        """Our files. Raises :class:`UnreadableFile` where the folder cannot be read now."""
        matches = (_NAME.fullmatch(name) for name in names_in(self.folder))
        return [found for found in matches if found is not None and found[3] == _ENDINGS[found[1]]]

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._begins_retraining:
                (self.folder / _RETRAINING).touch()
        except OSError as error:
            raise B4MError(f"The run folder {self.folder} cannot be written ({error.strerror or error}).") from error

    def _read(self, kind: str, step: int, read: Callable[[Path], Any]) -> Any:
        path = self.path(kind, step)
        if step not in self.steps_of(kind):
            return None
        try:
            return read(path)
        except UnreadableFile:
            raise  # a disk that is away for a moment is no reason to train again
        except B4MError as error:
            with contextlib.suppress(OSError):
                os.replace(path, path.with_suffix(".damaged"))
            self._tell(f"What was kept of step {step} cannot be used and was set aside as {path.stem}.damaged: {error}")
            return None

    def _thin(self, kind: str, most: int, most_bytes: int, *, spare: int) -> None:
        """Remove what lies densest, until the rest is within both bounds; neither the newest nor ``spare``."""
        while True:
            steps = self.steps_of(kind)
            size = sum(self._size(kind, step) for step in steps)
            before = dict(zip(steps, [0, *steps], strict=False))
            after = dict(zip(steps, steps[1:], strict=False))
            may_go = [step for step in steps[:-1] if step != spare]
            if (len(steps) <= most and size <= most_bytes) or not may_go:
                return
            self._remove(kind, min(may_go, key=lambda step: after[step] - before[step]))

    def _size(self, kind: str, step: int) -> int:
        try:
            return self.path(kind, step).stat().st_size
        except OSError:
            return 0

    def _remove(self, kind: str, step: int) -> None:
        """A file that someone holds open costs room, not the training."""
        with contextlib.suppress(OSError):
            self.path(kind, step).unlink(missing_ok=True)


def asked_for(adapter: Adapter, settings: Mapping[str, Any]) -> Adapter:
    """A kept adapter as a training of ``settings`` gives it: its facts, and what is learned in its file dtype.

    Raises :class:`B4MError` where that dtype cannot hold it.
    """
    facts = dataclasses.replace(adapter.facts, settings=dict(settings), file_dtype=settings["file_dtype"])
    found = Adapter(adapter.layers, facts, adapter.carried).rounding_carried().rounded()
    for some, parts in found.alike():
        for part, values in parts.items():
            good = torch.isfinite(values).flatten(1).all(1)  # (L,)
            if not good.all():
                raise B4MError(
                    f"Layer {some[int(good.int().argmin())].name} {part} has numbers that {facts.file_dtype} cannot hold: "
                    "choose file_dtype = float32 or bfloat16, or lower learning_rate."
                )
    return found
