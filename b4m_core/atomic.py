"""Writing a file so that nobody ever sees half of it: temporary file, sync, read back, rename, sync the folder."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import B4MError
from .temporary import sweep, temporary_file

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_OFFERED = {vars(errno).get(name) for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")}
"""How file systems say that they have no such thing: network shares, FUSE, some external disks."""
_WINDOWS = os.name == "nt"
_WAITS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds


class NameTaken(B4MError):
    """Another file has that name already."""


def write_atomically(
    path: Path, chunks: Iterable[bytes | memoryview], check: Callable[[Path], None], *, over: bool = True
) -> None:
    """Write ``chunks`` to ``path``; ``check`` reads the temporary file back and raises if it is not right.

    The old file stays whole until the new one is; of several writers of one name each is whole and the last one counts.
    What a killed program left in the folder is removed first. Raises :class:`B4MError` for a full disk, a read-only
    folder or a file in use, and :class:`NameTaken` where a file of that name is there and ``over`` is False.
    """
    pieces = [memoryview(chunk).cast("B") for chunk in chunks]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with temporary_file(path.parent) as (file, partial):
            for piece in pieces:
                file.write(piece)
            file.flush()
            _sync(file.fileno())
            check(partial)
            if _WINDOWS:  # no open file can be moved there
                file.close()
            _patiently(os.replace if over else _move_without_replacing, partial, path)
        _sync_folder(path.parent)
    except FileExistsError as error:
        if over or not os.path.lexists(path):
            raise B4MError(_sentence(path, sum(map(len, pieces)), error)) from error
        raise NameTaken(f"There is a file {path.name} already: choose another name, or to replace it.") from error
    except OSError as error:
        raise B4MError(_sentence(path, sum(map(len, pieces)), error)) from error


def _move_without_replacing(partial: Path, path: Path) -> None:
    """Give a file its name unless another has it (FileExistsError), also when both come at one moment."""
    if _WINDOWS:
        os.rename(partial, path)  # never replaces there
        return
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without second names: the name is claimed first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(partial, path)


def _patiently(move: Callable[[Path, Path], None], partial: Path, path: Path) -> None:
    """On Windows a virus scanner or an indexer may hold a file for a moment: it is asked for again."""
    for wait in _WAITS if _WINDOWS else ():
        try:
            return move(partial, path)
        except PermissionError:
            time.sleep(wait)
    move(partial, path)


def write_whole(path: Path, data: bytes) -> Path:
    """Write a small file of another kind, read back like any other."""

    def check(partial: Path) -> None:
        if partial.read_bytes() != data:
            raise B4MError(f"{path.name} did not read back as it was written: check the disk and run it again.")

    write_atomically(path, [data], check)
    return path


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
    if _WINDOWS:  # folders cannot be opened for syncing there
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
            f"The disk is full: {path} needs {needed / 1e6:.0f} MB and {free} are free; make room and run it again."
        )
    if _WINDOWS and isinstance(error, PermissionError):
        return f"{path} is in use by another program or write protected: close what uses it and run it again."
    return f"{path} could not be written ({error.strerror or error}): check the folder and run it again."
