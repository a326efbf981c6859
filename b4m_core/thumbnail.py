"""Pictures as text: the thumbnail in the header of an adapter's file, and what the page of the host shows."""

import base64
import binascii
import io

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .painted import as_bytes

SIDE, MOST_TEXT = 384, 1 << 18
"""Pixels of a thumbnail's longer side; letters of the longest that is taken from a file."""
_BEGINNING = "data:image/jpeg;base64,"


def data_url(picture: Tensor, side: int = SIDE) -> str:
    """A picture (H, W, 3) in 0..1 as a JPEG data URL no larger than ``side`` pixels."""
    image = Image.fromarray(as_bytes(picture))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return _BEGINNING + base64.b64encode(buffer.getvalue()).decode()


def usable(text: object) -> str:
    """A thumbnail out of a file's header, if it is one of ours; else nothing."""
    return text if isinstance(text, str) and text.startswith(_BEGINNING) and len(text) <= MOST_TEXT else ""


def as_png(url: str) -> bytes | None:
    """A thumbnail as the bytes of a PNG; None where it is no picture after all."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix(_BEGINNING), validate=True)), formats=["JPEG"])
        if max(picture.size) > 2 * SIDE:
            return None
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError):
        return None
    return buffer.getvalue()
