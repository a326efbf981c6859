"""Aspect-ratio buckets: every picture keeps its shape as far as a few sizes of one area allow."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from .pictures import LONGEST_RATIO, Picture


class Bucket(NamedTuple):
    """A training size in pixels."""

    height: int
    width: int


class Crop(NamedTuple):
    """A picture cut to a bucket: ``pixels`` (h, w, 3) uint8, ``mask`` (h, w) uint8 or None, and where it was cut from
    what.

    ``geometry`` = (original height, original width, top, left, target height, target width); top and left are where the
    crop begins in the resized picture.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    geometry: tuple[int, int, int, int, int, int]


def buckets(resolution: int) -> list[Bucket]:
    """Sizes of about ``resolution`` squared pixels, sides in steps of 64 (32 below 512), the square first."""
    step = 64 if resolution >= 512 else 32
    square = Bucket(resolution, resolution)
    found = {square: None}
    for width in range(step, int(resolution * LONGEST_RATIO**0.5) + 1, step):
        height = resolution * resolution // width // step * step
        if height and max(width, height) <= LONGEST_RATIO * min(width, height):
            found[Bucket(height, width)] = None
    return list(found)


def nearest_bucket(height: int, width: int, resolution: int) -> Bucket:
    """The bucket whose shape is nearest to that of a picture (least cut away); the square wins a tie."""
    return min(
        buckets(resolution), key=lambda bucket: abs(np.log(bucket.width / bucket.height) - np.log(width / height))
    )


def crop_to(picture: Picture, bucket: Bucket) -> Crop:
    """The picture resized to cover the bucket and cut in the middle."""
    height, width = picture.pixels.shape[:2]
    scale = max(bucket.height / height, bucket.width / width)
    size = max(bucket.width, round(width * scale)), max(bucket.height, round(height * scale))
    left, top = (size[0] - bucket.width) // 2, (size[1] - bucket.height) // 2
    box = (left, top, left + bucket.width, top + bucket.height)

    def cut(array: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.LANCZOS).crop(box)).copy()

    mask = None if picture.mask is None else cut(picture.mask)
    return Crop(cut(picture.pixels), mask, (*picture.original, top, left, bucket.height, bucket.width))
