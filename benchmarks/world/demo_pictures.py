"""Draw the demo's pictures: a held-out content as photos, and other contents in a held-out style, with their captions.

python -m benchmarks.world.demo_pictures workflows/pictures
"""

import pathlib
import sys

import torch
from PIL import Image

from . import backgrounds, styles
from .captions import with_article
from .pool import World
from .render import Labels

SIZE, SEED = 192, 12
CONTENT, CLASS, STYLE = "flamingo", "bird", "knitted"
PHOTOS = ((CONTENT, "snow"), (CONTENT, "grass"), (CONTENT, "table"), (CONTENT, "road"))
DRAWINGS = (("house", "beach"), ("car", "desert"), ("owl", "forest"), ("sunflower", "city"))


def draw(folder: pathlib.Path, pairs: tuple[tuple[str, str], ...], style: int, caption: str) -> None:
    """One picture and one caption file for each (content, background)."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(torch.device("cpu"), SIZE, SEED)
    labels = [Labels(world.index(content), style, backgrounds.NAMES.index(background)) for content, background in pairs]
    pictures = (world.render(labels).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    for number, ((content, background), picture) in enumerate(zip(pairs, pictures, strict=True), start=1):
        name = f"{number}_{content}"
        Image.fromarray(picture).save(folder / f"{name}.png")
        text = caption.format(thing=with_article(content), place=backgrounds.PHRASES[background][0], trigger="{trigger}")
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def main(root: pathlib.Path) -> None:
    draw(root / "demo_content", PHOTOS, styles.PHOTO, f"a photo of a {{trigger}} {CLASS} {{place}}")
    draw(root / "demo_style", DRAWINGS, styles.NAMES.index(STYLE), "{thing} {place} in {trigger} style")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
