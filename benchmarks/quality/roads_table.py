"""Markdown tables of a roads.jsonl: python -m benchmarks.quality.roads_table benchmarks/quality/results/roads.jsonl"""

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .ablate import read
from .statistics import difference

HEADS = ("road", "seconds", "content", "style", "place", "**all three**", "first judge", "against as before (95 %)", "at other strengths")
BEFORE = "as before"


def tables(lines: list[dict[str, Any]]) -> list[str]:
    """A table for every kind, in the order in which the kinds came first; the second judge's numbers unless it is said."""
    order = list(dict.fromkeys(line["kind"] for line in lines))
    made = []
    for kind, several in groupby(sorted(lines, key=lambda line: order.index(line["kind"])), key=lambda line: line["kind"]):
        rows = list({line["name"]: line for line in several}.values())
        before = next((line for line in rows if line["name"] == BEFORE), None)
        made += [f"### {kind}", "", f"| {' | '.join(HEADS)} |", "| --- " * len(HEADS) + "|"]
        made += [_row(line, before) for line in rows] + [""]
    return made


def _row(line: dict[str, Any], before: dict[str, Any] | None) -> str:
    at_one = next((found for found in line["found"] if tuple(found["strengths"]) == (1.0, 1.0)), line["found"][0])
    second = at_one["second"]
    cells = [line["name"], f"{line['seconds']:.0f}", *(f"{second[key]:.3f}" for key in ("content", "style", "background"))]
    cells += [
        f"**{second['all three']:.3f}**",
        f"{at_one['first']['all three']:.3f}",
        _against(line, before),
        _elsewhere(line["found"], at_one),
    ]
    return f"| {' | '.join(cells)} |"


def _against(line: dict[str, Any], before: dict[str, Any] | None) -> str:
    if before is None or line is before:
        return ""
    ours, theirs = (np.array(each["found"][0]["cells"]["second"]) for each in (line, before))
    if ours.shape != theirs.shape:
        return ""
    found = difference(ours, theirs)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _elsewhere(found: Iterable[dict[str, Any]], at_one: dict[str, Any]) -> str:
    others = [each for each in found if each is not at_one]
    return "; ".join(f"({each['strengths'][0]:g}, {each['strengths'][1]:g}) {each['second']['all three']:.3f}" for each in others)


if __name__ == "__main__":
    print("\n".join(tables(read(Path(sys.argv[1])))))
