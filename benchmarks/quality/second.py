"""The contest on a second base model, of another kind: python -m benchmarks.quality second FOLDER --flow FLOW_FOLDER --seconds N

FLOW_FOLDER is what benchmarks.world.make_flow left. Ours and its strongest rivals, everyone preserved, with as many trials each: three on
the development pairs, by the first judge, into FOLDER/tuning.jsonl and FOLDER/chosen.json; then all 108 held-out pairs into FOLDER/rows,
what matters most first, and later training seeds into FOLDER/more_1, FOLDER/more_2. Given again it goes on where it was.
"""

import dataclasses
import functools
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.world.judge import Judge

from . import concepts
from .choose import at
from .contest import Running
from .families import Adapters
from .merging import null_space
from .methods import Apart, Contest, Joint
from .references import Studio
from .roads import MINE, TWO_LORAS
from .rows import Row, true_pictures
from .tune import Tuning

RATES = (5e-4, 1e-3, 2e-3)
STRENGTHS = (0.33, 0.5, 0.67)  # of NP-LoRA
JOINT_RATES = (3e-4, 6e-4, 1e-3)
ON_BOTH = (32, 650)  # rank and steps of one LoRA on both
OURS, LORAS, NULLED = "ours", "two LoRAs, kept", "NP-LoRA, kept"
ALONE = "one LoRA on both, rank 32, kept"
APART = {OURS: MINE, LORAS: TWO_LORAS}
JOINED = {"ours + joint": OURS, "two LoRAs, kept + joint": LORAS}
EMBEDDED = {OURS: 1e-3, LORAS: 1e-3, NULLED: 0.5, **dict.fromkeys(JOINED, 3e-4), ALONE: 1e-3}  # what won there, where nothing is chosen
SEEDS = concepts.TRAINING_SEEDS
LONG = 100.0  # seconds that must be left for trials of what is trained together
SWEPT = ((0.8, 1.1), (0.9, 1.1), (1.1, 0.9))  # strengths, at the end


def falling(apart: Apart) -> Apart:
    """As a content is trained: the rate falls to zero over the second half."""
    return dataclasses.replace(apart, decay=True)


def trained_apart(contest: Contest, name: str, chosen: Mapping[str, float]) -> Adapters:
    """A content and a style, trained apart as ``name`` says at the rate that was chosen for it, and merged."""
    apart = at(APART[name], chosen[name])
    return contest.merge(falling(apart), apart)


class Choosing:
    """Three trials of every method on the development pairs."""

    def __init__(self, contest: Contest, folder: Path, stop: float) -> None:
        self.contest, self.stop, self.file = contest, stop, folder / "chosen.json"
        self.mine: dict[str, float] = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        self.tuning = Tuning(contest, folder, stop - time.monotonic())

    @property
    def chosen(self) -> dict[str, float]:
        return {**EMBEDDED, **self.mine}

    def merged(self) -> None:
        for name, apart in APART.items():
            if name not in self.mine:
                several = [at(apart, rate) for rate in RATES]
                self.contest.prepare([falling(each) for each in several], ("content",))
                self.contest.prepare(several, ("style",))
                self._best(name, RATES, [trained_apart(self.contest, name, {name: rate}) for rate in RATES])
        if NULLED not in self.mine:
            loras = trained_apart(self.contest, LORAS, self.chosen)
            self._best(NULLED, STRENGTHS, [null_space(loras, strength) for strength in STRENGTHS])

    def together(self) -> None:
        """As far as the time goes."""
        for name, start in JOINED.items():
            if name not in self.mine and time.monotonic() < self.stop:
                merged = trained_apart(self.contest, start, self.chosen)
                self._best(name, JOINT_RATES, self.contest.together(merged, [Joint(rate, kept=4) for rate in JOINT_RATES]))
        if ALONE not in self.mine and time.monotonic() < self.stop:
            rank, steps = ON_BOTH
            self._best(ALONE, RATES, self.contest.one_for_both(rank, RATES, steps, kept=4))

    def _best(self, name: str, settings: Sequence[float], trials: Sequence[Adapters]) -> None:
        found = [self.tuning.note(name, each, setting=setting) for setting, each in zip(settings, trials, strict=True)]
        self.mine[name] = settings[found.index(max(found))]
        self.file.write_text(json.dumps(self.mine, indent=1) + "\n", encoding="utf-8")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def merged_rows(contest: Contest, chosen: Mapping[str, float]) -> dict[str, Row]:
    def nulled() -> Adapters:
        return null_space(trained_apart(contest, LORAS, chosen), chosen[NULLED])

    made = {OURS: lambda: trained_apart(contest, OURS, chosen), LORAS: lambda: trained_apart(contest, LORAS, chosen), NULLED: nulled}
    return {name: Row("merge", make) for name, make in made.items()}


def pair_rows(contest: Contest, chosen: Mapping[str, float]) -> dict[str, Row]:
    def together(name: str, start: str) -> Adapters:
        return contest.together(trained_apart(contest, start, chosen), [Joint(chosen[name], kept=4)])[0]

    def on_both() -> Adapters:
        rank, steps = ON_BOTH
        return contest.one_for_both(rank, [chosen[ALONE]], steps, kept=4)[0]

    made = {name: functools.partial(together, name, start) for name, start in JOINED.items()}
    return {name: Row("pair", make) for name, make in {**made, ALONE: on_both}.items()}


def run(studio: Studio, judges: dict[str, Judge], folder: Path, stop: float, splits: tuple[concepts.Split, ...], **few: int) -> None:
    """Everything that is not in ``folder`` yet, until ``stop`` (time.monotonic), on the ``splits`` to choose on and of the table."""
    development, test = splits
    choosing = Choosing(Contest(studio, judges, development, SEEDS[:1], **few), folder, stop)
    _tried(choosing.merged)
    contest = Contest(studio, judges, test, SEEDS[:1], **few)
    frame = {"base model": Row("frame", lambda: None), "true pictures": Row("frame", lambda: true_pictures(contest))}
    running = functools.partial(Running, examined=())

    def left() -> float:
        return stop - time.monotonic()

    running(contest, folder, merged_rows(contest, choosing.chosen), left()).run([])
    choosing.stop = stop - LONG
    _tried(choosing.together)
    chosen = choosing.chosen
    running(contest, folder, pair_rows(contest, chosen) | frame, left()).run(["ours + joint", ALONE, *frame, "two LoRAs, kept + joint"])
    others = {f"more_{seed}": contest.with_seeds([seed]) for seed in SEEDS[1:]}
    for name, later in others.items():
        running(later, folder / name, merged_rows(later, chosen), left()).run([])
    swept(contest, folder / "strengths", chosen, stop)
    for name, later in others.items():
        running(later, folder / name, pair_rows(later, chosen), left()).run([])


def _tried(choose: Callable[[], None]) -> None:
    try:
        choose()
    except Exception:  # noqa: BLE001  the rows can do without
        traceback.print_exc()


def swept(contest: Contest, folder: Path, chosen: Mapping[str, float], stop: float) -> None:
    """The merged rows at other strengths, into FOLDER/tuning.jsonl."""
    if folder.exists() or time.monotonic() > stop:
        return
    looking = Tuning(contest, folder, stop - time.monotonic())
    for name, row in merged_rows(contest, chosen).items():
        worn = row.make()
        for strengths in SWEPT:
            if isinstance(worn, Adapters) and time.monotonic() < stop:
                looking.note(name, worn.scaled(*strengths), strengths=strengths)
