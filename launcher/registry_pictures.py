"""The pack's icon and banner for the registry, made of what it painted: docs/registry/icon.png and banner.png.

python -m launcher.registry_pictures
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .graphs import WORKFLOWS
from .thumbnails import filled

FOLDER = WORKFLOWS.parent / "docs" / "registry"
ICON = 400
BANNER = (1260, 540)  # 21:9
_PAPER, _INK, _FAINT = (24, 26, 30), (240, 240, 235), (170, 172, 178)
_PICTURES = WORKFLOWS / "pictures"


def _open(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def _sets() -> tuple[Image.Image, Image.Image, Image.Image]:
    """A picture of the content, one of the style, and what came of both: cells of the demo's contact sheet."""
    sheet = _open(WORKFLOWS.parent / "docs" / "contact_sheet.png")
    cell = sheet.width // 4
    result = sheet.crop((3 * cell + 8, sheet.height * 480 // 930, 4 * cell - 4, sheet.height * 480 // 930 + cell - 12))
    return _open(sorted((_PICTURES / "demo_content").glob("*.png"))[0]), _open(sorted((_PICTURES / "demo_style").glob("*.png"))[0]), result


def icon() -> Image.Image:
    """Content and style, corner to corner."""
    content, style, _ = _sets()
    picture = filled(content, (ICON, ICON))
    mask = Image.new("L", (ICON, ICON), 0)
    ImageDraw.Draw(mask).polygon([(ICON, 0), (ICON, ICON), (0, ICON)], fill=255)
    picture.paste(filled(style, (ICON, ICON)), (0, 0), mask)
    ImageDraw.Draw(picture).line([(ICON, 0), (0, ICON)], fill=_INK, width=10)
    return picture


def banner() -> Image.Image:
    """Content + style = both, with the name."""
    picture = Image.new("RGB", BANNER, _PAPER)
    draw = ImageDraw.Draw(picture)
    side, top = 300, 60
    for number, (each, sign) in enumerate(zip(_sets(), ("+", "=", ""), strict=True)):
        left = 60 + number * (side + 120)
        picture.paste(filled(each, (side, side)), (left, top))
        draw.text((left + side + 60, top + side // 2), sign, _INK, ImageFont.load_default(size=90), anchor="mm")
    draw.text((60, 400), "B4M: Break-for-make", _INK, ImageFont.load_default(size=56))
    draw.text((60, 470), "Any content in any style: one SDXL LoRA, a slider for each", _FAINT, ImageFont.load_default(size=32))
    return picture


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in (("icon", icon()), ("banner", banner())):
        picture.save(FOLDER / f"{name}.png", optimize=True)
        print(FOLDER / f"{name}.png", picture.size)


if __name__ == "__main__":
    main()
