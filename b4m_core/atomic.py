"""Writing a file so that nobody ever sees half of it: temporary file, sync, read back, rename, sync the folder."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import B4MError


def write_atomically(path: Path, chunks: Iterable[bytes | memoryview], check: Callable[[Path], None]) -> None:
    """Write ``chunks`` to ``path``; ``check`` reads the temporary file back and raises if it is not right.

    The old file stays whole until the new one is. Raises :class:`B4MError` for a full disk, a read-only folder or a file in use.
    """
    partial = path.with_name(f".{path.name}.partial")
    pieces = [memoryview(chunk).cast("B") for chunk in chunks]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        check(partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise B4MError(_sentence(path, sum(len(piece) for piece in pieces), error)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened for syncing there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sentence(path: Path, needed: int, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return f"The disk is full: {path} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; make room and press Run again."
    if os.name == "nt" and isinstance(error, PermissionError):
        return f"{path} is in use by another program or write protected: close what uses it and press Run again."
    return f"{path} could not be written ({error.strerror or error}): check the folder and press Run again."
