"""The ablations as markdown: python -m benchmarks.quality.ablation_table FOLDER/ablations.jsonl"""

import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .ablate import read
from .statistics import difference

HEADS = ("arm", "content", "style", "background", "**all three**", "seeds", "second judge", "seeds", "against the first arm")


def table(lines: list[dict[str, Any]]) -> list[str]:
    """A table for each ablation, in the order of the file; differences are to its first arm, over the same pairs, by the first judge."""
    lines = sorted(lines, key=lambda line: [each["ablation"] for each in lines].index(line["ablation"]))
    made = []
    for ablation, several in groupby(lines, key=lambda line: line["ablation"]):
        made += [f"### {ablation}", "", "| " + " | ".join(HEADS) + " |", "| --- " * len(HEADS) + "|"]
        base = None
        for line in several:
            cells = {judge: np.array(values) for judge, values in line["cells"].items()}
            base = cells if base is None else base
            first, second = line["first"], line["second"]
            columns = [line["name"], *(f"{first[key]:.3f}" for key in ("content", "style", "background"))]
            columns += [f"**{first['all three']:.3f}**", _by_seed(cells["first"])]
            columns += [f"{second['all three']:.3f}", _by_seed(cells["second"]), _against(cells, base)]
            made.append("| " + " | ".join(columns) + " |")
        made.append("")
    return made + _preconditioning(lines)


def _by_seed(cells: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in cells.mean((1, 2)))


def _against(cells: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> str:
    if cells is base:
        return ""
    found = difference(cells["first"], base["first"])
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _preconditioning(lines: list[dict[str, Any]]) -> list[str]:
    """What the metric did to the gradients, wherever a joint training had one."""
    seen = [(line, note) for line in lines for note in line["preconditioning"]]
    made = ["| Riemannian | step | cosine to the raw gradient | condition |", "| --- | --- | --- | --- |"] if seen else []
    for line, note in seen:
        made.append(f"| {line['ablation']}: {line['name']} | {note['step']} | {note['cosine']:.2f} | {note['condition']:.0f} |")
    return made


if __name__ == "__main__":
    print("\n".join(table(read(Path(sys.argv[1])))))
