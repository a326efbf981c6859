"""A safetensors file that carries its own checksum, read back before it counts.

The sha256 under the header key ``b4m.sha256`` covers the text under ``b4m``, the table of tensors and their data; any
safetensors reader reads the rest as usual.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from .atomic import write_atomically
from .errors import B4MError


class UnreadableFile(B4MError):
    """A file that the system does not let us read now; what is in it may be whole."""


class ForeignFile(B4MError):
    """A safetensors file without facts of ours: another tool's."""


class RewrittenFile(B4MError):
    """A container that another program wrote again, with other numbers: its checksum no longer fits."""


_THEIR_ORDER = ["dtype", "shape", "data_offsets"]
"""How every other writer orders an entry of the table; ours is sorted, and no damage turns one into the other."""
_PIECE = 1 << 22
MOST_TENSORS = 8000  # those of SDXL's 560 layers are 1,680
MOST_TEXT, _MOST_HEADER = (
    1 << 20,
    1 << 23,
)  # bytes; the text of a real adapter has some kilobytes, its table of tensors 200


def write_container(
    path: Path,
    tensors: Mapping[str, Tensor],
    text: str,
    more: Callable[[str], dict[str, str]] = lambda data_sha256: {},
    *,
    over: bool = True,
) -> None:
    """Write ``tensors`` (CPU, contiguous) and ``text``; ``more`` gives further header entries from the sha256 of the
    tensor data. ``over``: whether a file of that name is replaced.
    """
    plain = memoryview(safetensors.torch.save(dict(tensors)))
    start = 8 + int.from_bytes(plain[:8], "little")
    data = plain[start:]
    table = json.loads(bytes(plain[8:start]))
    with ThreadPoolExecutor(1) as beside:  # hashlib lets other threads run, so that both sums take the time of one
        ours = beside.submit(_digest, text, table, [data])
        metadata = {**more(hashlib.sha256(data).hexdigest()), "b4m": text, "b4m.sha256": ours.result()}
    header = _canonical({"__metadata__": metadata, **table})
    header += b" " * (-len(header) % 8)
    write_atomically(
        path,
        [len(header).to_bytes(8, "little"), header, data],
        check=lambda partial: _require_equal(partial, text, path.name),
        over=over,
    )


def read_text(path: Path) -> str:
    """The text of a container, its checksum not tested. Raises :class:`B4MError` for a missing, damaged or foreign
    file.
    """
    return read_metadata(path)["b4m"]


def read_metadata(path: Path) -> dict[str, str]:
    """All header entries of a container, checked as little."""
    return _metadata(path, path.name)


def read_container(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The text and the tensors, checksum tested. Raises :class:`B4MError` for a missing, damaged or foreign file."""
    return verified_text(path), plain_tensors(path)


def verified_text(path: Path, shown: str | None = None) -> str:
    """The text of a container whose checksum is right."""
    shown = shown or path.name
    metadata = _metadata(path, shown)
    with _readable(shown), open(path, "rb") as file:
        table = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        table.pop("__metadata__")
        actual = _digest(metadata["b4m"], table, iter(lambda: file.read(_PIECE), b""))
    if actual != metadata.get("b4m.sha256"):
        if "b4m.sha256" in metadata and all(list(entry) == _THEIR_ORDER for entry in table.values()):
            raise RewrittenFile(f"{shown} was changed by another program since B4M saved it, so it cannot be used here.")
        raise B4MError(f"{shown} is damaged: its checksum does not match its contents; download or train it again.")
    return metadata["b4m"]


def _metadata(path: Path, shown: str) -> dict[str, str]:
    """All header entries, looked at before anything is unpacked. Raises :class:`B4MError` as :func:`read_text` does."""
    with _readable(shown):
        if not (path.is_file() or path.is_dir()) and path.exists():  # to open a pipe is to wait for ever
            raise B4MError(f"{shown} is no ordinary file but a pipe or a device: choose another file.")
    with _readable(shown), open(path, "rb") as start:
        size = int.from_bytes(start.read(8), "little")
        if _MOST_HEADER < size < path.stat().st_size:  # parsing it would take minutes and gigabytes
            raise B4MError(
                f"{shown} has a header of {size / 1e6:.0f} MB, which no file of B4M has: it is damaged or no adapter."
            )
    try:
        with _readable(shown), safetensors.safe_open(path, "pt", device="cpu") as file:
            metadata, count = dict(file.metadata() or {}), len(file.keys())
    except (SafetensorError, ValueError) as error:
        if isinstance(error, B4MError):
            raise
        raise B4MError(
            f"{shown} is damaged or not a safetensors file ({error}): download or train it again."
        ) from error
    if count > MOST_TENSORS:
        raise B4MError(f"{shown} holds {count} tensors, which no adapter has: it is damaged or no adapter.")
    if "b4m" not in metadata:
        raise ForeignFile(f"{shown} holds no facts of B4M: another tool made it.")
    if len(metadata["b4m"].encode()) > MOST_TEXT:
        raise B4MError(
            f"The B4M facts in {shown} have more than {MOST_TEXT / 1e6:.0f} MB: it is damaged, so download or train it again."
        )
    return metadata


@contextlib.contextmanager
def _readable(shown: str) -> Iterator[None]:
    """Says in a sentence why the system does not let us read a file."""
    try:
        yield
    except FileNotFoundError as error:
        raise B4MError(f"{shown} is not there any more: choose another file.") from error
    except OSError as error:
        raise UnreadableFile(
            f"{shown} cannot be read ({error.strerror or error}): check its disk, and that it may be read."
        ) from error
    except (MemoryError, RuntimeError) as error:  # torch says so of a file that it cannot map
        raise UnreadableFile(f"{shown} cannot be read (memory ran out): close other programs and try again.") from error
    except SafetensorError as error:
        if "os error" not in str(error):  # the library's words for what the system said
            raise
        raise UnreadableFile(
            f"{shown} cannot be read ({error}): check its disk, and close programs that need much memory."
        ) from error


def plain_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, its checksum not tested."""
    with _readable(path.name), safetensors.safe_open(path, "pt", device="cpu") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def _canonical(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _digest(text: str, table: object, pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256(text.encode() + b"\0" + _canonical(table) + b"\0")
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _require_equal(partial: Path, text: str, shown: str) -> None:
    if verified_text(partial, shown) != text:
        raise B4MError(f"{shown} did not read back as it was written: check the disk and run it again.")
