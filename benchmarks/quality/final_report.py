"""The tables of the last contest: python -m benchmarks.quality.final_report benchmarks/quality/results/final [PICTURE.png]"""

import sys
from pathlib import Path

import numpy as np

from . import concepts
from .report import Result, frontier_chart, read
from .statistics import difference, interval

LEAGUES = {
    "merge": ("ours", "ours, fitted"),
    "pair": ("ours + joint", "ours, fitted + joint"),
    "words": ("ours, words",),
    "words and convolutions": ("ours, words and convolutions",),
    "frame": (),
}
FEW = (len(concepts.TEST_CONTENTS), len(concepts.TEST_STYLES))  # the first test pairs, a part of all


def tables(results: dict[str, Result], few: bool = True) -> list[str]:
    """Markdown: by league, the best first; the second judge's numbers unless it is said. ``few``: with those of the first 24 pairs."""
    made = []
    for league, ours in LEAGUES.items():
        rows = {name: each for name, each in results.items() if each.about["league"] == league}
        if not rows:
            continue
        present = [name for name in ours if name in rows]
        heads = ["method", "content", "style", "place", "**all three**", "95 %", "first judge", *["first 24 pairs"] * few]
        heads += [f"{name} ahead by" for name in present]
        made += [f"### {league}", "", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for name in sorted(rows, key=lambda each: -rows[each].shares("second")[3]):
            made.append(_row(name, rows, present, few))
        made.append("")
    return made


def _row(name: str, rows: dict[str, Result], ours: list[str], with_few: bool) -> str:
    result = rows[name]
    content, style, place, share = result.shares("second")
    low, high = interval(result.cells("second"))
    few = result.cells("second")[:, : FEW[0], : FEW[1]].mean()
    cells = [name, f"{content:.3f}", f"{style:.3f}", f"{place:.3f}", f"**{share:.3f}**", f"{low:.3f} to {high:.3f}"]
    cells += [f"{result.shares('first')[3]:.3f}", *[f"{few:.3f}"] * with_few]
    for mine in ours:
        if mine == name:
            cells.append("")
            continue
        found = difference(rows[mine].cells("second"), result.cells("second"))
        cells.append(f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}), {found.won} of {found.won + found.lost}")
    return f"| {' | '.join(cells)} |"


def by_concept(result: Result, split: concepts.Split = concepts.LARGE) -> list[str]:
    """The primary number by content and by style, the lowest first."""
    cells = result.cells("second").mean(0)
    found = [(name, float(value)) for name, value in zip(split.contents, cells.mean(1), strict=True)]
    looks = [(name, float(value)) for name, value in zip(split.styles, cells.mean(0), strict=True)]
    return [", ".join(f"{name} {value:.2f}" for name, value in sorted(each, key=lambda one: one[1])) for each in (found, looks)]


def main(folder: Path, chart: Path | None) -> None:
    results = read(folder, concepts.LARGE)
    print("\n".join(tables(results)))
    for name, result in results.items():
        print(name, *by_concept(result), result.about.get("detectors", ""), sep="\n  ")
        for point in result.about.get("frontier", []):  # type: ignore[attr-defined]
            print("   ", point)
        print("   seconds", np.round([result.about["seconds to make"], result.about["seconds to paint"]], 1))
    if chart is not None:
        frontier_chart(results, chart)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
