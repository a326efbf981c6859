"""The run store: no training is ever repeated for identical inputs, and none is lost.

A run lives in a folder named after the content of everything that matters. While it trains there is
``state.safetensors``, from which it goes on to the same bytes; when it is done there is ``adapter.safetensors``. Both
are written whole or not at all and carry a checksum.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from .adapter import Adapter
from .atomic import advice
from .container import UnreadableFile, read_container, write_container
from .errors import B4MError
from .files import load_adapter, save_adapter

METHOD_REVISION = 2
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""How a system says that another has the lock; anything else says that there are no locks here."""


def content_key(description: Mapping[str, Any]) -> str:
    """sha256 of a description as canonical JSON, with the revision of the method: equal content, equal key."""
    text = json.dumps(
        {"method": METHOD_REVISION, **description}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


class RunStore:
    """All runs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, key: str) -> "Run":
        """The run of ``key``, new or old."""
        return Run(self.root / "runs" / key[:32])


class Run:
    """One training on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state, self._adapter = folder / "state.safetensors", folder / "adapter.safetensors"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run. Raises :class:`B4MError` while another process does; a lock of a dead process is free."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.folder / "lock", "a+b")
        except OSError as error:
            raise B4MError(
                f"The run folder {self.folder} cannot be written ({error.strerror or error}): {advice(error)}."
            ) from error
        with file:
            try:
                _lock(file)
            except BlockingIOError as error:
                raise B4MError(
                    "This very training is already running in another ComfyUI: wait for it, then press Run again."
                ) from error
            for stray in self.folder.glob(".*.partial"):  # of a process that was killed while it wrote
                with contextlib.suppress(OSError):
                    stray.unlink()
            yield

    def finished(self) -> Adapter | None:
        """The trained adapter, or None. A damaged file is set aside and counts as not finished."""
        adapter: Adapter | None = _read_or_set_aside(self._adapter, load_adapter)
        return adapter

    def finish(self, adapter: Adapter) -> Adapter:
        """Keep ``adapter`` as the result, read it back, and drop the state that is no longer needed."""
        save_adapter(adapter, self._adapter)
        result = load_adapter(self._adapter)
        with contextlib.suppress(OSError):  # a file that someone holds open costs room, not the training
            self._state.unlink(missing_ok=True)
        return result

    def save_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Keep the state after ``step`` optimiser steps."""
        write_container(
            self._state,
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            json.dumps({"step": step}),
        )

    def load_state(self) -> tuple[int, dict[str, Tensor]] | None:
        """(step, tensors) to go on from, or None. A damaged file is set aside."""
        found = _read_or_set_aside(self._state, read_container)
        return None if found is None else (int(json.loads(found[0])["step"]), found[1])

    def clear(self) -> None:
        """Forget the run. Raises :class:`B4MError` where its files cannot be taken away."""
        for file in (self._state, self._adapter):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise B4MError(
                    f"{file} cannot be removed to train anew ({error.strerror or error}): close what uses it."
                ) from error


def _read_or_set_aside(path: Path, read: Any) -> Any:
    if not path.exists():
        return None
    try:
        return read(path)
    except UnreadableFile:
        raise  # a disk that is away for a moment is no reason to train again
    except B4MError:
        shutil.move(path, path.with_suffix(".damaged"))
        return None


def _lock(file: IO[bytes]) -> None:
    """An exclusive lock that the system frees when the process ends. Raises BlockingIOError while another holds it.

    A file system without locks (network shares, FUSE) gives none, and the run goes on: two ComfyUIs on one run is the
    rarer harm.
    """
    try:
        _take(file)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(*error.args) from error


def _take(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
