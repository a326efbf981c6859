"""Runs: no training is ever repeated for identical inputs, and none is lost.

A run lives in a folder named after the content of everything that decides what a step does. How many steps are asked
for does not, nor how the result is stored: a training of 60 steps is one of 30 that went on. Inside lie its attempts
(attempts.py), numbered: the first, and a further one for every time that it is to be trained anew. What was there stays
until the new one has come as far.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .adapter import Adapter
from .atomic import advice, write_whole
from .attempts import Attempt, KeptStep, names_in
from .errors import B4MError
from .locks import holding
from .step_log import NAME as LOG
from .step_log import read_log

METHOD_REVISION = 2
KEY_LENGTH = 32
_LOCK = "lock"


def content_key(description: Mapping[str, Any]) -> str:
    """sha256 of a description as canonical JSON, with the revision of the method: equal content, equal key."""
    text = json.dumps(
        {"method": METHOD_REVISION, **description}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


class RunHeld(B4MError):
    """The run is being trained already, by another program or another part of this one."""


def silent(sentence: str) -> None:
    """Nobody is told."""


class Run:
    """One run on disk. ``tell`` gets sentences for the artist about what was found."""

    def __init__(self, folder: Path, tell: Callable[[str], None] = silent) -> None:
        self.folder, self.tell = folder, tell

    @property
    def key(self) -> str:
        """Its name: the first 32 digits of the key of its content."""
        return self.folder.name

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the run; yields whether the file system has locks. Raises :class:`RunHeld` while another holds it; a
        lock of a dead process is free.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                real = stack.enter_context(holding(self.folder / _LOCK))
            except BlockingIOError as error:
                raise RunHeld(
                    "This very training is already running in another ComfyUI: wait for it, then run it again."
                ) from error
            except OSError as error:
                raise B4MError(
                    f"The run folder {self.folder} cannot be written ({error.strerror or error}): {advice(error)}."
                ) from error
            for stray in self.folder.rglob(".*.partial"):  # of a process that was killed while it wrote
                with contextlib.suppress(OSError):
                    stray.unlink()
            yield real

    def attempts(self) -> list[Attempt]:
        """All that are there, the oldest first. Raises :class:`UnreadableFile` where the folder cannot be read now."""
        numbers = sorted(int(name) for name in names_in(self.folder) if name.isascii() and name.isdigit())
        return [self._attempt(number) for number in numbers]

    def begin(self, *, retrain: bool = False) -> Attempt:
        """The attempt to go on with: the newest; with ``retrain`` a new one, unless the newest is one that was asked
        for so and stopped.
        """
        there = self.attempts()
        if not there:
            return self._attempt(1, retraining=retrain)
        if not retrain or there[-1].retraining:
            return there[-1]
        return self._attempt(int(there[-1].folder.name) + 1, retraining=True)

    def settle(self, attempt: Attempt) -> None:
        """``attempt`` has come to its end: what it came as far as goes."""
        for older in self.attempts():
            if int(older.folder.name) < int(attempt.folder.name) and older.reach() <= attempt.reach():
                with contextlib.suppress(OSError):  # a file that someone holds open costs room, not the training
                    older.remove()
        with contextlib.suppress(OSError):
            attempt.end_retraining()

    def keep_text(self, name: str, text: str) -> None:
        """Keep a small text beside the attempts, unless it is there as it is. Raises :class:`B4MError` where it cannot
        be written.
        """
        path = self.folder / name
        with contextlib.suppress(OSError):
            if path.read_bytes() == text.encode():
                return
        write_whole(path, text.encode())

    def furthest(self, most: int) -> int | None:
        """The highest step up to ``most`` whose adapter is kept, in whichever attempt; None without one."""
        steps = [step for attempt in self.attempts() for step in attempt.steps_of("adapter")]
        return max((step for step in steps if step <= most), default=None)

    def reach(self) -> int:
        """The highest step of which there is a state or an adapter in any attempt; 0 without one."""
        return max((attempt.reach() for attempt in self.attempts()), default=0)

    def adapter(self, step: int) -> Adapter | None:
        """What was learned after ``step`` steps, float32, by the newest attempt that kept it; None without one."""
        for attempt in reversed(self.attempts()):
            found = attempt.adapter(step)
            if found is not None:
                return found
        return None

    def kept(self) -> list[KeptStep]:
        """Every step of which the newest attempt kept something, ascending."""
        there = self.attempts()
        return there[-1].kept() if there else []

    def losses(self) -> list[list[float]]:
        """(step, loss of the train rows, of the others) of the newest attempt, thinned out."""
        there = self.attempts()
        return there[-1].losses() if there else []

    def log(self) -> list[dict[str, Any]]:
        """The newest attempt's log, a row for every step (step_log.py); empty without one."""
        there = self.attempts()
        return read_log(there[-1].folder / LOG) if there else []

    def sample(self, step: int) -> Path | None:
        """The newest attempt's sample of ``step``."""
        there = self.attempts()
        return there[-1].path("sample", step) if there and step in there[-1].steps_of("sample") else None

    def used(self) -> float:
        """When it was last held, in seconds since 1970."""
        for file in (self.folder / _LOCK, self.folder):
            with contextlib.suppress(OSError):
                return file.stat().st_mtime
        return 0.0

    def remove(self) -> None:
        """Forget it, while it is held: whatever is left when that is interrupted is as good as it was. Raises OSError
        where a file cannot be taken away.
        """
        for entry in self.folder.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if os.name != "nt":  # no open file can be removed there
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _attempt(self, number: int, *, retraining: bool = False) -> Attempt:
        return Attempt(self.folder / str(number), lambda sentence: self.tell(sentence), retraining=retraining)
