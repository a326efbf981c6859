"""Auxiliary pictures, so that a concept does not overfit to what its pictures share: painted once by the base model
itself, or the artist's own.

A content training needs other styles, a style training other contents (the paper's correspondences). The words below
are plain enough for every SDXL, the embedded model included.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .atomic import write_atomically
from .base_model import BaseModel
from .fast.accelerate import find_out
from .pictures import Picture, PictureSet, holds_pictures, load_folder
from .runs import content_key

STYLES = ("watercolor", "comic", "mosaic", "neon", "oil painting", "line art")
CONTENTS = ("house", "owl", "car", "robot", "tree", "cat")
PLACES = ("on the grass", "on the beach", "in the snow", "on a wooden table", "in the forest", "on a road")
MOST_SETS = 6
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
    cache: Path,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[PictureSet, ...]:
    """Paint ``sets`` auxiliary sets of ``pictures`` pictures, or read them from ``cache`` where an earlier run left
    them.

    The cache is keyed by the base model and the prompts; every picture is kept as soon as it is painted. ``watch``
    (done, total) may raise.
    """
    groups = prompts_for(kind, min(sets, MOST_SETS) if pictures else 0, pictures)
    total = sum(map(len, groups))
    results = []
    for number, prompts in enumerate(groups):
        painted = []
        for index, prompt in enumerate(prompts):
            watch(number * pictures + index, total)
            painted.append(Picture(prompt, _painted(base, prompt, index, resolution, cache), prompt))
        results.append(PictureSet(tuple(painted)))
    watch(total, total)
    return tuple(results)


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
    file = cache / "auxiliary" / f"{key[:32]}.png"
    if not _is_picture(file):
        find_out(base.device, base.dtype)  # who has them painted is about to train: its kernels are compiled meanwhile
        pixels = base.sample(prompt, width=resolution, height=resolution, seed=seed)
        values = (pixels.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
        _write_png(file, values)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).copy()


def _write_png(file: Path, pixels: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    write_atomically(file, [buffer.getvalue()], check=lambda partial: Image.open(partial).verify())


def _is_picture(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            image.verify()
        return True
    except (OSError, SyntaxError):
        return False


def own_auxiliary(folder: Path, pattern: str) -> tuple[PictureSet, ...]:
    """The artist's own auxiliary pictures: every subfolder with pictures is one set, or else the folder itself; at most
    six.
    """
    subfolders = (
        sorted(entry for entry in folder.iterdir() if entry.is_dir() and holds_pictures(entry))
        if folder.is_dir()
        else []
    )
    return tuple(
        load_folder(entry, trigger="", class_word=entry.name.replace("_", " "), pattern=pattern, use_masks=False)
        for entry in (subfolders or [folder])[:MOST_SETS]
    )
