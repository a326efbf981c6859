"""The run store: all runs and painted pictures below one folder, within a bound.

Where there is too much, what was not used for longest goes first, whole runs at a time, and never one that is being
trained.
"""

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import B4MError
from .runs import KEY_LENGTH, Run

MOST_BYTES = 20 * 10**9
BOUND_VARIABLE = "B4M_STORE_GB"
"""The environment variable that sets another bound, in GB."""
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_SURELY_IDLE = 24 * 3600  # seconds, where a file system has no locks


@dataclass(frozen=True)
class Entry:
    """A run or a painted picture: its path, bytes, and when it was last used, in seconds since 1970."""

    path: Path
    bytes: int
    used: float


@dataclass(frozen=True)
class Pruned:
    """What was removed: how many runs and pictures, and how many bytes they took."""

    entries: int = 0
    bytes: int = 0


class RunStore:
    """All runs below the folder ``root``, which are to take at most ``most_bytes`` together with painted pictures."""

    def __init__(self, root: str | Path, most_bytes: int | None = None) -> None:
        self.root = Path(root)
        self.most_bytes = bound_in_force() if most_bytes is None else most_bytes

    def open(self, key: str) -> Run:
        """The run of ``key``, new or old."""
        return Run(self.root / "runs" / key[:KEY_LENGTH])

    def find(self, key: str) -> Run | None:
        """The run of ``key`` (32 hexadecimal digits) if there is one; None for anything else."""
        run = self.open(key) if _KEY.fullmatch(key) else None
        return run if run is not None and run.folder.is_dir() else None

    def runs(self) -> list[Run]:
        """All that are there, the one that was used last first."""
        found = [Run(path) for path in _inside(self.root / "runs") if path.is_dir() and not path.is_symlink()]
        return sorted(found, key=Run.used, reverse=True)

    def entries(self) -> list[Entry]:
        """Everything in the store, what was not used for longest first."""
        runs = [Entry(run.folder, _bytes(run.folder), run.used()) for run in self.runs()]
        painted = [Entry(path, _bytes(path), _changed(path)) for path in _inside(self.root / "auxiliary")]
        return sorted([*runs, *painted], key=lambda entry: entry.used)

    def prune(self, most_bytes: int | None = None) -> Pruned:
        """Remove what was not used for longest until the rest takes at most ``most_bytes``, or the store's bound. What
        cannot be removed now is left.
        """
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        most = self.most_bytes if most_bytes is None else most_bytes
        removed = Pruned()
        for entry in entries:
            if total - removed.bytes <= most:
                break
            if _removed(entry):
                removed = Pruned(removed.entries + 1, removed.bytes + entry.bytes)
        return removed


def bound_in_force() -> int:
    """Bytes: 20 GB, or what the environment says. Raises :class:`B4MError` where that is no number."""
    said = os.environ.get(BOUND_VARIABLE, "")
    try:
        most = int(float(said) * 10**9) if said else MOST_BYTES
    except (ValueError, OverflowError) as error:
        raise B4MError(f"{BOUND_VARIABLE} is {said!r}: write a number of GB, such as 20.") from error
    if most < 0:
        raise B4MError(f"{BOUND_VARIABLE} is {said!r}: write a number of GB, such as 20.")
    return most


def _removed(entry: Entry) -> bool:
    """Whether the entry was there and nobody used it, and is gone."""
    with contextlib.suppress(OSError, B4MError):
        if entry.path.is_symlink() or not entry.path.is_dir():
            entry.path.unlink()
            return True
        run = Run(entry.path)
        with run.locked() as real:
            if not real and time.time() - entry.used < _SURELY_IDLE:
                return False
            run.remove()
        if entry.path.exists():  # its lock file could not go while it was held
            shutil.rmtree(entry.path, ignore_errors=True)
        return True
    return False


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _bytes(path: Path) -> int:
    """Of a file, or of all files below a folder; links are not followed."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        return sum(_bytes(entry) for entry in _inside(path))
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
