"""Marks against pictures seen: python -m benchmarks.quality.time_chart benchmarks/quality/results/roads.jsonl docs/quality/time.webp"""

import sys
from pathlib import Path
from typing import Any

from .ablate import read

FULL = {"as before": False, "decay": True}  # of the kind "content": eight rows, 250 steps, and whether the content's rate falls
FULL_SEEN = 2000


def points(lines: list[dict[str, Any]]) -> list[tuple[int, str, float, float]]:
    """Pictures that one training sees, what it is, and the shares with all three right by the second and the first judge."""
    found = []
    for line in lines:
        if line["kind"] == "time":
            seen, name = int(line["settings"]["seen"]), line["name"]
        elif line["kind"] == "content" and line["name"] in FULL:
            seen, name = FULL_SEEN, f"4 + 4 rows, 250 steps, 0.001{', the content falling' if FULL[line['name']] else ''}"
        else:
            continue
        at_one = next(each for each in line["found"] if tuple(each["strengths"]) == (1.0, 1.0))
        found.append((seen, name, at_one["second"]["all three"], at_one["first"]["all three"]))
    return sorted(found)


def chart(lines: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.0, 5.6), dpi=130)
    for number, (seen, name, second, first) in enumerate(points(lines), start=1):
        rows, _, rest = name.partition(" rows, ")
        colour = {2: "tab:blue", 3: "tab:purple", 4: "tab:green", 8: "tab:red"}.get(sum(int(each) for each in rows.split(" + ")), "grey")
        axes.plot([seen, seen], [second, first], color=colour, alpha=0.25)
        axes.plot(seen, second, marker="o", color=colour)
        axes.plot(seen, first, marker="o", color=colour, fillstyle="none")
        axes.annotate(str(number), (seen, second), textcoords="offset points", xytext=(6, -3), fontsize=8)
        axes.plot([], [], marker="o", linestyle="", color=colour, label=f"{number}: {rows}, {rest}")
    axes.set(
        xscale="log",
        xlabel="pictures that one training sees (train and preservation rows times steps)",
        ylabel="share with content, style and place right",
        xlim=(420, 2400),
        title="Merged, development pairs: second judge filled, first hollow",
    )
    ticks = (500, 667, 1000, 2000)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(title="rows of a step, steps, rate", title_fontsize=7, fontsize=6.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


if __name__ == "__main__":
    chart(read(Path(sys.argv[1])), Path(sys.argv[2]))
