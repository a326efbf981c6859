"""A lock on a file that the system frees when the process ends, however it ends."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""How a system says that another has the lock; anything else says that there are no locks here."""

_TRIES = 20
"""For file systems that give a file another number each time they are asked."""


@contextlib.contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Hold the lock of the file ``path``, which is made when it is missing; the file's time says when that was last.

    Yields whether there is a lock at all: a file system without any (network shares, FUSE) gives none, and who asked
    goes on; two programs on one thing is the rarer harm. Raises BlockingIOError while another holds it, also another
    part of this program, and OSError where the file cannot be made.
    """
    for left in reversed(range(_TRIES)):
        with open(path, "a+b") as file:
            locked = _lock(file)
            if left and not _is_still(file, path):
                continue  # who held it before has removed it: the lock that others will ask for is a new file
            with contextlib.suppress(OSError):
                os.utime(path)
            yield locked
            return


def _is_still(file: IO[bytes], path: Path) -> bool:
    if os.name == "nt":  # no open file can be removed there
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes]) -> bool:
    try:
        _take(file)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(*error.args) from error
        return False
    return True


def _take(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
