"""Many contents and many styles, measured: python b4m.py bench studio [FOLDER] --cards 0,1 | --cpu 2

Draws 12 contents and 8 styles that the embedded model never saw, trains them by ``studio`` on the workers, paints all pairs, and
sets that beside as many joint trainings as there are pairs, measured on a few. Then a worker is killed and a disk fills. Prints a
table and writes FOLDER/results.json; ``--arithmetic`` gives the table for 1,000 x 1,000 on SDXL alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from b4m_core import B4MError

from . import accidents, arithmetic, joint
from .sets import CONTENTS, STYLES, plan_of
from .watched import Watched, watch

PARTS = ("studio", "joint", "killed", "full-disk")


def main(options: argparse.Namespace) -> None:
    if options.arithmetic:
        for row in arithmetic.table():
            print("| " + " | ".join(row) + " |")
        return
    began = time.monotonic()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    where = ["--cpu", str(options.cpu)] if options.cpu else ["--cards", options.cards] if options.cards else []
    results: dict[str, Any] = {"machine": _machine(options)}
    results |= {"contents": options.contents, "styles": options.styles, "preset": options.preset}

    def left() -> float:
        return float(options.seconds) - (time.monotonic() - began)

    for part in PARTS:
        if part in (options.only or PARTS) and left() > 10:
            later = part != [each for each in PARTS if each in (options.only or PARTS)][-1]
            results[part] = _measured(part, folder, where, options, left() * (0.8 if later else 1.0))
            (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(part, json.dumps(results[part]), flush=True)
    _print(results)


def _measured(part: str, folder: Path, where: list[str], options: argparse.Namespace, limit: float) -> dict[str, Any]:
    if part in ("studio", "joint"):
        plan = plan_of(
            folder / "sets", CONTENTS[: options.contents], STYLES[: options.styles], preset=options.preset,
            store=folder / "store", output=folder / "library", settings={"steps": options.steps} if options.steps else {},
        )  # fmt: skip
        if part == "studio":
            return _told(watch(plan, where, limit=limit), options)
        device = "cpu" if options.cpu or not torch.cuda.is_available() else "cuda"
        seconds = joint.seconds_of_pairs(plan, options.joint, device)
        pairs = options.contents * options.styles
        return {"seconds of each": [round(each, 1) for each in seconds], "times the pairs": round(pairs * sum(seconds) / len(seconds), 1)}
    if part == "killed":
        return accidents.killed(folder / "accident", where, options.accident_steps, limit / (2 if options.cpu else 1))
    return accidents.full_disk(folder / "accident", where, options.accident_steps, limit / 3)


def _told(done: Watched, options: argparse.Namespace) -> dict[str, Any]:
    trainings = [each for each in done.ended if each.kind == "training"]
    return {
        "status": done.status,
        "wall seconds": round(done.seconds, 1),
        "seconds until the last training": round(done.last("training"), 1),
        "seconds until the last pair": round(done.last("pair"), 1),
        "workers": len({each.process for each in done.ended}),
        "trainings": len(trainings),
        "pairs": len([each for each in done.ended if each.kind == "pair"]),
        "work of auxiliary pictures": round(done.work("auxiliary"), 1),
        "work of trainings": round(done.work("training"), 1),
        "median training": round(sorted(each.seconds for each in trainings)[len(trainings) // 2], 1) if trainings else None,
        "work of pairs": round(done.work("pair"), 1),
        "cards at work": None if done.busy is None else round(done.busy, 3),
        "last lines": [line for _, line in done.lines[-3:]],
    }


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    cards = [] if options.cpu else [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    workers = options.cpu or options.cards or "all cards"
    return {"cards": cards, "workers asked for": workers, "torch": torch.__version__, "system": platform.platform()}


def _print(results: dict[str, Any]) -> None:
    print("| what | measured |\n|---|---|")
    for part in PARTS:
        for name, value in results.get(part, {}).items():
            print(f"| {part}: {name} | {value} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("b4m_studio"), help="where all of it goes (b4m_studio)")
    where_to = parser.add_mutually_exclusive_group()
    where_to.add_argument("--cards", help="as of studio, such as 0,1")
    where_to.add_argument("--cpu", type=int, help="as of studio: so many workers")
    parser.add_argument("--contents", type=int, default=12, choices=range(1, 13), metavar="N")
    parser.add_argument("--styles", type=int, default=8, choices=range(1, 9), metavar="M")
    parser.add_argument("--preset", default="normal")
    parser.add_argument("--steps", type=int, help="of each training, instead of the preset's")
    parser.add_argument("--joint", type=int, default=2, help="joint trainings that are measured")
    parser.add_argument("--accident-steps", type=int, default=600, help="steps of the trainings that are disturbed")
    parser.add_argument("--seconds", type=float, default=1e6, help="no further part is begun after so many")
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--arithmetic", action="store_true", help="1,000 x 1,000 on SDXL, and nothing else")
    try:
        main(parser.parse_args())
    except B4MError as error:
        sys.exit(f"b4m: {error}")
