"""Temporary files: each has a name of its own, and one that a killed program left is told from one that is being written.

A writer holds a lock on its file, which the system frees when the program ends; so a free file is nobody's. Where there
are no locks (Windows moves no open file; some network shares) a file is nobody's once it is a day old.
"""

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_BEGINNING, _ENDING = ".b4m-", ".partial"
_FORGOTTEN = 24 * 3600  # seconds
_WINDOWS = os.name == "nt"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


@contextlib.contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file in ``folder``, open for writing, and its path; what is still there at the end is removed.

    Raises OSError where it cannot be made.
    """
    file, path = _made(folder)
    try:
        with file:
            yield file, path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> int:
    """Remove the temporary files that killed programs left directly in ``folder``; returns how many. Nothing is raised:
    what cannot be removed now is met again.
    """
    swept = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_BEGINNING) and entry.name.endswith(_ENDING):
                with contextlib.suppress(OSError):
                    swept += _remove_if_left(Path(entry.path))
    return swept


def sweep_below(folder: Path) -> int:
    """The same for ``folder`` and all folders in it; links are not followed."""
    return sum(sweep(Path(place)) for place, _, _ in os.walk(folder))


def _made(folder: Path) -> tuple[IO[bytes], Path]:
    """A file that is ours: made, locked, and still there (a sweep may have come between the two)."""
    while True:
        path = folder / f"{_BEGINNING}{secrets.token_hex(8)}{_ENDING}"
        file = open(path, "xb")
        if _lock(file.fileno()) is not False and path.exists():
            return file, path
        file.close()


def _remove_if_left(path: Path) -> bool:
    """Remove a temporary file that nobody writes any more; whether it was. Raises OSError."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        free = _lock(descriptor)
        if free is None:
            free = abs(time.time() - status.st_mtime) > _FORGOTTEN
        if free and not _WINDOWS:
            path.unlink()
    finally:
        os.close(descriptor)
    if free and _WINDOWS:  # no open file can be removed there
        path.unlink()
    return bool(free)


def _lock(descriptor: int) -> bool | None:
    """Whether the lock on an open file was free and is ours now; None where the system has no such locks."""
    if _WINDOWS:
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True
