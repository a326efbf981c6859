"""``log.jsonl`` beside what an attempt keeps: one line of JSON for every step, for whoever wants to draw it.

    {"step": 12, "loss": 0.0931, "others": 0.0127, "seconds": 0.41, "learning_rate": 0.0001, "memory": 7516192768}

``loss`` is that of the train rows, ``others`` that of the other rows; ``seconds`` is missing for a step that nobody
timed, ``memory``, the most bytes that PyTorch held on the card so far, where there is no card. The steps grow: a
training that goes on from an earlier state writes no step for a second time.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from .attempts import Attempt

NAME = "log.jsonl"
MOST_BYTES = 20 * 10**6
"""Where the file is larger, every second of its lines goes: 200,000 steps and more."""
MOST_WAITING = 10_000
"""Lines that wait for a disk that has no room."""
FLUSH_SECONDS = 1.0


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a log whose steps grow; what is no such line, like the half one of a killed program, is left out."""
    found: list[dict[str, Any]] = []
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            row = json.loads(line)
            if type(row["step"]) is int and row["step"] > (found[-1]["step"] if found else 0):
                found.append(row)
    return found


class StepLog:
    """The log of one ``attempt`` at a constant ``learning_rate``. ``tell`` hears once of a disk that does not take it."""

    def __init__(self, attempt: Attempt, learning_rate: float, tell: Callable[[str], None]) -> None:
        self.attempt, self.learning_rate, self._tell = attempt, learning_rate, tell
        self.file = attempt.folder / NAME
        rows = read_log(self.file)
        self._last: int = rows[-1]["step"] if rows else 0
        self._waiting: list[str] = []
        self._troubled = False
        self._flushed = time.monotonic()
        self._step_at: float | None = None  # when the step before was read
        self._mend()

    def add(self, losses: Sequence[tuple[float, float, float]]) -> None:
        """Log what is new of all ``losses`` so far, (step, of the train rows, of the others)."""
        now = time.monotonic()
        new = losses[self._last :]
        for step, trained, others in new:
            row = {"step": int(step), "loss": _plain(trained), "others": _plain(others)}
            if len(new) == 1 and self._step_at is not None:
                row["seconds"] = _plain(now - self._step_at)
            row["learning_rate"] = self.learning_rate
            if torch.cuda.is_available() and (held := torch.cuda.max_memory_allocated()):
                row["memory"] = held
            self._waiting.append(json.dumps(row) + "\n")
            self._last = int(step)
        del self._waiting[:-MOST_WAITING]
        self._step_at = now
        if now - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits. A disk that is full, or away, is told once and tried again."""
        self._flushed = time.monotonic()
        if not self._waiting or (self.attempt.retraining and not self.attempt.folder.exists()):
            return  # what is trained anew begins with the first state that is kept of it
        try:
            self.attempt.folder.mkdir(parents=True, exist_ok=True)
            self._append("".join(self._waiting).encode())
            self._waiting.clear()
            if self.file.stat().st_size > MOST_BYTES:
                self._thin()
        except OSError as error:
            if not self._troubled:
                self._tell(f"{NAME} could not be written ({error.strerror or error}); training goes on, and it is tried again.")
            self._troubled = True

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within: a training; what is left is written at its end, however it ends."""
        try:
            yield
        finally:
            self.flush()

    def _append(self, data: bytes) -> None:
        """All of it or nothing."""
        before = self.file.stat().st_size if self.file.exists() else 0
        try:
            with open(self.file, "ab") as file:
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.file, before)
            raise

    def _mend(self) -> None:
        """Take away the half line that a killed program left."""
        with contextlib.suppress(OSError):
            data = self.file.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(self.file, data.rfind(b"\n") + 1)

    def _thin(self) -> None:
        lines = self.file.read_bytes().splitlines(keepends=True)
        partial = self.file.with_name(f".{NAME}.partial")
        partial.write_bytes(b"".join(lines[::2] if len(lines) % 2 else lines[1::2]))  # the newest stays
        os.replace(partial, self.file)


def _plain(value: float) -> float | None:
    """Six digits; None for what is not a number, which JSON has no word for."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
