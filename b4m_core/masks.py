"""Masks of pictures: which files are masks by the habits of other trainers, what they say in any depth and mode, and
which way round a mask from the graph is meant.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .captions import key_of
from .picture_files import NotRead, Opened, open_picture
from .picture_kinds import shown

FOLDERS = frozenset(("mask", "masks", "matte", "mattes", "alpha", "alphas", "segmentation"))
"""Names of subfolders in which masks are looked for."""
_WORDS = "masklabel|mask|masks|matte|alpha|segmentation|seg"
_AFTER = re.compile(rf"(.+?)[ _.\-]+(?:{_WORDS})", re.IGNORECASE)
_BEFORE = re.compile(rf"(?:{_WORDS})[ _.\-]+(.+)", re.IGNORECASE)
_SHAPE_TOLERANCE = 0.05
SENSES = ("detect", "1 is left out", "1 is learned")
"""What a MASK from the graph marks: ComfyUI's own is what is transparent, a segmentation's is the subject."""


def pair_masks(pictures: Sequence[Path], inner: Sequence[Path]) -> tuple[dict[str, Path], list[Path]]:
    """The masks of pictures by the picture's name, and the files that are pictures. ``inner`` lie in a folder of masks.

    A file is a mask if it is called after another picture: a_mask.png, a-masklabel.png, mask_a.png, a.jpg.mask.png.
    """
    owners = {key_of(file.name): file for file in pictures} | {key_of(file.stem): file for file in reversed(pictures)}
    masks: dict[str, Path] = {}
    for file in inner:
        owner = owners.get(key_of(file.stem)) or owners.get(key_of(file.name)) or _owner(file, owners)
        if owner is not None:
            masks.setdefault(owner.name, file)
    left = []
    for file in pictures:
        owner = _owner(file, owners)
        if owner is None or owner == file:
            left.append(file)
        else:
            masks[owner.name] = file
    return masks, left


def _owner(file: Path, owners: dict[str, Path]) -> Path | None:
    """The picture that a mask is called after, by the word for a mask in its name."""
    named = next((found for pattern in (_AFTER, _BEFORE) if (found := pattern.fullmatch(file.stem))), None)
    return owners.get(key_of(named[1])) if named else None


def is_called_mask(file: Path) -> bool:
    """Whether a file's name has a word for a mask."""
    return bool(_AFTER.fullmatch(file.stem) or _BEFORE.fullmatch(file.stem))


def read_mask(file: Path, size: tuple[int, int], most_pixels: int, notes: list[str]) -> np.ndarray | None:
    """The mask in a file for a picture of ``size`` (height, width): (H, W) uint8, 255 where to train; None where there is none."""
    name = shown(file.name)
    try:
        opened = open_picture(file, most_pixels)
    except NotRead as reason:
        notes.append(f"The mask {name} was not used: {reason}.")
        return None
    (height, width), (tall, wide) = opened.size, size
    if abs(width * tall / (height * wide) - 1) > _SHAPE_TOLERANCE:
        notes.append(f"The mask {name} is {width} x {height} and has another shape than its picture, so it was stretched to fit.")
    grey = _grey(opened)
    top = int(grey.max(initial=0))
    if 0 < top < 128:  # numbers of labels, or a mask painted in dark grey
        notes.append(f"The mask {name} is dark (its brightest value is {top} of 255) and was made bright.")
        grey = (grey.astype(np.float32) * (255 / top)).round().astype(np.uint8)
    return grey


def is_mask_like(opened: Opened) -> bool:
    """Whether a picture is black and white alone."""
    grey = np.asarray(opened.image.convert("RGB"), dtype=np.int16)
    colourless = np.ptp(grey, axis=-1).max(initial=0) <= 8
    return bool(colourless and ((grey < 16) | (grey > 239)).mean() > 0.95)


def resized(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A mask (h, w) uint8 at ``size`` (H, W)."""
    if mask.shape == tuple(size[:2]):
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _grey(opened: Opened) -> np.ndarray:
    """The brightness of a mask file, or its alpha where all the rest is of one brightness."""
    image = opened.image
    bright = np.asarray(image.convert("RGB").convert("L"))
    if image.mode not in ("LA", "RGBA"):
        return bright
    alpha = np.asarray(image.getchannel("A"))
    varies = np.ptp(alpha) > 0
    inside = bright[alpha > 127]
    if varies and (not inside.size or np.ptp(inside) < 32):
        return alpha
    return (bright.astype(np.uint16) * alpha // 255).astype(np.uint8) if varies else bright


def kept_by(mask: np.ndarray, sense: str, name: str, notes: list[str]) -> np.ndarray:
    """What is to be learned, 1 in (H, W), of a MASK in 0..1 from the graph, in one of ``SENSES``.

    In ComfyUI a MASK is what is transparent. One that marks the middle of the picture, a large part of it, and hardly
    anything at its edge is plainly a subject, cut out by a segmentation: then it is taken so, and said.
    """
    if sense == "1 is learned":
        return mask
    if sense == "detect" and _marks_subject(mask):
        notes.append(
            f"The mask of {name} marks the middle and not the edges, so what it marks is learned. "
            "If it marks what is to be left out, choose mask_sense = 1 is left out."
        )
        return mask
    return 1 - mask


def _marks_subject(mask: np.ndarray) -> bool:
    height, width = mask.shape
    rim = max(1, round(min(height, width) * 0.03))
    sides = [mask[:rim].mean(), mask[-rim:].mean(), mask[:, :rim].mean(), mask[:, -rim:].mean()]
    middle = mask[height // 3 : height - height // 3, width // 3 : width - width // 3].mean()
    free = sum(side < 0.05 for side in sides)  # a subject may stand on the lower edge
    return bool(free >= 3 and max(sides) < 0.7 and middle > 0.5 and mask.mean() > 0.08)
