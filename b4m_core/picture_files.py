"""One picture file of any kind as upright pixels, or one sentence why not.

Whatever the file claims, memory is bounded: a picture of more than ``MOST_PIXELS`` is named before it is unpacked, and a
large one is made smaller piece by piece while it is converted. A JPEG is unpacked smaller at once where it may be.
"""

import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from .foreign_files import of_a_kind_not_read, what_else
from .srgb import converted

MOST_PIXELS = 210_000_000
"""A photo of 200 megapixels, as phones take them; unpacked it takes 0.8 GB for a moment."""
_FORMATS = (
    "PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "TGA", "ICO", "CUR", "ICNS", "PSD", "PCX", "PPM",
    "SGI", "QOI", "DDS",
)  # fmt: skip
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
_FRAMES, _FRAMES_LOOKED_AT, _NEARLY = 240, 24, 0.8  # of an animation; the first is kept when it shows nearly as much
_MOST_TEXT = 256 * 2**20  # bytes of text and profile in a PNG: the workflow of a large graph is one such text
_STRIP_PIXELS, _ROWS = 4_000_000, 256  # worked on at once
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_TOO_MANY = f"it has more than {MOST_PIXELS / 1e6:.0f} million pixels, the most that is read: make it smaller"
_lock = threading.RLock()
Usable = Callable[[int, int], str]
"""(width, height) to a reason against a picture of that size, or nothing."""


class NotRead(Exception):
    """Why a file is no picture for us: a clause for "x was left out: ..."."""


@dataclass
class Opened:
    """A picture of mode L, LA, RGB, RGBA or CMYK with 8 bits, upright and no larger than was asked for.

    ``size`` (height, width) is what the file has; ``notes`` are clauses about how it was read.
    """

    image: Image.Image
    size: tuple[int, int]
    info: dict[str, Any]
    adobe: bool = False
    notes: list[str] = field(default_factory=list)


def open_picture(file: Path, most_pixels: int, usable: Usable = lambda width, height: "") -> Opened:
    """The picture in a file, of at most ``most_pixels``. Raises :class:`NotRead` for anything else, whatever it holds.

    """
    head = b""
    try:
        if not file.is_file():
            raise NotRead("it is a folder, not a picture" if file.is_dir() else "it is not there, or no file")
        with open(file, "rb") as stream, _generous_limits():
            head = stream.read(1024)
            if reason := what_else(head):
                raise NotRead(reason)
            stream.seek(0)
            return _unpacked(stream, head, most_pixels, usable)
    except NotRead:
        raise
    except Exception as error:  # the libraries' readers raise whatever they like over bytes that make no sense
        raise NotRead(_reason(error, head)) from error


def to_rgb(opened: Opened) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3) uint8 pixels in sRGB, transparency laid on white, and the (H, W) uint8 alpha or None.

    Alpha that is empty says nothing and is left away: what lies under it is the picture.
    """
    image = opened.image
    colours = image.convert("RGB") if image.mode == "RGBA" else image.convert("L") if image.mode == "LA" else image
    flat = np.asarray(converted(colours, opened.info, adobe=opened.adobe, notes=opened.notes))
    if image.mode not in ("LA", "RGBA"):
        return flat.copy(), None
    alpha = np.asarray(image.getchannel("A")).copy()
    if alpha.max(initial=0) == 0:
        opened.notes.append("it is transparent everywhere, so its transparency was not used")
        return flat.copy(), None
    over = Image.composite(Image.fromarray(flat), Image.new("RGB", image.size, "white"), Image.fromarray(alpha))
    return np.asarray(over).copy(), alpha


@contextmanager
def _generous_limits() -> Iterator[None]:
    """Pillow's own limits, which end in words for programmers, give way to ours while one file is read."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # above twice that, Pillow refuses
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = _MOST_TEXT, 2 * _MOST_TEXT
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = kept


def _unpacked(stream: BinaryIO, head: bytes, most: int, usable: Usable) -> Opened:
    """The picture upright and with eight bits, not much larger than ``most`` pixels. Raises :class:`NotRead` for one that is
    too large or that ``usable`` gives a reason against.
    """
    with _image(stream, head) as image:
        notes: list[str] = []
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise NotRead(_TOO_MANY)
        _draft(image, most)
        turn = _orientation(image)  # of a PNG that has none, this unpacks it
        if turn in (5, 6, 7, 8):
            width, height = height, width
        if reason := usable(width, height):
            raise NotRead(reason)
        _choose_frame(image, notes)
        image.load()
        upright = with_eight_bits(image, most)
        if turn in _TURNS:
            upright = upright.transpose(_TURNS[turn])
        info = {str(key): value for key, value in image.info.items()}
        if image.mode == "LAB":  # converted already, and its profile speaks of Lab
            info.pop("icc_profile", None)
        return Opened(upright, (height, width), info, _says_adobe(image), notes)


def _image(stream: BinaryIO, head: bytes) -> Image.Image:
    """The file as an image that is not unpacked yet."""
    brands = head[8:64] if head[4:8] == b"ftyp" else b""
    if brands and b"avif" not in brands and b"avis" not in brands:
        return _by_library("HEIC", stream)
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL")):
        return _by_library("JPEG XL", stream)
    Image.init()
    try:
        return Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        if brands:
            raise NotRead("it is an AVIF picture, damaged or for a newer Pillow (11.3): save it as PNG") from None
        raise


def _by_library(kind: str, stream: BinaryIO) -> Image.Image:
    """A HEIC or JPEG XL by the library beside Pillow that reads it. Raises NotRead where that is not installed."""
    try:
        if kind == "HEIC":
            from pillow_heif import HeifImageFile  # not registered with Pillow: other nodes keep what they had

            return cast(Image.Image, HeifImageFile(stream))
        from pillow_jxl.JpegXLImagePlugin import JXLImageFile

        return cast(Image.Image, JXLImageFile(stream))
    except ImportError:
        package = {"HEIC": "pillow-heif", "JPEG XL": "pillow-jxl-plugin"}[kind]
        raise NotRead(
            f"it is a {kind} picture, and {package} is not installed: save it as PNG or JPEG, or install {package} for ComfyUI"
        ) from None


def _draft(image: Image.Image, most: int) -> None:
    """Let a JPEG be unpacked at a half, a quarter or an eighth, as long as ``most`` pixels are left."""
    ratio = math.sqrt(most / (image.width * image.height))
    if ratio < 1:
        image.draft(None, (math.ceil(image.width * ratio), math.ceil(image.height * ratio)))


def _choose_frame(image: Image.Image, notes: list[str]) -> None:
    """Of an animation the frame that shows most, of a document with pages its largest; other extra images are a phone's own."""
    kind = image.format
    count = int(getattr(image, "n_frames", 1))
    if count < 2:
        return
    if kind == "TIFF":
        areas = {page: _page_area(image, page) for page in range(min(count, _FRAMES_LOOKED_AT))}
        best = max(areas, key=lambda page: areas[page])
        image.seek(best)
        notes.append(f"it has {count} pages, and page {best + 1} is used: save the others as files of their own")
    elif kind in _ANIMATED and image.width * image.height * 4 <= MOST_PIXELS:
        best = _best_frame(image, count)
        image.seek(best)
        notes.append(f"it is an animation of {count} frames, and {'the first' if not best else f'frame {best + 1}'} is used")


def _page_area(image: Image.Image, page: int) -> int:
    try:
        image.seek(page)
    except (EOFError, OSError, ValueError, SyntaxError, KeyError):
        return 0
    area = image.width * image.height
    return area if area <= MOST_PIXELS else 0


def _best_frame(image: Image.Image, count: int) -> int:
    """The number of the frame with most contrast over the largest opaque part; the first if it shows nearly as much."""
    last = min(count, _FRAMES) - 1
    numbers = sorted({round(index * last / (_FRAMES_LOOKED_AT - 1)) for index in range(_FRAMES_LOOKED_AT)})
    scores = {}
    for number in numbers:
        try:
            image.seek(number)
            frame = image.convert("RGBA").resize((64, 64), Image.Resampling.BOX)
        except (EOFError, OSError, ValueError, SyntaxError):
            break
        alpha = np.asarray(frame.getchannel("A"), dtype=np.float32) / 255
        grey = np.asarray(frame.convert("L"), dtype=np.float32)
        scores[number] = float(alpha.mean() * (1 + (grey * (alpha > 0.5)).std()))
    best = max(scores, key=lambda number: scores[number], default=0)
    return 0 if scores.get(0, 0) >= _NEARLY * scores.get(best, 0) else best


def with_eight_bits(image: Image.Image, most: int) -> Image.Image:
    """An unpacked image with 8 bits in one of the plain modes, of at most ``most`` pixels."""
    factor = max(1, math.floor(math.sqrt(image.width * image.height / most)))
    top_value = _brightest(image)
    if factor == 1:
        small = _plain(image, top_value)
    else:
        rows = max(factor, _STRIP_PIXELS // image.width // factor * factor)
        tops = range(0, image.height, rows)
        strips = [
            _reduced(_plain(image.crop((0, top, image.width, min(top + rows, image.height))), top_value), factor) for top in tops
        ]
        small = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
        for number, strip in enumerate(strips):
            small.paste(strip, (0, sum(before.height for before in strips[:number])))
    if small.width * small.height > most:
        scale = math.sqrt(most / (small.width * small.height))
        small = small.resize((int(small.width * scale), int(small.height * scale)), Image.Resampling.LANCZOS)
    return small


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """Made smaller, its colours weighed by alpha; where nothing is opaque, as they are."""
    if image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (0, 0):
        return Image.merge(image.mode, [band.reduce(factor) for band in image.split()])
    return image.reduce(factor)


def _brightest(image: Image.Image) -> float:
    """White in a mode of more than 8 bits: what the file's numbers may reach, told by what they do reach."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in ("I", "F"):
        return 255.0
    top = 0.0
    for row in range(0, image.height, _ROWS):
        values = np.asarray(image.crop((0, row, image.width, min(row + _ROWS, image.height))))
        top = max(top, float(values.max(initial=0, where=np.isfinite(values))))
    steps = (65535.0, 2.0**31 - 1, 2.0**32 - 1) if image.mode == "I" else (1.5, 255.5, 65535.0)
    reached = next((step for step in steps if top <= step), top)
    return {1.5: 1.0, 255.5: 255.0}.get(reached, reached)


def _plain(image: Image.Image, top: float) -> Image.Image:
    """The same in mode L, LA, RGB, RGBA or CMYK."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image).astype(np.float32 if mode != "I" else np.float64), posinf=top)
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if "transparency" in image.info and mode in ("1", "L", "RGB", "P"):
        return image.convert("RGBA")
    if mode in ("PA", "RGBa"):
        return image.convert("RGBA")
    if mode in ("1", "La"):
        return image.convert({"1": "L", "La": "LA"}[mode])
    return image if mode in ("L", "LA", "RGB", "RGBA", "CMYK") else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """How a camera was held; 1 where that is not said, or in a block that makes no sense."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as in open_picture
        return 1


def _says_adobe(image: Image.Image) -> bool:
    """Whether a camera wrote Adobe RGB without a profile: interoperability index R03 (DCF 2.0)."""
    try:
        found = image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except Exception:  # as in open_picture
        return False
    return str(found).strip("\0") == "R03"


def _reason(error: Exception, head: bytes) -> str:
    """Why a file could not be read, in words for people."""
    if isinstance(error, MemoryError):
        return "there is not enough memory to unpack it: make it smaller"
    if isinstance(error, Image.DecompressionBombError):
        return _TOO_MANY
    if isinstance(error, OSError) and error.errno:
        return f"it cannot be read ({os.strerror(error.errno)})"
    if special := of_a_kind_not_read(head):
        return special
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture, or a damaged one: save it again as PNG"
    return "it is damaged, or was not copied to its end: copy, download or save it again"

