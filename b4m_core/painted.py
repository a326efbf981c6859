"""Pictures that a model painted, kept as PNG files with a checksum over what they were painted for and their pixels, so
that two that were exchanged are found too; and pixels as the bytes that such files hold.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .atomic import write_atomically
from .errors import B4MError

_CHECKSUM = "b4m.sha256"


def as_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels in 0..1 of any shape and device as uint8, in main memory."""
    values: np.ndarray = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return values


def kept_or_painted(file: Path, key: str, side: int, paint: Callable[[], Tensor]) -> np.ndarray:
    """The picture of ``key`` in ``file``, (H, W, 3) uint8 of at most ``side`` pixels, or else what ``paint`` gives
    ((H, W, 3) in 0..1), which is kept there.
    """
    kept = kept_picture(file, key, side)
    if kept is not None:
        return kept
    values = as_bytes(paint())
    _write_png(file, values, key)
    return values


def kept_picture(file: Path, key: str, side: int) -> np.ndarray | None:
    """The picture of ``key``, (H, W, 3) uint8; None where there is none, or it is damaged or another's."""
    if not file.is_file():
        return None
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if image.mode != "RGB" or max(image.size) > side:  # nothing is unpacked that we did not write
                return None
            pixels = np.asarray(image).copy()
            told = image.info.get(_CHECKSUM)
    except Exception:  # Pillow raises whatever it likes over bytes that make no sense; the picture is painted again
        return None
    return pixels if told == _checksum(key, pixels) else None


def _write_png(file: Path, pixels: np.ndarray, key: str) -> None:
    buffer, facts = io.BytesIO(), PngInfo()
    facts.add_text(_CHECKSUM, _checksum(key, pixels))
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=facts)

    def check(partial: Path) -> None:
        if kept_picture(partial, key, max(pixels.shape)) is None:
            raise B4MError(f"{file.name} did not read back as it was written: check the disk and run it again.")

    write_atomically(file, [buffer.getvalue()], check)


def _checksum(key: str, pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{key}|{pixels.shape}|".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
