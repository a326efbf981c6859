"""One b4m command at a time changes the environment."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .console import say

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""How a system says that a file system has no locks: network folders and mounted phones have none."""


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds the lock file while the block runs, where the file system has locks.

    The system lets go of it when a process dies, so it never goes stale.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another b4m command is setting things up; waiting for it.")
        lock.acquire()
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
