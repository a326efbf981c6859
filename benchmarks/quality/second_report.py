"""The tables of the contest on the second base model: python -m benchmarks.quality.second_report FOLDER [PICTURE.webp]"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from . import concepts
from .ablate import read as read_lines
from .contest import slug
from .final_report import by_concept, tables
from .report import Result, read
from .second import ALONE, LORAS, NULLED, OURS

SHOWN = ("true pictures", OURS, LORAS, NULLED, "ours + joint", ALONE)
CELL = 72  # pixels a side in the picture


def results(folder: Path, split: concepts.Split = concepts.TEST) -> dict[str, Result]:
    """Every row, with the seeds that were run later; of a league, only seeds that all of its rows have."""
    found, more = read(folder, split), read(folder / "more", split)
    for name, later in more.items():
        if name in found:
            marks = {judge: np.concatenate([found[name].marks[judge], each]) for judge, each in later.marks.items()}
            found[name] = Result(found[name].about, marks)
    for league in {each.about["league"] for each in found.values()}:
        rows = {name: each for name, each in found.items() if each.about["league"] == league}
        seeds = min(len(each.marks["second"]) for each in rows.values())
        found |= {name: Result(each.about, {judge: marks[:seeds] for judge, marks in each.marks.items()}) for name, each in rows.items()}
    return found


def trials(folder: Path, head: str) -> list[str]:
    """Markdown of FOLDER/tuning.jsonl: what was tried, all three right by the first and the second judge."""
    lines = [f"| {head} | setting | first judge | second judge |", "| --- | --- | --- | --- |"]
    for line in read_lines(folder / "tuning.jsonl"):
        setting = line.get("setting") or " ".join(f"{each:g}" for each in line["strengths"])
        lines.append(f"| {line['name']} | {setting} | {line['first']['all three']:.3f} | {line['second']['all three']:.3f} |")
    return lines


def save_grids(folder: Path, file: Path) -> None:
    """The sheets of the rows side by side: first prompt, first noise, first seed of every pair."""
    sheets = [Image.open(path) for name in SHOWN if (path := folder / "rows" / f"{slug(name)}.webp").exists()]
    columns, rows = len(concepts.TEST_STYLES), len(concepts.TEST_CONTENTS)
    width, gap = columns * CELL, CELL // 8
    whole = Image.new("RGB", (len(sheets) * (width + gap) - gap, rows * CELL), "white")
    for place, sheet in enumerate(sheets):
        whole.paste(sheet.convert("RGB").resize((width, rows * CELL), Image.Resampling.LANCZOS), (place * (width + gap), 0))
    whole.save(file, quality=88)


def main(folder: Path, picture: Path | None) -> None:
    found = results(folder)
    print("\n".join(tables(found, few=False)))
    for name, result in found.items():
        print(name, *by_concept(result, concepts.TEST), sep="\n  ")
        print("   seconds", np.round([result.about["seconds to make"], result.about["seconds to paint"]], 1))
    print("\n".join(["", *trials(folder, "chosen on development pairs"), "", *trials(folder / "strengths", "at other strengths")]))
    print(json.loads((folder / "chosen.json").read_text(encoding="utf-8")))
    if picture is not None:
        save_grids(folder, picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
