"""What is worth a look in a set of pictures: doubled, nearly equal, blurred, empty and enlarged ones. Nothing is refused."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from .picture_kinds import listed

_SIDE = 512  # pixels at which blur is judged: what a training at that size can see
_LEAST_SIDE = 128
_LEAST_DETAIL = 0.06  # strength of edges for the contrast; photographs and drawings have 0.2 and more, blurred over 1 % of the side 0.02
_NEAR_BITS, _NEAR_LEVELS = 5, 6.0  # of 128 signs of gradients; of 255 levels at 16 x 16 pixels
_MOST_COMPARED = 1000


class Shown(Protocol):
    """A picture as far as it is looked at here."""

    @property
    def name(self) -> str:
        """Its file."""

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8."""


def remarks(pictures: Sequence[Shown]) -> list[str]:
    """Sentences about a set, each for all its pictures of a kind."""
    small = [_grey(picture.pixels) for picture in pictures]
    flat = [np.ptp(np.asarray(image.resize((32, 32), Image.Resampling.BOX))) < 4 for image in small]
    notes = _doubled(pictures, flat)
    if empty := [picture.name for picture, is_flat in zip(pictures, flat, strict=True) if is_flat]:
        notes.append(f"Of one colour all over: {listed(empty)}. Look whether that is meant.")
    blurred = [
        picture.name for picture, image, is_flat in zip(pictures, small, flat, strict=True) if not is_flat and is_blurred(image)
    ]
    if blurred:
        notes.append(f"Blurred, or enlarged from a small picture: {listed(blurred)}. The blur is learned too.")
    return notes


def enlarged(pictures: Sequence[Shown], resolution: int) -> list[str]:
    """A sentence about pictures that a training at ``resolution`` must enlarge by half and more."""
    factors = {picture.name: resolution / np.sqrt(picture.pixels.shape[0] * picture.pixels.shape[1]) for picture in pictures}
    found = {name: factor for name, factor in factors.items() if factor >= 1.5}
    if not found:
        return []
    return [
        f"Smaller than the training's {resolution} x {resolution} and enlarged up to {max(found.values()):.1f} times: "
        f"{listed(list(found))}. Larger ones give sharper results; or lower the resolution."
    ]


def is_blurred(grey: Image.Image) -> bool:
    """Whether a picture, in grey and no larger than a training's, has hardly any detail for the contrast that it has."""
    if min(grey.size) < _LEAST_SIDE:
        return False
    values = np.asarray(grey, dtype=np.float32)
    fine = 4 * values[1:-1, 1:-1] - values[:-2, 1:-1] - values[2:, 1:-1] - values[1:-1, :-2] - values[1:-1, 2:]
    strongest = np.percentile(np.abs(fine), 99)  # edges alone: large smooth areas are no blur
    return bool(strongest < _LEAST_DETAIL * 255 * min(1.0, float(np.std(values)) / 40))


def _doubled(pictures: Sequence[Shown], flat: Sequence[bool]) -> list[str]:
    """Pictures that come again, equal or nearly, each said once beside the first of its kind."""
    seen: dict[str, str] = {}
    notes = []
    single: list[int] = []
    for index, picture in enumerate(pictures):
        digest = hashlib.sha256(f"{picture.pixels.shape}".encode() + np.ascontiguousarray(picture.pixels).data).hexdigest()
        first = seen.setdefault(digest, picture.name)
        if first != picture.name:
            notes.append(f"{listed([picture.name])} is the same picture as {listed([first])}; it counts twice.")
        elif not flat[index]:
            single.append(index)
    single = single[:_MOST_COMPARED]
    signs, colours = np.empty((len(single), 128), dtype=bool), np.empty((len(single), 768), dtype=np.float32)
    for place, index in enumerate(single):
        signs[place], colours[place] = _look(pictures[index].pixels)
        close = (signs[:place] != signs[place]).sum(axis=1) <= _NEAR_BITS
        close &= np.abs(colours[:place] - colours[place]).mean(axis=1) <= _NEAR_LEVELS
        if close.any():
            one, other = pictures[index].name, pictures[single[int(close.argmax())]].name
            notes.append(f"{listed([one])} is nearly the same picture as {listed([other])}.")
    return notes


def _look(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signs of gradients (128,) and colours (768,) of a picture made tiny."""
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    signs = np.concatenate([(np.diff(grey, axis=1)[:8] > 0).ravel(), (np.diff(grey, axis=0)[:, :8] > 0).ravel()])
    return signs, np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float32).ravel()


def _grey(pixels: np.ndarray) -> Image.Image:
    """A picture in grey, its shorter side no longer than blur is judged at."""
    image = Image.fromarray(pixels).convert("L")
    scale = min(1.0, _SIDE / min(image.size))
    return image if scale == 1 else image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
