"""Writing a file so that nobody ever sees half of it: temporary file, sync, read back, rename, sync the folder."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import B4MError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_OFFERED = {vars(errno).get(name) for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")}
"""How file systems say that they have no such thing: network shares, FUSE, some external disks."""


def write_atomically(path: Path, chunks: Iterable[bytes | memoryview], check: Callable[[Path], None]) -> None:
    """Write ``chunks`` to ``path``; ``check`` reads the temporary file back and raises if it is not right.

    The old file stays whole until the new one is. Raises :class:`B4MError` for a full disk, a read-only folder or a
    file in use.
    """
    partial = path.with_name(f".{path.name}.partial")
    pieces = [memoryview(chunk).cast("B") for chunk in chunks]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            _sync(file.fileno())
        check(partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise B4MError(_sentence(path, sum(len(piece) for piece in pieces), error)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync(descriptor: int) -> None:
    """fsync where the file system has it; what was written is read back in any case."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut. The file is whole and in its place already, so that only a failing
    disk is an error.
    """
    if os.name == "nt":  # folders cannot be opened for syncing there
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.EIO, *_NO_ROOM):
            raise


def advice(error: OSError) -> str:
    """What to do about a place that cannot be written."""
    return (
        "free some space there" if error.errno in _NO_ROOM else "check that the folder is there and may be written to"
    )


def _sentence(path: Path, needed: int, error: OSError) -> str:
    if error.errno in _NO_ROOM:
        free = "no more"
        with contextlib.suppress(OSError):
            free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB"
        return (
            f"The disk is full: {path} needs {needed / 1e6:.0f} MB and {free} are free; make room and press Run again."
        )
    if os.name == "nt" and isinstance(error, PermissionError):
        return f"{path} is in use by another program or write protected: close what uses it and press Run again."
    return f"{path} could not be written ({error.strerror or error}): check the folder and press Run again."
