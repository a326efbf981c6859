"""The page of the contest from what ``run`` left: python -m benchmarks.quality.report FOLDER docs/quality"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from . import concepts
from .statistics import difference, holm, interval

OURS = {"merge": "ours: B4M, free, kept", "pair": "ours + joint, Riemannian, kept"}


@dataclass
class Result:
    """One row as it was judged: ``marks`` by judge, bool (seeds, contents, styles, pictures, 3)."""

    about: dict[str, object]
    marks: dict[str, np.ndarray]

    def cells(self, judge: str) -> np.ndarray:
        """The primary number of every (seed, content, style)."""
        return self.marks[judge].all(-1).mean(-1)

    def shares(self, judge: str) -> tuple[float, float, float, float]:
        content, style, background = self.marks[judge].reshape(-1, 3).mean(0)
        return float(content), float(style), float(background), float(self.cells(judge).mean())


def read(folder: Path, split: concepts.Split = concepts.TEST) -> dict[str, Result]:
    """Every row in FOLDER/rows, by name."""
    found = {}
    for file in sorted((folder / "rows").glob("*.safetensors")):
        with safe_open(file, "np") as opened:
            about = json.loads(opened.metadata()["about"])
            shape = (-1, len(split.contents), len(split.styles))
            marks = {judge: opened.get_tensor(judge).astype(bool) for judge in opened.keys()}
        found[about["name"]] = Result(about, {judge: each.reshape(*shape, *each.shape[1:]) for judge, each in marks.items()})
    return found


def read_seeds(folder: Path, split: concepts.Split) -> dict[str, Result]:
    """Every row, with the training seeds that were run by themselves in FOLDER/more_*; of a league, only seeds that all its rows have."""
    found = read(folder, split)
    for later in sorted(folder.glob("more_*")):
        for name, each in read(later, split).items():
            if name in found:
                marks = {judge: np.concatenate([found[name].marks[judge], one]) for judge, one in each.marks.items()}
                found[name] = Result(found[name].about, marks)
    for league in {each.about["league"] for each in found.values()}:
        rows = {name: each for name, each in found.items() if each.about["league"] == league}
        seeds = min(len(each.marks["second"]) for each in rows.values())
        found |= {name: Result(each.about, {judge: marks[:seeds] for judge, marks in each.marks.items()}) for name, each in rows.items()}
    return found


def table(results: dict[str, Result], league: str, order: list[str]) -> list[str]:
    """Markdown lines of one league: shares by the second judge, the interval, the first judge's number, cost."""
    heads = ("method", "content", "style", "background", "**all three**", "95 %", "first judge", "seeds", "pairs won", "ours ahead by", "p")
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    ours = results.get(OURS.get(league, ""))
    rivals = [name for name in order if results[name].about["league"] == league]
    compared = {}
    if ours is not None:
        compared = {name: difference(ours.cells("second"), results[name].cells("second")) for name in rivals if results[name] is not ours}
    adjusted = holm({name: each.p for name, each in compared.items()})
    for name in sorted(rivals, key=lambda each: -results[each].shares("second")[3]):
        result = results[name]
        content, style, background, share = result.shares("second")
        low, high = interval(result.cells("second"))
        by_seed = result.cells("second").mean((1, 2))
        line = f"| {name} | {content:.3f} | {style:.3f} | {background:.3f} | **{share:.3f}** | {low:.3f} to {high:.3f}"
        line += f" | {result.shares('first')[3]:.3f} | {' '.join(f'{each:.3f}' for each in by_seed)}"
        if name in compared:
            each = compared[name]
            line += (
                f" | {each.won} of {each.won + each.lost} | {each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f}) | {adjusted[name]:.3f} |"
            )
        else:
            line += " | | | |"
        lines.append(line)
    return lines


def frontier_chart(results: dict[str, Result], file: Path) -> None:
    """Content against style as the two strengths are swept, one line for each examined method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.8), dpi=130)
    for name, result in results.items():
        if "frontier" in result.about:
            points = np.array(result.about["frontier"])
            axes.plot(points[:, 2], points[:, 3], marker="o", label=name)
    axes.set(
        xlabel="share of pictures with the content",
        ylabel="share of pictures in the style",
        title="Strengths swept, second judge, 24 pairs",
    )
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def main(folder: Path, docs: Path) -> None:
    results = read(folder)
    docs.mkdir(parents=True, exist_ok=True)
    order = list(results)
    pieces = []
    for league, title in (("merge", "Merge only"), ("pair", "A training for each pair"), ("frame", "Floors, ceiling, cheats")):
        pieces += [f"### {title}", "", *table(results, league, order), ""]
    (docs / "tables.md").write_text("\n".join(pieces), encoding="utf-8")
    frontier_chart(results, docs / "frontier.png")
    detectors = {name: result.about["detectors"] for name, result in results.items() if "detectors" in result.about}
    costs = {
        name: {key: result.about[key] for key in ("seconds to make", "numbers for a pair", "likeness to a reference")}
        for name, result in results.items()
    }
    (docs / "numbers.json").write_text(json.dumps({"detectors": detectors, "costs": costs}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(pieces))
    print(json.dumps(detectors, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
