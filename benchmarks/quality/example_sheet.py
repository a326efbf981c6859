"""The adapters that come with the pack: every content in every style, one picture each, one prompt, one noise, nothing chosen.

python -m benchmarks.quality.example_sheet examples docs/examples.webp
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from b4m_core import Adapter, load_adapter, merge

from . import concepts
from .concepts import Split
from .grouped import Factors, GroupedNetwork, Segment
from .references import Studio, content_labels, phrase, start_noise, style_labels

CONTENTS = ("penguin", "fox", "flamingo", "teddy bear", "rocket", "tractor", "doughnut", "guitar")
LOOKS = ("blueprint", "stained glass", "woodcut", "knitted", "crayon", "lego", "thermal", "patchwork")
EXAMPLES = Split(CONTENTS, LOOKS)
EMBEDDED = Path(__file__).resolve().parents[2] / "mini"
PROMPT, PLACE, NOISE = "{thing} {place} in {style} style", "mountains", 11  # a place that no reference picture shows
AT_ONCE = {"cuda": 64, "cpu": 8}  # pictures
_CELL, _LABEL, _GAP, _QUALITY = 128, 26, 6, 85
_PAPER, _INK = (250, 249, 246), (40, 40, 46)


def file_of(folder: Path, role: str, name: str) -> Path:
    """Where a content or a style lies below the folder of examples; made if need be."""
    path = folder / role / f"{name.replace(' ', '_')}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def factors_of_pairs(folder: Path, split: Split, net: GroupedNetwork) -> Factors:
    """All pairs, content by content, read from the files and merged as the product does."""
    contents = [load_adapter(file_of(folder, "content", name)) for name in split.contents]
    looks = [load_adapter(file_of(folder, "style", name)) for name in split.styles]
    return factors_of([merge(content, style) for content in contents for style in looks], net)


@torch.no_grad()
def factors_of(adapters: list[Adapter], net: GroupedNetwork) -> Factors:
    """The product's adapters in the form in which the contest's network wears many."""
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    for paths in net.names:
        pairs = [[adapter.layers[path].lora_factors() for adapter in adapters] for path in paths]
        ups.append(torch.stack([torch.stack([up for up, _ in layer]) for layer in pairs]).to(net.device))
        downs.append(torch.stack([torch.stack([down for _, down in layer]) for layer in pairs]).to(net.device))
    return Factors(ups, downs)


def paint_table(studio: Studio, split: Split, factors: Factors) -> Tensor:
    """Float (pairs, 3, S, S) in 0..1 on the CPU."""
    prompts = [
        PROMPT.format(thing=concepts.subject(content), place=phrase(PLACE), style=concepts.STYLE_TRIGGER)
        for content in split.contents
        for _ in split.styles
    ]
    done, most = [], AT_ONCE[studio.device.type]
    for first in range(0, len(prompts), most):
        some = range(first, min(first + most, len(prompts)))
        studio.painter.wear(len(some), [Segment(0, 2, factors.take(some).to(studio.painter.dtype))])
        noise = start_noise([NOISE] * len(some), studio.side, studio.device)
        done.append(studio.sample(*studio.encode_text([prompts[pair] for pair in some]), noise).cpu())
    studio.painter.wear(1, [])
    return torch.cat(done)


def save_table(path: Path, studio: Studio, split: Split, factors: Factors) -> None:
    """The table, with one of the pictures that each row and each column was taught from in front of it."""
    looks = [studio.render(style_labels(studio, name)[:1], concepts.REFERENCE_SEED)[0] for name in split.styles]
    subjects = [studio.render(content_labels(studio, name)[:1], concepts.REFERENCE_SEED)[0] for name in split.contents]
    painted = iter(paint_table(studio, split, factors))
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
                sheet.paste(_image(cell), (_LABEL + column * step + (_GAP if column else 0), y))
    sheet.save(path, quality=_QUALITY, method=6)


def _image(picture: Tensor) -> Image.Image:
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.LANCZOS)


def _words(text: str, width: int) -> Image.Image:
    """A label, centred."""
    label = Image.new("RGB", (width, _LABEL), _PAPER)
    ImageDraw.Draw(label).text((width / 2, _LABEL / 2), text, _INK, ImageFont.load_default(size=16), anchor="mm")
    return label


def main(options: argparse.Namespace) -> None:
    studio = Studio(EMBEDDED, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    save_table(options.picture, studio, EXAMPLES, factors_of_pairs(options.folder, EXAMPLES, studio.learner))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of examples")
    parser.add_argument("picture", type=Path, help="the picture to write")
    main(parser.parse_args())
