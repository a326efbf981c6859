"""What lies in a folder of pictures: the pictures, their masks and captions, and what is neither, in sentences."""

from dataclasses import dataclass
from pathlib import Path

from . import captions, masks
from .errors import B4MError
from .picture_kinds import NAMED, READ, entries, holds_pictures, is_picture, listed, shown
from .picture_order import in_order
from .regular_files import reason_against


@dataclass(frozen=True)
class FolderContents:
    """``pictures`` by name, ``masks`` by the picture's name, and ``notes`` on what is not used."""

    pictures: tuple[Path, ...]
    masks: dict[str, Path]
    captions: captions.Captions
    notes: tuple[str, ...]


def look_through(folder: Path) -> FolderContents:
    """Everything directly in ``folder``, and in its folders of masks and captions. Raises :class:`B4MError` where it is
    not there or may not be read."""
    if not folder.is_dir():
        raise B4MError(f"The folder {folder.name} is not there any more: choose another one.")
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise B4MError(f"The folder {folder.name} cannot be read ({error.strerror or error}): check that it may be.") from error
    mask_folders, caption_folders, rest = _sorted_folders(entries(folder, folders=True))
    notes: list[str] = []
    files = _files_of_its_own(folder, [folder], notes)
    paired, pictures = masks.pair_masks(
        [file for file in files if is_picture(file)],
        [file for file in _files_of_its_own(folder, mask_folders, notes) if is_picture(file)],
    )
    beside = _files_of_its_own(folder, caption_folders, notes)
    texts = [file for file in (*files, *beside) if captions.is_caption(file)]
    notes += [*_others(files, pictures), *_about_folders(folder, rest)]
    pictures = in_order(folder, pictures)
    return FolderContents(tuple(pictures), paired, captions.find_captions(pictures, texts), tuple(notes))


def _files_of_its_own(folder: Path, places: list[Path], notes: list[str]) -> list[Path]:
    """The files in ``places`` that are files and lie in ``folder`` after their links; the others are noted."""
    kept = []
    for file in (file for place in places for file in entries(place)):
        if reason := reason_against(file, folder):
            notes.append(f"{shown(file.name)} was left out: {reason}.")
        else:
            kept.append(file)
    return kept


def _sorted_folders(folders: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Folders of masks, of captions, and others. One that could be a set of its own is none of captions."""
    mask = [place for place in folders if place.name.casefold() in masks.FOLDERS]
    caption = [place for place in folders if place.name.casefold() in captions.FOLDERS]
    return mask, caption, [place for place in folders if place not in mask and place not in caption]


def _others(files: list[Path], pictures: list[Path]) -> list[str]:
    """Sentences on files that are no pictures for us, one for each kind."""
    stems = {captions.key_of(file.stem) for file in pictures}
    kinds: dict[tuple[str, str], list[str]] = {}
    unknown = []
    for file in files:
        ending = file.suffix.lower()
        if ending in NAMED:
            kind, advice = NAMED[ending]
            live = kind == "a film" and captions.key_of(file.stem) in stems
            kinds.setdefault(("the film of a live photo", "") if live else (kind, advice), []).append(file.name)
        elif not is_picture(file) and not captions.is_caption(file):
            unknown.append(file.name)
    notes = [
        f"Left out: {listed(names)}. {'It is' if len(names) == 1 else 'Each is'} {kind}{f': {advice}' if advice else ''}."
        for (kind, advice), names in kinds.items()
    ]
    return notes + ([f"Left out, since it is no picture: {listed(unknown)}."] if unknown else [])


def _about_folders(folder: Path, rest: list[Path]) -> list[str]:
    inner = [place.name for place in rest if holds_pictures(place)]
    notes = [f"The folders inside {folder.name} are not read: {listed(inner)}. Choose each for a set of its own."] if inner else []
    named = [place.name for place in rest if place.suffix.lower() in READ]
    return notes + [f"{listed([name])} was left out: it is a folder, not a picture." for name in named]
