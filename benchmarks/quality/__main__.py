"""The contest, in pieces: python b4m.py bench quality [run|tune|ablate|roads|final|second] [FOLDER] --seconds 540

``run`` fills FOLDER/chosen.json from the development pairs, if it is not there, and then runs the rows of the table on the test pairs,
again until all are there (``--only`` picks rows). ``ablate`` changes one thing at a time on the development pairs, ``tune`` repeats what
was tried while the method was made, ``roads`` what was tried to get further (roads.py), ``final`` is the contest of the preserved over
all pairs (final.py), ``second`` one on another base model (second.py). The shipped examples are examples.py's.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from b4m_core import B4MError
from benchmarks.world.judge import Judge, load_judge

from . import concepts, own_model, second
from .ablate import Ablating
from .bases import UNET, flow_base
from .choose import choose
from .contest import Running
from .final import final_rows, of_contest
from .methods import Contest
from .references import Studio
from .rows import rows
from .travelling import Travelling
from .tune import Tuning

QUICK = ("base model", "true pictures", "sum of LoRAs, half the rows", "ours: B4M, free, kept", "ours + joint, Riemannian, kept")
EMBEDDED = Path(__file__).resolve().parents[2] / "mini"


def main(options: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.model is not None:
        own_model.run(options)
        return
    started = time.monotonic()
    base = UNET if options.work != "second" else flow_base(options.flow)
    studio = Studio(EMBEDDED, device, everywhere=options.everywhere, convolutions=options.convolutions, base=base)
    judges = {name: load_judge(name).to(device) for name in ("first", "second")}
    if options.quick:
        quick(studio, judges, options)
        return
    if options.work == "roads":
        left = options.seconds - (time.monotonic() - started)
        Travelling(Contest(studio, judges, concepts.DEVELOPMENT, concepts.TRAINING_SEEDS), options.folder, left).run(options.only)
        return
    if options.work == "final":
        three, one = final_contests(studio, judges, options)
        run_final(three, one, options, started + options.seconds)
        return
    if options.work == "second":
        second.run(studio, judges, options.folder, started + options.seconds, (concepts.DEVELOPMENT, concepts.LARGE))
        return
    if options.work == "ablate":
        left = options.seconds - (time.monotonic() - started)
        Ablating(Contest(studio, judges, concepts.DEVELOPMENT, (0,)), options.folder, left).run(options.only)
        return
    chosen = options.folder / "chosen.json"
    if options.work == "tune" or not chosen.exists():
        tuning = Tuning(Contest(studio, {"first": judges["first"]}, concepts.DEVELOPMENT, (0,)), options.folder, options.seconds)
        tuning.try_all(options.only) if options.work == "tune" else choose(tuning, chosen)
    settings = json.loads(chosen.read_text(encoding="utf-8")) if chosen.exists() else {}
    if options.work == "run":
        left = options.seconds - (time.monotonic() - started)
        contest = Contest(studio, judges, concepts.TEST, concepts.TRAINING_SEEDS)
        Running(contest, options.folder, rows(contest, settings), left).run(options.only)


def final_contests(studio: Studio, judges: dict[str, Judge], options: argparse.Namespace) -> tuple[Contest, Contest]:
    """The one of three seeds, and the one of the seed that is asked for; for a processor both of that seed."""
    split = concepts.TEST if options.few else concepts.LARGE
    if options.every is None:
        three = Contest(studio, judges, split, concepts.TRAINING_SEEDS)
        return three, three.with_seeds([options.seed])
    concepts.NOISES, options.folder = concepts.NOISES[:1], options.folder / f"every_{options.every}"
    fewer = Contest(studio, judges, concepts.Split(split.contents[:: options.every], split.styles), [options.seed])
    return fewer, fewer.with_seeds([options.seed])


def run_final(three: Contest, one: Contest, options: argparse.Namespace, stop: float) -> None:
    table = final_rows(three, one)
    for contest in (three, one):
        mine = of_contest(table, contest)
        names = [name for name in options.only or mine if name in mine]
        if names:
            Running(contest, options.folder, mine, stop - time.monotonic()).run(names)


def quick(studio: Studio, judges: dict[str, Judge], options: argparse.Namespace) -> None:
    """The same protocol at a size for two cores: one pair, one seed, four pictures a row, few steps. It proves that it runs, no more."""
    concepts.PROMPTS, concepts.NOISES = concepts.PROMPTS[:2], concepts.NOISES[:2]
    concepts.AUXILIARY_PICTURES = 2
    if options.work == "roads":
        concepts.NOISES = concepts.NOISES[:1]
        split = concepts.Split(concepts.DEVELOPMENT_CONTENTS[:1], concepts.DEVELOPMENT_STYLES[:1])
        Travelling(Contest(studio, judges, split, (0,), most_steps=2), options.folder, options.seconds).run(options.only)
        return
    if options.work == "second":
        concepts.NOISES = concepts.NOISES[:1]
        splits = (concepts.Split(each.contents[:1], each.styles[:1]) for each in (concepts.DEVELOPMENT, concepts.LARGE))
        second.run(studio, judges, options.folder, time.monotonic() + options.seconds, tuple(splits), most_steps=2)
        return
    concepts.AUXILIARY_STYLES = concepts.AUXILIARY_STYLES[:4]
    split = concepts.Split(concepts.TEST_CONTENTS[-1:], concepts.TEST_STYLES[:1])
    settings = json.loads((Path(__file__).parent / "results" / "chosen.json").read_text(encoding="utf-8"))
    contest = Contest(studio, judges, split, (0,), most_steps=30)
    Running(contest, options.folder, rows(contest, settings), options.seconds).run(QUICK)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("tune", "run", "ablate", "roads", "final", "second"), nargs="?", default="run")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("b4m_quality"), help="where the results go (b4m_quality)")
    parser.add_argument("--quick", action="store_true", help="one pair, few steps: minutes on two cores")
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--only", action="append", default=[], help="a trial, row or ablation by name; may repeat")
    parser.add_argument("--seed", type=int, default=0, choices=concepts.TRAINING_SEEDS, help="final: of the rows that have one (0)")
    parser.add_argument(
        "--every", type=int, metavar="N", help="final: only every Nth content, one seed, one noise, into FOLDER/every_N: for a processor"
    )
    parser.add_argument("--few", action="store_true", help="final: the first 24 pairs alone")
    parser.add_argument("--everywhere", action="store_true", help="roads: adapt every Linear of the transformers, not attention alone")
    parser.add_argument("--convolutions", action="store_true", help="roads, final: adapt the convolutions too")
    parser.add_argument("--flow", type=Path, default=Path("b4m_flow"), help="second: the folder of benchmarks.world.make_flow (b4m_flow)")
    own_model.arguments(parser)
    try:
        main(parser.parse_args())
    except B4MError as error:
        sys.exit(f"b4m: {error}")
