"""A small studio: a model of a few KB, two contents and two styles, and a plan for them."""

from __future__ import annotations

from pathlib import Path

import tiny
from PIL import Image
from tiny_folder import write_folder

PLAN = """
model = "model"
output = "library"
store = "store"
auxiliary_sets = 1
auxiliary_pictures = 1

[settings]
steps = 3
rank = 2
gradient_accumulation_steps = 1

[sheets]
prompts = ["a {content} in {style}"]

[content.bear]
folder = "bear"
trigger = "snq"
class = "bear"

[content.owl]
folder = "owl"
trigger = "snq"
class = "owl"

[style.ink]
folder = "ink"
trigger = "w@z"

[style.oil]
folder = "oil"
trigger = "kprs"
settings.steps = 2
"""


def write_studio(place: Path, plan: str = PLAN, *, model: bool = True) -> Path:
    """The pictures, with ``model`` the model too, and the plan's file, which is returned."""
    if model:
        write_folder(place / "model")
    else:
        (place / "model").mkdir()
    for number, name in enumerate(("bear", "owl", "ink", "oil")):
        (place / name).mkdir()
        for seed in (2 * number, 2 * number + 1):
            Image.fromarray(tiny.picture(seed).pixels).save(place / name / f"{seed}.png")
    file = place / "plan.toml"
    file.write_text(plan, encoding="utf-8")
    return file
