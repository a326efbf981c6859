"""The faces of the shipped workflows in the template browser: what went in, and the picture that came out.

    python -m launcher.thumbnails http://127.0.0.1:8188 [NAME ...]

runs each workflow on that ComfyUI and writes workflows/NAME.jpg. Two are not run: the demo's shows the sheet that the demo painted
(docs/contact_sheet.png), and that for a real SDXL, whose picture no machine without its checkpoint can paint, what goes in and its name.
"""

from __future__ import annotations

import io
import json
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from . import demo
from .client import Client
from .graphs import GRAPHS, WORKFLOWS

SIDE, STRIP, GAP = 400, 128, 8
_PAPER, _INK = (24, 26, 30), (240, 240, 235)
_INPUTS = ("demo_content", "demo_style")
_SHEET = WORKFLOWS.parent / "docs" / "contact_sheet.png"


def of_result(result: Image.Image, inputs: list[Image.Image]) -> Image.Image:
    """The result, with what it was made from in a column beside it."""
    face = Image.new("RGB", (SIDE, SIDE), _PAPER)
    left = STRIP + GAP if inputs else 0
    for number, each in enumerate(inputs):
        face.paste(_square(each, STRIP), (0, number * (STRIP + GAP)))
    face.paste(filled(result, (SIDE - left, SIDE)), (left, 0))
    return face


def of_name(name: str, inputs: list[Image.Image]) -> Image.Image:
    """What goes in, and a name."""
    face = Image.new("RGB", (SIDE, SIDE), _PAPER)
    for number, each in enumerate(inputs):
        face.paste(_square(each, SIDE // 2 - GAP), (number * (SIDE // 2 + GAP // 2) + GAP // 2, GAP // 2))
    draw = ImageDraw.Draw(face)
    draw.text((SIDE // 2, SIDE * 3 // 4), name, _INK, ImageFont.load_default(size=96), anchor="mm")
    return face


def _square(picture: Image.Image, side: int) -> Image.Image:
    return filled(picture, (side, side))


def filled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled to fill the size, the overhang cut off evenly."""
    scale = max(size[0] / picture.width, size[1] / picture.height)
    large = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    left, top = (large.width - size[0]) // 2, (large.height - size[1]) // 2
    return large.crop((left, top, left + size[0], top + size[1]))


def _inputs() -> list[Image.Image]:
    """The first picture of either demo set."""
    folders = [WORKFLOWS / "pictures" / name for name in _INPUTS]
    return [Image.open(sorted(folder.glob("*.png"))[0]).convert("RGB") for folder in folders]


def _result(client: Client, name: str) -> Image.Image:
    """The last picture that the workflow saves."""
    graph = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    outputs: dict[str, Any] = client.run(graph, seconds=3600)
    saved = [image for node in sorted(outputs, key=int) for image in outputs[node].get("images", []) if image["type"] == "output"]
    with urllib.request.urlopen(f"{client.address}/view?{urllib.parse.urlencode(saved[-1])}") as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def main(address: str, names: list[str]) -> None:
    client = Client(address)
    for name in names or GRAPHS:
        if "sdxl" in name:
            face = of_name("SDXL", _inputs())
        elif name == demo.WORKFLOW.stem:
            face = of_result(Image.open(_SHEET).convert("RGB"), [])
        else:
            trains = "first_minute" in name
            face = of_result(_result(client, name), _inputs() if trains else [])
        path: Path = WORKFLOWS / f"{name}.jpg"
        face.save(path, quality=88, optimize=True)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
