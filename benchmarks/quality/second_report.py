"""The tables of the contest on the second base model: python -m benchmarks.quality.second_report FOLDER [PICTURE.webp]"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from . import concepts
from .ablate import read as read_lines
from .contest import slug
from .final_report import by_concept, tables
from .report import read_seeds
from .second import ALONE, LORAS, NULLED, OURS

SHOWN = ("true pictures", OURS, LORAS, NULLED, "ours + joint", ALONE)
CELL, ABREAST = 48, 3  # pixels a side in the picture, and sheets beside each other


def trials(folder: Path, head: str) -> list[str]:
    """Markdown of FOLDER/tuning.jsonl: what was tried, all three right by the first and the second judge."""
    lines = [f"| {head} | setting | first judge | second judge |", "| --- | --- | --- | --- |"]
    for line in read_lines(folder / "tuning.jsonl"):
        setting = line.get("setting") or " ".join(f"{each:g}" for each in line["strengths"])
        lines.append(f"| {line['name']} | {setting} | {line['first']['all three']:.3f} | {line['second']['all three']:.3f} |")
    return lines


def save_grids(sheets: Sequence[Path], file: Path, split: concepts.Split = concepts.LARGE, cell: int = CELL) -> None:
    """The sheets of rows, three beside each other: first prompt, first noise, first seed of every pair."""
    width, height, gap = len(split.styles) * cell, len(split.contents) * cell, cell // 6
    columns, rows = min(ABREAST, len(sheets)), -(-len(sheets) // ABREAST)
    whole = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for place, path in enumerate(sheets):
        down, across = divmod(place, ABREAST)
        sheet = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        whole.paste(sheet, (across * (width + gap), down * (height + gap)))
    whole.save(file, quality=85, method=6)


def main(folder: Path, picture: Path | None) -> None:
    found = read_seeds(folder, concepts.LARGE)
    print("\n".join(tables(found, few=False)))
    for name, result in found.items():
        print(name, *by_concept(result), sep="\n  ")
        print("   seconds", np.round([result.about["seconds to make"], result.about["seconds to paint"]], 1))
    print("\n".join(["", *trials(folder, "chosen on development pairs"), "", *trials(folder / "strengths", "at other strengths")]))
    print(json.loads((folder / "chosen.json").read_text(encoding="utf-8")))
    if picture is not None:
        sheets = [folder / "rows" / f"{slug(name)}.webp" for name in SHOWN]
        save_grids([path for path in sheets if path.exists()], picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
