"""The adapters that come with the pack, and the table of every content in every style: a picture each, nothing chosen."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import concepts
from .concepts import Split
from .references import Studio, content_labels, style_labels

CONTENTS = ("penguin", "fox", "flamingo", "teddy bear", "rocket", "tractor", "doughnut", "guitar")
LOOKS = ("blueprint", "stained glass", "woodcut", "knitted", "crayon", "lego", "thermal", "patchwork")
EXAMPLES = Split(CONTENTS, LOOKS)
EMBEDDED = Path(__file__).resolve().parents[2] / "mini"
_CELL, _LABEL, _GAP, _QUALITY = 128, 26, 6, 85
_PAPER, _INK = (250, 249, 246), (40, 40, 46)


def file_of(folder: Path, role: str, name: str) -> Path:
    """Where a content or a style lies below the folder of examples; made if need be."""
    path = folder / role / f"{name.replace(' ', '_')}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_table(path: Path, studio: Studio, split: Split, pictures: Iterable[Image.Image]) -> None:
    """The table of ``pictures``, content by content, with a picture that each row and each column was taught from in front of it."""
    looks = [_image(studio.render(style_labels(studio, name)[:1], concepts.REFERENCE_SEED)[0]) for name in split.styles]
    subjects = [_image(studio.render(content_labels(studio, name)[:1], concepts.REFERENCE_SEED)[0]) for name in split.contents]
    painted = iter(pictures)
    rows = [[None, *looks], *([subject, *(next(painted) for _ in split.styles)] for subject in subjects)]
    names = ["", *split.contents]
    step, top = _CELL + _GAP, _LABEL
    sheet = Image.new("RGB", (_LABEL + len(rows[0]) * step + _GAP, top + len(rows) * step + _GAP), _PAPER)
    for column, name in enumerate(split.styles, start=1):
        sheet.paste(_words(name, _CELL), (_LABEL + column * step + _GAP, 0))
    for row, cells in enumerate(rows):
        # what was learned from stands apart from what was painted
        y = top + row * step + (_GAP if row else 0)
        sheet.paste(_words(names[row], _CELL).rotate(90, expand=True), (0, y))
        for column, cell in enumerate(cells):
            if cell is not None:
                sheet.paste(_fitted(cell), (_LABEL + column * step + (_GAP if column else 0), y))
    sheet.save(path, quality=_QUALITY, method=6)


def _image(picture: Tensor) -> Image.Image:
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)


def _fitted(picture: Image.Image) -> Image.Image:
    return picture.resize((_CELL, _CELL), Image.Resampling.LANCZOS)


def _words(text: str, width: int) -> Image.Image:
    """A label, centred."""
    label = Image.new("RGB", (width, _LABEL), _PAPER)
    ImageDraw.Draw(label).text((width / 2, _LABEL / 2), text, _INK, ImageFont.load_default(size=16), anchor="mm")
    return label
