"""A folder of pictures as it is looked after by hand: their order, captions beside them, small views, and taking one out.

Nothing is deleted: what is taken out moves to a subfolder, with its caption and mask.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from . import captions, masks, picture_kinds
from .atomic import write_atomically
from .errors import B4MError
from .picture_files import NotRead, open_picture, to_rgb
from .picture_folder import FolderContents, look_through
from .picture_kinds import REMOVED
from .picture_order import ORDER_FILE

LONGEST_CAPTION = 2000
_SIDE = 256
_PIXELS = (2 * _SIDE) ** 2  # that a picture is opened with before it is made small
_OUTSIDE = 0.25  # how bright a view is where its mask says that nothing is learned


@dataclass(frozen=True)
class Entry:
    """One picture of a folder: ``caption`` is the text of its .txt file (empty without one), ``mask`` the name of its
    mask file (empty without one), ``stamp`` changes with the picture and with its mask.
    """

    name: str
    caption: str
    mask: str
    stamp: str


def entries(folder: Path) -> list[Entry]:
    """The pictures of a folder in the order in which they are trained on."""
    contents = look_through(folder)
    return [
        Entry(
            file.name,
            contents.captions.texts.get(file.name, ""),
            mask.name if (mask := contents.masks.get(file.name)) else "",
            _stamp(file, mask),
        )
        for file in contents.pictures
    ]


def removed(folder: Path) -> list[str]:
    """The pictures that were taken out of a folder."""
    inner = folder / REMOVED
    return [file.name for file in look_through(inner).pictures] if inner.is_dir() else []


def view(folder: Path, name: str, masked: bool) -> bytes:
    """A picture as a JPEG of at most 256 pixels, upright, darkened outside its mask when ``masked``."""
    file, contents = _found(folder, name)
    mask = contents.masks.get(file.name)
    return _view(file, mask if masked else None, masked, _stamp(file, mask))


def write_caption(folder: Path, name: str, text: str) -> None:
    """Put ``text`` into the .txt file of a picture; an empty one takes the file away, so that the pattern counts."""
    file = _found(folder, name)[0].with_suffix(".txt")
    words = " ".join(text.replace("\0", " ").split())
    if len(words) > LONGEST_CAPTION:
        raise B4MError(f"The caption of {name} is longer than {LONGEST_CAPTION} letters: shorten it.")
    if words:
        content = (words + "\n").encode()
        write_atomically(file, [content], check=lambda written: _require(written.read_bytes() == content, file))
    else:
        _tried(file, lambda: file.unlink(missing_ok=True))


def write_order(folder: Path, names: Sequence[str]) -> None:
    """Keep the order of a folder's pictures; names that it does not hold are refused."""
    for name in names:
        _found(folder, name)
    content = "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
    file = folder / ORDER_FILE
    write_atomically(file, [content], check=lambda written: _require(written.read_bytes() == content, file))


def take_out(folder: Path, name: str) -> None:
    """Move a picture into the subfolder ``b4m_removed``, with its caption and mask."""
    _move(*_found(folder, name), _inner(folder))


def put_back(folder: Path, name: str) -> None:
    """Move a picture that was taken out back into its folder."""
    _move(*_found(_inner(folder), name), folder)


def _inner(folder: Path) -> Path:
    """Where what was taken out lies. Raises B4MError for a link, which may lead anywhere."""
    inner = folder / REMOVED
    if inner.is_symlink():
        raise B4MError(f"{REMOVED} in the folder {folder.name} is a link: B4M moves no pictures through it.")
    return inner


def _found(folder: Path, name: str) -> tuple[Path, FolderContents]:
    """The picture of that name directly in a folder, and all that lies there; B4MError for any other name."""
    if folder.is_dir():
        contents = look_through(folder)
        for each in contents.pictures:
            if each.name == name:
                return each, contents
    raise B4MError(f"There is no picture of that name in the folder {folder.name} any more: look again.")


def _stamp(file: Path, mask: Path | None) -> str:
    looks = [each.stat() for each in (file, mask) if each is not None]
    return "-".join(f"{look.st_mtime_ns:x}.{look.st_size:x}" for look in looks)


@lru_cache(maxsize=256)
def _view(file: Path, mask: Path | None, masked: bool, stamp: str) -> bytes:
    """As :func:`view`; ``stamp`` makes a changed picture another one."""
    try:
        pixels, inside = to_rgb(open_picture(file, _PIXELS))
    except NotRead as error:
        raise B4MError(f"{picture_kinds.shown(file.name)} cannot be shown: {error}.") from error
    pixels = _small(pixels)
    beside = None if mask is None else masks.read_mask(mask, pixels.shape[:2], _PIXELS, [])
    inside = inside if beside is None else beside
    inside = None if inside is None else masks.resized(inside, pixels.shape)
    if masked and inside is not None and inside.max(initial=0) > 0:
        share = _OUTSIDE + (1 - _OUTSIDE) * inside[:, :, None].astype(np.float32) / 255
        pixels = (pixels * share).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _small(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


def _move(file: Path, contents: FolderContents, folder: Path) -> None:
    """Move a picture with what belongs to it; a file that lies there already is left alone, and the other gets a number."""
    names = {captions.key_of(file.stem), captions.key_of(file.name)}
    texts = [each for each in picture_kinds.entries(file.parent) if captions.is_caption(each) and captions.key_of(each.stem) in names]
    mask = contents.masks.get(file.name)
    belongings = [file, *texts, *([mask] if mask is not None and mask.parent == file.parent else [])]
    _tried(folder, lambda: folder.mkdir(exist_ok=True))
    stem, number = file.stem, 1
    while any((folder / _renamed(each, file.stem, stem)).exists() for each in belongings):
        number += 1
        stem = f"{file.stem}_{number}"
    for each in belongings:
        target = folder / _renamed(each, file.stem, stem)
        _tried(each, partial(os.rename, each, target))


def _renamed(file: Path, old: str, new: str) -> str:
    return new + file.name.removeprefix(old)


def _tried(file: Path, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        raise B4MError(f"{file.name} cannot be changed ({error.strerror or error}): close what uses it.") from error


def _require(right: bool, file: Path) -> None:
    if not right:
        raise B4MError(f"{file.name} could not be read back as it was written: check the disk.")
