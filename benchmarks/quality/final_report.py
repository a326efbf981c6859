"""The tables of the last contest, for docs/quality.md:

python -m benchmarks.quality.final_report benchmarks/quality/results/final [--chart PICTURE.png]
python -m benchmarks.quality.final_report benchmarks/quality/results/words --without final
python -m benchmarks.quality.final_report benchmarks/quality/results/mirror --without words
python -m benchmarks.quality.final_report benchmarks/quality/results/few --few
"""

import argparse
from pathlib import Path

import numpy as np

from . import concepts
from .report import Result, frontier_chart, read_seeds
from .statistics import difference, interval

LEAGUES = {
    "merge": ("ours", "ours, fitted"),
    "pair": ("ours + joint", "ours, fitted + joint"),
    "words": ("ours, words",),
    "convolutions": ("ours, convolutions",),
    "words and convolutions": ("ours, words and convolutions",),
    "words, convolutions, single pictures": ("ours, words, convolutions, single pictures",),
    "words, convolutions and mirror": ("ours, words, convolutions and mirror",),
    "pair, words and convolutions": ("ours + joint, words and convolutions",),
    "frame": (),
}
FEW = (len(concepts.TEST_CONTENTS), len(concepts.TEST_STYLES))  # the first test pairs, a part of all


def tables(results: dict[str, Result], few: bool = True, without: dict[str, Result] | None = None) -> list[str]:
    """Markdown: by league, the best first; the second judge's numbers unless it is said. ``few``: with those of the first 24 pairs.

    ``without``: rows of the same names but for what was added, of which the same seeds are compared with.
    """
    made = []
    for league, ours in LEAGUES.items():
        rows = {name: each for name, each in results.items() if each.about["league"] == league}
        if not rows:
            continue
        present = [name for name in ours if name in rows]
        heads = ["method", "content", "style", "place", "**all three**", "95 %", "first judge", *["first 24 pairs"] * few]
        heads += [f"{name} ahead by" for name in present] + ["against without, second judge; first"] * (without is not None)
        seeds = {len(each.marks["second"]) for each in rows.values()}
        made += [f"### {league}, {max(seeds)} seeds", "", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for name in sorted(rows, key=lambda each: -rows[each].shares("second")[3]):
            cells = [*_shares(name, rows[name], few), *(_ahead(rows[mine], rows[name]) for mine in present)]
            if without is not None:
                plain = name.removesuffix(f", {league.removeprefix('pair, ')}")
                cells.append(_gain(rows[name], without.get(plain) or without.get(f"{plain}, words and convolutions")))
            made.append(f"| {' | '.join(cells)} |")
        made.append("")
    return made


def _shares(name: str, result: Result, with_few: bool) -> list[str]:
    content, style, place, share = result.shares("second")
    low, high = interval(result.cells("second"))
    few = result.cells("second")[:, : FEW[0], : FEW[1]].mean()
    cells = [name, f"{content:.3f}", f"{style:.3f}", f"{place:.3f}", f"**{share:.3f}**", f"{low:.3f} to {high:.3f}"]
    return [*cells, f"{result.shares('first')[3]:.3f}", *[f"{few:.3f}"] * with_few]


def _ahead(mine: Result, other: Result, judge: str = "second") -> str:
    """``mine`` less ``other``, its interval, and the pairs won of those that differ; nothing where they are one."""
    if mine is other:
        return ""
    found = difference(mine.cells(judge), other.cells(judge))
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}), {found.won} of {found.won + found.lost}"


def _gain(result: Result, before: Result | None) -> str:
    if before is None:
        return ""
    seeds = len(result.marks["second"])
    same = Result(before.about, {judge: marks[:seeds] for judge, marks in before.marks.items()})
    return "; ".join(_ahead(result, same, judge) for judge in ("second", "first"))


def by_concept(result: Result, split: concepts.Split = concepts.LARGE) -> list[str]:
    """The primary number by content and by style, the lowest first."""
    cells = result.cells("second").mean(0)
    found = [(name, float(value)) for name, value in zip(split.contents, cells.mean(1), strict=True)]
    looks = [(name, float(value)) for name, value in zip(split.styles, cells.mean(0), strict=True)]
    return [", ".join(f"{name} {value:.2f}" for name, value in sorted(each, key=lambda one: one[1])) for each in (found, looks)]


def main(options: argparse.Namespace) -> None:
    split = concepts.TEST if options.few else concepts.LARGE
    results = read_seeds(options.folder, split)
    without = None if options.without is None else read_seeds(options.folder.parent / options.without, split)
    print("\n".join(tables(results, not options.few, without)))
    for name, result in results.items():
        print(name, *by_concept(result, split), result.about.get("detectors", ""), sep="\n  ")
        for point in result.about.get("frontier", []):  # type: ignore[attr-defined]
            print("   ", point)
        print("   seconds", np.round([result.about["seconds to make"], result.about["seconds to paint"]], 1))
    if options.chart is not None:
        frontier_chart(results, options.chart)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder that holds rows/")
    parser.add_argument("--without", type=Path, help="a folder beside it with the same rows without what was added")
    parser.add_argument("--few", action="store_true", help="rows of the first 24 pairs")
    parser.add_argument("--chart", type=Path, help="the picture of content against style to write")
    main(parser.parse_args())
