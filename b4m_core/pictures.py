"""Pictures as artists have them: any size, mode and orientation, with captions and masks; a bad one never costs the
good ones.
"""

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from . import wired
from .errors import B4MError
from .regular_files import reason_against

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
LONGEST_RATIO = 4.0
MASK_ENDING = "_mask"
_MOST_CAPTION = 100_000  # bytes
_TOP_OF_MODE = {"I": 65535.0, "F": 1.0}  # white in the modes that are not 8 bit


@dataclass(frozen=True)
class Picture:
    """One picture: ``pixels`` (H, W, 3) uint8, ``mask`` (H, W) uint8 (255 counts) or None, and its caption."""

    name: str
    pixels: np.ndarray
    caption: str
    mask: np.ndarray | None = None

    def flipped(self) -> "Picture":
        """The mirror image."""
        mask = None if self.mask is None else np.ascontiguousarray(self.mask[:, ::-1])
        return Picture(self.name + " (flipped)", np.ascontiguousarray(self.pixels[:, ::-1]), self.caption, mask)

    def digest(self) -> str:
        """sha256 over everything that training sees of it; the file name is not part of that."""
        digest = hashlib.sha256(f"{self.pixels.shape}|{self.caption}|{self.mask is not None}|".encode())
        for array in (self.pixels, self.mask):
            if array is not None:
                digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one subject or one style, its trigger and class word, and ``notes`` about what was left out and
    why.
    """

    pictures: tuple[Picture, ...]
    trigger: str = ""
    class_word: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.pictures:
            reasons = " ".join(self.notes)
            raise B4MError(
                f"There are no pictures to train on. {reasons} Add at least one PNG, JPEG or WebP picture.".replace(
                    "  ", " "
                )
            )

    def prompts(self) -> tuple[str, ...]:
        """The captions, each once, in order."""
        return tuple(dict.fromkeys(picture.caption for picture in self.pictures))

    def with_flips(self) -> "PictureSet":
        """The set and its mirror images."""
        both = tuple(version for picture in self.pictures for version in (picture, picture.flipped()))
        return PictureSet(both, self.trigger, self.class_word, self.notes)


def holds_pictures(folder: Path) -> bool:
    """Whether a folder has at least one file that looks like a picture."""
    try:
        return any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
    except OSError:
        return False


def fill_caption(pattern: str, trigger: str, class_word: str, name: str) -> str:
    """``pattern`` with {trigger}, {class} and {name} filled in and double spaces taken out."""
    words = {"{trigger}": trigger, "{class}": class_word, "{name}": name.replace("_", " ")}
    for placeholder, word in words.items():
        pattern = pattern.replace(placeholder, word)
    return " ".join(pattern.split())


def load_folder(folder: Path, *, trigger: str, class_word: str, pattern: str, use_masks: bool = True) -> PictureSet:
    """All pictures directly in ``folder``, by name; captions from ``name.txt`` or else from ``pattern``.

    Masks come from ``name_mask.png`` or else from transparency, when ``use_masks``. What cannot be read is left out and
    named in the notes. Raises :class:`B4MError` when the folder is missing or no picture is left.
    """
    if not folder.is_dir():
        raise B4MError(f"The folder {folder.name} is not there any more: choose another one.")
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise B4MError(
            f"The folder {folder.name} cannot be read ({error.strerror or error}): check that it may be."
        ) from error
    files = sorted((entry for entry in entries if entry.suffix.lower() in SUFFIXES), key=lambda entry: entry.name)
    pictures: list[Picture] = []
    notes: list[str] = []
    for file in files:
        if file.stem.endswith(MASK_ENDING) and any(
            other.stem == file.stem.removesuffix(MASK_ENDING) for other in files
        ):
            continue
        if reason := reason_against(file, folder):
            notes.append(f"{file.name} was left out: {reason}.")
            continue
        try:
            pictures.append(_read_picture(file, trigger, class_word, pattern, use_masks, notes))
        except Exception as error:  # the libraries' readers raise whatever they like over bytes that make no sense
            notes.append(f"{file.name} was left out: {_reason(error)}.")
    notes += _duplicates(pictures)
    return PictureSet(
        tuple(pictures),
        trigger,
        class_word,
        tuple(notes) if files else (f"The folder {folder.name} holds no pictures.",),
    )


def from_arrays(
    images: Iterable[np.ndarray],
    *,
    trigger: str,
    class_word: str,
    pattern: str,
    masks: Sequence[np.ndarray] | None = None,
    captions: Sequence[str] = (),
    use_masks: bool = True,
) -> PictureSet:
    """Pictures from the graph: ``images`` (H, W, 3 or 4), floats in 0..1, with ``masks`` (H, W) and ``captions``, one
    for all or for each.

    An empty caption takes ``pattern``; transparency serves as a mask where there is no other. Raises :class:`B4MError`
    for what cannot be meant (wired.py) and where no picture is left.
    """
    images = list(images)
    for given, what in ((masks or (), "masks"), (captions, "captions")):
        if given and images:
            wired.one_each(given, len(images), what)
    pictures: list[Picture] = []
    notes: list[str] = []
    for index, image in enumerate(images):
        name = f"image {index + 1}"
        values, mask = wired.colours(image, name[0].upper() + name[1:], notes)
        pixels = _to_bytes(values)
        if reason := _unusable(pixels.shape[1], pixels.shape[0]):
            notes.append(f"{name} was left out: {reason}.")
            continue
        if masks and use_masks:
            mask = wired.mask_like(masks[min(index, len(masks) - 1)], pixels.shape[:2], name, notes)
        caption = (captions[min(index, len(captions) - 1)].strip() if captions else "") or pattern
        filled = fill_caption(caption, trigger, class_word, f"picture {index + 1}")
        pictures.append(
            Picture(name, pixels, filled, _useful(_sized(mask, pixels) if use_masks else None, name, notes))
        )
    return PictureSet(tuple(pictures), trigger, class_word, tuple(notes))


def _sized(mask: np.ndarray | None, pixels: np.ndarray) -> np.ndarray | None:
    """A mask in 0..1 as (H, W) uint8 of the picture's size."""
    if mask is None:
        return None
    grey = _to_bytes(mask)
    if grey.shape == pixels.shape[:2]:
        return grey
    return np.asarray(Image.fromarray(grey).resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BILINEAR))


def to_rgb(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Upright (H, W, 3) uint8 pixels of a picture of any mode, transparency laid on white, and its (H, W) uint8 alpha
    or None.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in _TOP_OF_MODE or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        top = 255.0 if image.mode == "F" and values.max(initial=0) > 1.5 else _TOP_OF_MODE.get(image.mode, 65535.0)
        values /= top
        image = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return np.asarray(flat).copy(), np.asarray(rgba.getchannel("A")).copy()
    return np.asarray(image.convert("RGB")).copy(), None


def _read_picture(
    file: Path, trigger: str, class_word: str, pattern: str, use_masks: bool, notes: list[str]
) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            if reason := _unusable(*image.size):
                raise ValueError(reason)
            pixels, alpha = to_rgb(image)
    caption = _caption(file.with_suffix(".txt"), notes) or pattern
    mask = _mask(file, pixels.shape[:2], alpha, notes) if use_masks else None
    return Picture(
        file.name, pixels, fill_caption(caption, trigger, class_word, file.stem), _useful(mask, file.name, notes)
    )


def _unusable(width: int, height: int) -> str:
    if max(width, height) > LONGEST_RATIO * min(width, height):
        return f"at {width} x {height} pixels it is too long and narrow (more than {LONGEST_RATIO:.0f} to 1)"
    if min(width, height) < 32:
        return f"at {width} x {height} pixels it is too small"
    return ""


def _mask(file: Path, size: tuple[int, ...], alpha: np.ndarray | None, notes: list[str]) -> np.ndarray | None:
    candidates = (file.with_name(file.stem + MASK_ENDING + suffix) for suffix in SUFFIXES)
    beside = next((candidate for candidate in candidates if os.path.lexists(candidate)), None)
    if beside is None:
        return alpha
    if reason := reason_against(beside, file.parent):
        notes.append(f"The mask {beside.name} was not used: {reason}.")
        return alpha
    try:
        with Image.open(beside) as image:
            return np.asarray(
                ImageOps.exif_transpose(image).convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR)
            ).copy()
    except Exception as error:  # as above
        notes.append(f"The mask {beside.name} was not used: {_reason(error)}.")
        return alpha


def _useful(mask: np.ndarray | None, name: str, notes: list[str]) -> np.ndarray | None:
    """A mask that says something; an empty one would leave nothing to learn from."""
    if mask is not None and mask.max(initial=0) == 0:
        notes.append(f"The mask of {name} is empty and was not used.")
        return None
    return None if mask is None or mask.min(initial=255) == 255 else mask


def _caption(file: Path, notes: list[str]) -> str:
    if not os.path.lexists(file):
        return ""
    if reason := reason_against(file, file.parent):
        notes.append(f"The caption {file.name} was not used: {reason}.")
        return ""
    with open(file, "rb") as stream:
        raw = stream.read(_MOST_CAPTION + 1)
    if len(raw) > _MOST_CAPTION:
        notes.append(f"The caption {file.name} was not used: it has more than {_MOST_CAPTION:,} bytes.")
        return ""
    encodings = ["utf-16"] if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "utf-8-sig":
            notes.append(f"{file.name} is not UTF-8 and was read as {encoding}.")
        return " ".join(text.replace("\0", " ").split())
    notes.append(f"{file.name} could not be read as text, so the caption pattern was used.")
    return ""


def _duplicates(pictures: Sequence[Picture]) -> list[str]:
    seen: dict[str, str] = {}
    notes = []
    for picture in pictures:
        first = seen.setdefault(picture.digest(), picture.name)
        if first != picture.name:
            notes.append(f"{picture.name} is the same picture as {first}; it counts twice.")
    return notes


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return (np.asarray(values, dtype=np.float32).clip(0, 1) * 255).round().astype(np.uint8)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture, or a damaged one"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "it has far too many pixels"
    if isinstance(error, OSError):
        return f"it cannot be read ({os.strerror(error.errno)})" if error.errno else f"it is damaged ({error})"
    if isinstance(error, MemoryError):
        return "there is not enough memory to unpack it"
    return f"it is damaged ({error})".replace("\n", " ") if not isinstance(error, ValueError) else str(error).rstrip(".")
