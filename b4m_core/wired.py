"""What comes by wire for a set of pictures: what cannot be meant is refused in one sentence, before anything runs.

IMAGE is (number, height, width, 3), MASK (number, height, width), both floats in 0..1.
"""

from collections.abc import Sequence

import numpy as np

from .errors import B4MError

_FURTHEST, _SEEN = 0.25, 1 / 255  # how far resizing and sharpening may overshoot 0..1; what the eye could see of it
_SHAPE_TOLERANCE = 0.02
_DIMENSIONS = {"image": ((4,), "4 (number, height, width, colours)"), "mask": ((2, 3), "3 (number, height, width)")}


def single(batches: Sequence[np.ndarray], what: str) -> list[np.ndarray]:
    """The single pictures or masks of some batches, (H, W, C) or (H, W), in order.

    ``what`` is "image" or "mask". Raises :class:`B4MError` for an array of another shape, an empty batch or numbers
    that are not floats.
    """
    ranks, wanted = _DIMENSIONS[what]
    found: list[np.ndarray] = []
    for number, batch in enumerate(batches, start=1):
        where = f"{what}s" if len(batches) == 1 else f"Entry {number} of {what}s"
        if batch.ndim not in ranks:
            kind = "an IMAGE" if what == "image" else "a MASK"
            raise B4MError(f"{where} has {batch.ndim} dimensions and should have {wanted}: connect {kind}.")
        if not batch.size:
            shape = " x ".join(map(str, batch.shape))
            raise B4MError(f"{where} is an empty batch (its shape is {shape}): connect a node that gives at least one.")
        if batch.dtype.kind != "f":
            raise B4MError(
                f"{where} holds {batch.dtype} numbers, and pictures and masks are floats from 0 to 1: convert it first."
            )
        found += [batch] if batch.ndim < max(ranks) else list(batch)
    return found


def colours(image: np.ndarray, name: str, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3) in 0..1 of an image (H, W, 3 or 4), transparency laid on white, and its (H, W) alpha or None."""
    channels = image.shape[-1]
    if channels not in (3, 4):
        raise B4MError(
            f"{name} has {channels} channel{'' if channels == 1 else 's'}, and a picture has 3 (red, green, blue) "
            "or 4 (with transparency): convert it to RGB first."
        )
    image = in_range(image, name, notes)
    if channels == 3:
        return image, None
    alpha = image[..., 3]
    return image[..., :3] * alpha[..., None] + (1 - alpha[..., None]), alpha if alpha.min() < 1 else None


def in_range(values: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    """The values cut to 0..1. Raises :class:`B4MError` for NaN and for what lies far outside; a visible overshoot is
    noted.
    """
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise B4MError(
            f"{name} holds NaN or infinity instead of numbers: a node before it failed, often a VAE in half precision."
        )
    low, high = float(values.min()), float(values.max())
    if low < -_FURTHEST or high > 1 + _FURTHEST:
        raise B4MError(
            f"{name} has values from {low:.3g} to {high:.3g}, and they should lie from 0 to 1: scale it first."
        )
    if low < -_SEEN or high > 1 + _SEEN:
        notes.append(f"{name} has values from {low:.3g} to {high:.3g}; they were cut to 0 to 1.")
    return values.clip(0, 1)


def mask_like(mask: np.ndarray, size: tuple[int, int], name: str, notes: list[str]) -> np.ndarray:
    """A mask for a picture of ``size`` (height, width). Raises :class:`B4MError` where its shape is another, unless it
    is empty, which is how ComfyUI's *Load Image* says that there is none."""
    mask = in_range(mask, f"The mask of {name}", notes)
    (height, width), (tall, wide) = mask.shape, size
    if mask.max() > 0 and abs(width * tall / (height * wide) - 1) > _SHAPE_TOLERANCE:
        raise B4MError(
            f"The mask of {name} is {width} x {height} and the picture {wide} x {tall}, which is another shape: "
            "connect the mask of that picture."
        )
    return mask


def one_each(values: Sequence[object], count: int, what: str) -> None:
    """Raise :class:`B4MError` unless there is one for all pictures or one for each."""
    if len(values) not in (1, count):
        raise B4MError(
            f"There are {len(values)} {what} for {count} picture{'' if count == 1 else 's'}: "
            "connect one for all, or one for each in the same order."
        )
