"""One b4m command at a time changes the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .console import say

if os.name == "nt":
    import msvcrt

    def _try_lock(file: IO[str]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds the lock file while the block runs. The system lets go of it when a process dies, so it never goes stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        if not _try_lock(file):
            say("Another b4m command is setting things up; waiting for it.")
            while not _try_lock(file):
                time.sleep(0.5)
        yield
