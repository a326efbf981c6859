"""Pictures as artists have them: any kind, size, mode and orientation, with captions and masks; a bad one never costs
the good ones.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from . import masks as mask_files
from . import wired
from .caption_notes import Told, caption_notes, require_pattern, summary
from .captions import fill_caption
from .errors import B4MError
from .metadata import Concept
from .picture_files import NotRead, open_picture, to_rgb
from .picture_folder import FolderContents, look_through
from .picture_kinds import shown
from .remarks import remarks

LONGEST_RATIO = 4.0
MOST_KEPT, MOST_TOGETHER, LEAST_KEPT = 8_400_000, 700_000_000, 1_050_000
"""Pixels that are kept of a picture (twice what the largest training sees), of a whole set, and of each in a set so
large that this is little: 25 MB a picture, 2.1 GB a set of up to 666, and 3.2 MB for each one more."""


@dataclass(frozen=True)
class Picture:
    """One picture: ``pixels`` (H, W, 3) uint8, ``mask`` (H, W) uint8 (255 counts) or None, and its caption.

    ``size`` (height, width) is that of the file, where the picture was made smaller to be kept.
    """

    name: str
    pixels: np.ndarray
    caption: str
    mask: np.ndarray | None = None
    size: tuple[int, int] | None = None

    @property
    def original(self) -> tuple[int, int]:
        """(height, width) of what the artist has."""
        return self.size or (self.pixels.shape[0], self.pixels.shape[1])

    def flipped(self) -> "Picture":
        """The mirror image."""
        mask = None if self.mask is None else np.ascontiguousarray(self.mask[:, ::-1])
        return Picture(self.name + " (flipped)", np.ascontiguousarray(self.pixels[:, ::-1]), self.caption, mask, self.size)

    def digest(self) -> str:
        """sha256 over everything that training sees of it; the file name is not part of that."""
        size = "" if self.original == self.pixels.shape[:2] else f"{self.size}|"
        digest = hashlib.sha256(f"{self.pixels.shape}|{self.caption}|{self.mask is not None}|{size}".encode())
        for array in (self.pixels, self.mask):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Source:
    """What :func:`load_folder` was told, enough to read a set again."""

    folder: Path
    pattern: str
    use_masks: bool


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one subject or one style, its trigger and class word, and ``notes`` about what was left out and
    why.

    ``kind`` is that of an auxiliary set ("styles", "contents", or nothing); ``told`` is what is said of the whole set;
    ``source`` is the folder that it was read from, None for pictures from anywhere else.
    """

    pictures: tuple[Picture, ...]
    trigger: str = ""
    class_word: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)
    kind: str = field(default="", compare=False)
    told: str = field(default="", compare=False)
    source: Source | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.pictures:
            reasons = " ".join(self.notes)
            raise B4MError(
                f"There are no pictures to train on. {reasons} Add at least one PNG, JPEG or WebP picture.".replace(
                    "  ", " "
                )
            )

    def concept(self) -> Concept:
        """What this set teaches, in its words."""
        return Concept.of(self.trigger, self.class_word, self.prompts())

    def prompts(self) -> tuple[str, ...]:
        """The captions, each once, in order."""
        return tuple(dict.fromkeys(picture.caption for picture in self.pictures))

    def with_flips(self) -> "PictureSet":
        """The set and its mirror images."""
        both = tuple(version for picture in self.pictures for version in (picture, picture.flipped()))
        return replace(self, pictures=both)


def load_folder(
    folder: str | Path, *, trigger: str, class_word: str, pattern: str, use_masks: bool = True, auxiliary: bool = False
) -> PictureSet:
    """All pictures directly in ``folder``, by name; captions from files beside them (captions.py) or else from ``pattern``.

    Masks come from files (masks.py) or else from transparency, when ``use_masks``. What is not read is named in the notes.
    Raises :class:`B4MError` when the folder is missing, no picture is left, or the pattern cannot be filled in. An
    ``auxiliary`` set teaches no word, so nothing is said about its captions.
    """
    require_pattern(pattern)
    folder = Path(folder)
    contents = look_through(folder)
    reader = _Reader(contents, trigger, class_word, pattern, use_masks)
    pictures = [picture for file in contents.pictures if (picture := reader.read(file)) is not None]
    notes = [*reader.notes, *contents.notes]
    if not contents.pictures and not notes:
        notes = [f"The folder {folder.name} holds no pictures."]
    notes += contents.captions.notes
    if pictures and not auxiliary:
        empty = [name for name in contents.captions.empty if name not in contents.captions.texts]
        notes += caption_notes(reader.told, trigger, class_word, pattern, empty)
    notes += remarks(pictures)
    source = Source(folder.absolute(), pattern, use_masks)
    return PictureSet(tuple(pictures), trigger, class_word, tuple(notes), told=summary(reader.told, trigger), source=source)


class _Reader:
    """Reads the pictures of one folder, one after the other, and keeps what is to be said."""

    def __init__(self, contents: FolderContents, trigger: str, class_word: str, pattern: str, use_masks: bool) -> None:
        self.contents, self.words, self.pattern, self.use_masks = contents, (trigger, class_word), pattern, use_masks
        self.most = max(LEAST_KEPT, min(MOST_KEPT, MOST_TOGETHER // max(len(contents.pictures), 1)))
        self.notes: list[str] = []
        self.told: list[Told] = []

    def read(self, file: Path) -> Picture | None:
        """One picture with its caption and mask, or None, and why."""
        name = shown(file.name)
        try:
            opened = open_picture(file, self.most, _unusable)
            if mask_files.is_called_mask(file) and mask_files.is_mask_like(opened):
                raise NotRead("it is a mask, and there is no picture of that name")
            pixels, alpha = to_rgb(opened)
        except NotRead as reason:
            self.notes.append(f"{name} was left out: {reason}.")
            return None
        self.notes += [f"{name}: {note}." for note in opened.notes]
        own = self.contents.captions.texts.get(file.name, "")
        caption = fill_caption(own or self.pattern, *self.words, file.stem)
        self.told.append(Told(file.name, file.stem, caption, bool(own)))
        mask = self._mask(file, pixels, alpha, opened.size) if self.use_masks else None
        return Picture(name, pixels, caption, mask, None if opened.size == pixels.shape[:2] else opened.size)

    def _mask(self, file: Path, pixels: np.ndarray, alpha: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
        beside = self.contents.masks.get(file.name)
        mask = None if beside is None else mask_files.read_mask(beside, size, self.most, self.notes)
        mask = alpha if mask is None else mask_files.resized(mask, pixels.shape)
        return _useful(mask, shown(file.name), self.notes)


def from_arrays(
    images: Iterable[np.ndarray],
    *,
    trigger: str,
    class_word: str,
    pattern: str,
    masks: Sequence[np.ndarray] | None = None,
    mask_sense: str = "1 is learned",
    captions: Sequence[str] = (),
    use_masks: bool = True,
) -> PictureSet:
    """Pictures from the graph: ``images`` (H, W, 3 or 4), floats in 0..1, with ``masks`` (H, W) and ``captions``, one
    for all or for each. ``mask_sense`` is one of masks.py's.

    An empty caption takes ``pattern``; transparency serves as a mask where there is no other. Raises :class:`B4MError`
    for what cannot be meant (wired.py) and where no picture is left.
    """
    require_pattern(pattern)
    images = list(images)
    for given, what in ((masks or (), "masks"), (captions, "captions")):
        if given and images:
            wired.one_each(given, len(images), what)
    pictures: list[Picture] = []
    notes: list[str] = []
    told: list[Told] = []
    empty: list[str] = []
    for index, image in enumerate(images):
        name = f"image {index + 1}"
        values, mask = wired.colours(image, name[0].upper() + name[1:], notes)
        pixels = _to_bytes(values)
        if reason := _unusable(pixels.shape[1], pixels.shape[0]):
            notes.append(f"{name} was left out: {reason}.")
            continue
        if masks and use_masks:
            mask = wired.mask_like(masks[min(index, len(masks) - 1)], pixels.shape[:2], name, notes)
            mask = mask_files.kept_by(mask, mask_sense, name, notes)
        own = captions[min(index, len(captions) - 1)].strip() if captions else ""
        empty += [name] if captions and not own else []
        caption = fill_caption(own or pattern, trigger, class_word, f"picture {index + 1}")
        told.append(Told(name, name, caption, bool(own)))
        kept = _useful(None if mask is None or not use_masks else mask_files.resized(_to_bytes(mask), pixels.shape), name, notes)
        pictures.append(_bounded(Picture(name, pixels, caption, kept), len(images)))
    notes += caption_notes(told, trigger, class_word, pattern, empty) if told else []
    return PictureSet(tuple(pictures), trigger, class_word, (*notes, *remarks(pictures)), told=summary(told, trigger))


def _bounded(picture: Picture, count: int) -> Picture:
    """A picture from the graph, made smaller where so many of its size would fill the memory."""
    height, width = picture.pixels.shape[:2]
    most = max(LEAST_KEPT, min(MOST_KEPT, MOST_TOGETHER // max(count, 1)))
    if height * width <= most:
        return picture
    scale = math.sqrt(most / (height * width))
    size = int(width * scale), int(height * scale)
    pixels = np.asarray(Image.fromarray(picture.pixels).resize(size, Image.Resampling.LANCZOS))
    mask = None if picture.mask is None else mask_files.resized(picture.mask, pixels.shape)
    return Picture(picture.name, pixels, picture.caption, mask, (height, width))


def _unusable(width: int, height: int) -> str:
    if max(width, height) > LONGEST_RATIO * min(width, height):
        return f"at {width} x {height} pixels it is too long and narrow (more than {LONGEST_RATIO:.0f} to 1): cut it"
    if min(width, height) < 32:
        return f"at {width} x {height} pixels it is too small: use a larger one"
    return ""


def _useful(mask: np.ndarray | None, name: str, notes: list[str]) -> np.ndarray | None:
    """A mask that says something; an empty one would leave nothing to learn from."""
    if mask is not None and mask.max(initial=0) == 0:
        notes.append(f"The mask of {name} is empty and was not used.")
        return None
    return None if mask is None or mask.min(initial=255) == 255 else mask


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return (np.asarray(values, dtype=np.float32).clip(0, 1) * 255).round().astype(np.uint8)
