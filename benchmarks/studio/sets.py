"""The pictures of contents and styles that the embedded model never saw, drawn by its world, and a plan for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image

from benchmarks.quality import concepts
from benchmarks.world import backgrounds, styles
from benchmarks.world.captions import with_article
from benchmarks.world.pool import World
from benchmarks.world.render import Labels

CONTENTS, STYLES = concepts.LARGE.contents, concepts.LARGE.styles[:8]
SIZE = 192
CONTENT_TRIGGER, STYLE_TRIGGER = "snq", "w@z"


def _place(place: str) -> str:
    return backgrounds.PHRASES[place][0]


def plan_of(
    folder: Path,
    contents: Sequence[str],
    looks: Sequence[str],
    *,
    preset: str,
    store: Path,
    output: Path,
    settings: Mapping[str, object] = MappingProxyType({}),
    auxiliary: int | None = None,
    prompts: Sequence[str] = (f"a {{content}} {_place('mountains')} in {{style}}",),
    seeds: Sequence[int] = (0,),
) -> Path:
    """Draw ``contents`` and ``looks`` into ``folder`` and write a plan for them there; its path."""
    world = World(torch.device("cpu"), SIZE, concepts.REFERENCE_SEED)
    lines = [f'preset = "{preset}"', f"output = '{output}'", f"store = '{store}'"]
    lines += [] if auxiliary is None else [f"auxiliary_pictures = {auxiliary}"]
    lines += ["[settings]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    lines += ["[sheets]", f"prompts = {json.dumps(list(prompts))}", f"seeds = {list(seeds)}"]
    for content in contents:
        words = concepts.class_word(content)
        captions = [f"a photo of a {{trigger}} {words} {_place(each)}" for each in concepts.CONTENT_PLACES]
        _draw(world, folder / content, _photos(world, content), captions)
        lines += [f'[content."{content}"]', f'folder = "{content}"', f'trigger = "{CONTENT_TRIGGER}"', f'class = "{words}"']
    for look in looks:
        captions = [f"{with_article(thing)} {_place(place)} in {{trigger}} style" for thing, place in concepts.STYLE_PICTURES]
        _draw(world, folder / look, _drawings(world, look), captions)
        lines += [f'[style."{look}"]', f'folder = "{look}"', f'trigger = "{STYLE_TRIGGER}"']
    file = folder / "plan.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _photos(world: World, content: str) -> list[Labels]:
    where = world.index(content)
    return [Labels(where, styles.PHOTO, backgrounds.NAMES.index(place)) for place in concepts.CONTENT_PLACES]


def _drawings(world: World, look: str) -> list[Labels]:
    style = styles.NAMES.index(look)
    return [Labels(world.index(thing), style, backgrounds.NAMES.index(place)) for thing, place in concepts.STYLE_PICTURES]


def _draw(world: World, folder: Path, labels: Sequence[Labels], captions: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(concepts.REFERENCE_SEED)
    pictures = (world.render(labels).permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy()
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True), start=1):
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption + "\n", encoding="utf-8")
