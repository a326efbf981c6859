"""Auxiliary pictures, so that a concept does not overfit to what its pictures share: painted once by the base model
itself, or the artist's own.

A content training needs other styles, a style training other contents (the paper's correspondences). The words below
are plain enough for every SDXL, the embedded model included.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base_model import BaseModel
from .checked import whole
from .errors import B4MError
from .fast.accelerate import find_out
from .painted import kept_or_painted
from .picture_kinds import holds_pictures, listed, picture_folders, shown
from .pictures import Picture, PictureSet, Source, load_folder
from .runs import content_key
from .several import ALONE, Processes

STYLES = ("watercolor", "comic", "mosaic", "neon", "oil painting", "line art")
CONTENTS = ("house", "owl", "car", "robot", "tree", "cat")
BESIDE = {"content": "styles", "style": "contents"}
"""The kind of auxiliary pictures that stand beside a content's, and a style's."""
PLACES = ("on the grass", "on the beach", "in the snow", "on a wooden table", "in the forest", "on a road")
MOST_SETS, MOST_PICTURES = 6, 1000
OWN_CAPTIONS = {
    "styles": "a picture in {class} style",
    "contents": "a photo of a {class}",
}  # of the artist's own sets, by kind


def prompts_for(kind: str, sets: int, pictures: int) -> list[list[str]]:
    """The prompts of every auxiliary set: ``styles`` for a content training, ``contents`` for a style training."""
    if kind == "styles":
        return [
            [
                f"a {CONTENTS[(k + i) % len(CONTENTS)]} {PLACES[i % len(PLACES)]} in {STYLES[k]} style"
                for i in range(pictures)
            ]
            for k in range(sets)
        ]
    return [
        [f"a photo of a {CONTENTS[k]} {PLACES[(k + i) % len(PLACES)]}" for i in range(pictures)] for k in range(sets)
    ]


def sample_auxiliary(
    base: BaseModel,
    kind: str,
    *,
    sets: int,
    pictures: int,
    resolution: int,
    cache: str | Path,
    watch: Callable[[int, int], None] = lambda done, total: None,
    processes: Processes = ALONE,
) -> tuple[PictureSet, ...]:
    """Paint ``sets`` auxiliary sets of ``pictures`` pictures, or read them from ``cache`` where an earlier run left
    them.

    The cache is keyed by the base model and the prompts; every picture is kept as soon as it is painted, with a
    checksum. ``watch`` (done, total) may raise. The first of several ``processes`` paints and has the cache, the others
    get the same pictures from it. Raises :class:`B4MError` for numbers that nobody can want.
    """
    whole(sets, "sets", 0, MOST_PICTURES)
    whole(pictures, "pictures", 0, MOST_PICTURES)
    groups = prompts_for(kind, min(sets, MOST_SETS) if pictures else 0, pictures)
    total = sum(map(len, groups))
    results = []
    for number, prompts in enumerate(groups):
        painted = []
        for index, prompt in enumerate(prompts):
            watch(number * pictures + index, total)
            pixels = _shared(processes, functools.partial(_painted, base, prompt, index, resolution, Path(cache)))
            painted.append(Picture(prompt, pixels, prompt))
        results.append(PictureSet(tuple(painted), kind=kind))
    watch(total, total)
    return tuple(results)


def _shared(processes: Processes, paint: Callable[[], np.ndarray]) -> np.ndarray:
    made = processes.from_first(lambda: (0, {"pixels": torch.from_numpy(paint())}))
    assert made is not None
    return made[1]["pixels"].numpy()


def _painted(base: BaseModel, prompt: str, seed: int, resolution: int, cache: Path) -> np.ndarray:
    key = content_key(
        {
            "auxiliary": prompt,
            "seed": seed,
            "resolution": resolution,
            "base": base.fingerprint,
            "prediction": base.schedule.prediction,
        }
    )

    def paint() -> Tensor:
        find_out(base.device, base.dtype)  # who has them painted is about to train: its kernels are compiled meanwhile
        return base.sample(prompt, width=resolution, height=resolution, seed=seed)

    return kept_or_painted(cache / "auxiliary" / f"{key[:32]}.png", key, resolution, paint)


def own_auxiliary(folder: str | Path, kind: str) -> tuple[PictureSet, ...]:
    """The artist's own auxiliary pictures: every subfolder with pictures is one set, or else the folder itself; at most
    six. What is not used is in the notes of the first. Raises :class:`B4MError` when nothing is left.
    """
    folder = Path(folder)
    subfolders = picture_folders(folder)
    notes = [f"Beside the sets, {folder.name} holds pictures that were not used."] if subfolders and holds_pictures(folder) else []
    sets: list[PictureSet] = []
    for place in subfolders or [folder]:
        if len(sets) == MOST_SETS:
            left = [each.name for each in subfolders[subfolders.index(place) :]]
            notes.append(f"More than {MOST_SETS} sets are not used; left out: {listed(left)}.")
            break
        try:
            sets.append(_own_set(place, kind, folder))
        except B4MError as error:
            if not subfolders:
                raise
            notes.append(f"The set {shown(place.name)} was left out. {error}")
    if not sets:
        raise B4MError(f"No set in {folder.name} has a picture that can be read. {' '.join(notes)}")
    first = dataclasses.replace(sets[0], notes=(*notes, *sets[0].notes))
    return (first, *sets[1:])


def _own_set(folder: Path, kind: str, whole: Path) -> PictureSet:
    """One set of the artist's own, of those in ``whole``; subfolders named in the words of a caption say what it shows."""
    word = " ".join(folder.name.replace("_", " ").split())
    found = load_folder(folder, trigger="", class_word=word, pattern=OWN_CAPTIONS[kind], use_masks=False, auxiliary=True)
    return dataclasses.replace(found, kind=kind, source=Source(whole.absolute(), OWN_CAPTIONS[kind], use_masks=False))


def described(sets: Sequence[PictureSet]) -> str:
    """What was taken, set by set, and what is to be said about it."""
    count = sum(len(each.pictures) for each in sets)
    lines = [f"{len(sets)} set{'' if len(sets) == 1 else 's'}, {count} picture{'' if count == 1 else 's'}"]
    lines += [f"{number}. {each.class_word or each.pictures[0].caption}: {len(each.pictures)}" for number, each in enumerate(sets, start=1)]
    return "\n".join([*lines, *(note for each in sets for note in each.notes)])
