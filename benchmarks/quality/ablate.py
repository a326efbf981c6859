"""Ablations on the development pairs, a line each: python -m benchmarks.quality ablate FOLDER --seconds N

FOLDER/ablations.jsonl gets a line for every arm when it is finished. Arms that are there are left out, so that a run that stops goes on
where it was; what was measured under another name is copied. Both judges are recorded and the first ranks: the test pairs and the second
judge decide nothing here. The first arm of an ablation is what the others are compared with (ablation_table.py).
"""

import dataclasses
import functools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import metrics
from .choose import HALVES, OURS, PAPER, at
from .families import Adapters
from .methods import Apart, Contest, Joint
from .painting import shares

JOINT = Joint(3e-4, metric=metrics.of_two_pairs, kept=4)
LENGTHS = (20, 50, 100, 150, 500)
# One shape for everything that has halves: rank 32 stores as much as ours at 16, and four own rows a step with four others, as ours has.
FOUR = dataclasses.replace(HALVES, rows=(4, 4))
FOUR_KEPT = dataclasses.replace(FOUR, partners="keep")
HALVES_RATE, FULL_RATE = 3e-3, 2e-3  # the best that was tried; twice as much ruins the halves
KEPT = (at(FOUR_KEPT, HALVES_RATE), at(dataclasses.replace(FOUR_KEPT, family="full"), FULL_RATE))


@dataclass(frozen=True)
class Arm:
    """One line: ``make`` trains what the pairs of ``contest`` wear."""

    ablation: str
    name: str
    contest: Contest
    make: Callable[[], Adapters]
    settings: dict[str, object] = field(default_factory=dict)


def arms(one: Contest, three: Contest) -> Iterator[Arm]:
    """All arms, the most wanted first; ``one`` has one training seed, ``three`` has three."""
    yield from _start(three)
    yield from _auxiliary_sets(one)
    yield from _gradients(one)
    yield from _length(one)
    yield from _joint(one)
    yield from _more_starts(three)
    yield from _corner_basis_split(one)
    yield from _bank(one)
    yield from _swapped(one)
    yield from _rank(one)


def _batch(contest: Contest, several: Sequence[tuple[str, str, Apart]]) -> Iterator[Arm]:
    """Merges of (ablation, name, setting), all settings trained as one batch."""
    settings = [apart for _, _, apart in several]

    def make(apart: Apart) -> Adapters:
        contest.prepare(settings)
        return contest.merge(apart)

    for ablation, name, apart in several:
        yield Arm(ablation, name, contest, functools.partial(make, apart), dataclasses.asdict(apart))


def _apart(contest: Contest, ablation: str, name: str, apart: Apart) -> Iterator[Arm]:
    yield from _batch(contest, [(ablation, name, apart)])


def _start(three: Contest) -> Iterator[Arm]:
    """What the default stands on: where the learned factors start, merged and after the joint stage."""
    starts = {"orthogonal, shared by all": OURS, "random, each its own": dataclasses.replace(OURS, family="lora")}
    for name, apart in starts.items():
        yield from _apart(three, "start", name, apart)

    def joined(apart: Apart) -> Adapters:
        return three.together(three.merge(apart), [JOINT])[0]

    for name, apart in starts.items():
        settings = {**dataclasses.asdict(apart), "then": "together"}
        yield Arm("start, then together", name, three, functools.partial(joined, apart), settings)


def _more_starts(three: Contest) -> Iterator[Arm]:
    """Which of the two differences between the starts it is."""
    yield from _apart(three, "start", "random, shared by all", dataclasses.replace(OURS, family="shared random"))
    yield from _apart(three, "start", "orthogonal, each its own", dataclasses.replace(OURS, family="own orthogonal"))


def _auxiliary_sets(one: Contest) -> Iterator[Arm]:
    yield from _apart(one, "auxiliary sets", "4", OURS)
    for own in (8, 4):
        yield from _apart(one, "auxiliary sets", f"0, {own} own rows", dataclasses.replace(OURS, rows=(own, 0), partners="none"))
    for sets in (1, 3, 8):
        yield from _apart(one, "auxiliary sets", str(sets), dataclasses.replace(OURS, sets=sets))


def _gradients(one: Contest) -> Iterator[Arm]:
    """What the auxiliary rows of the published halves move, two own rows and six others a step."""
    name = "gradients, published halves"
    yield from _apart(one, name, "separate: others move the partner", PAPER)
    yield from _apart(one, name, "mixed: all rows move both", dataclasses.replace(PAPER, partners="leak"))
    yield from _apart(one, name, "kept: others hold the own half", dataclasses.replace(PAPER, partners="keep"))


def _length(one: Contest) -> Iterator[Arm]:
    @functools.cache
    def run() -> dict[int, Adapters]:
        return one.lengths(one.merge(OURS), JOINT, LENGTHS)

    yield Arm("steps together", "0", one, lambda: one.merge(OURS))
    for steps in LENGTHS:
        yield Arm("steps together", str(steps), one, functools.partial(lambda steps: run()[steps], steps))


def _joint(one: Contest) -> Iterator[Arm]:
    rates = (3e-4, 1e-3)

    @functools.cache
    def run(kept: int, riemannian: bool) -> tuple[list[Adapters], list[tuple[int, float, float]]]:
        joint = dataclasses.replace(JOINT, kept=kept, metric=JOINT.metric if riemannian else None)
        return one.together(one.merge(OURS), [dataclasses.replace(joint, rate=rate) for rate in rates]), one.seen

    def make(kept: int, riemannian: bool, place: int) -> Adapters:
        several, one.seen = run(kept, riemannian)
        return several[place]

    for kept in (4, 0):
        for riemannian in (True, False):
            for place, rate in enumerate(rates):
                name = f"{'Riemannian' if riemannian else 'AdamW'}, {kept} kept rows, rate {rate:g}"
                yield Arm("optimiser together", name, one, functools.partial(make, kept, riemannian, place))


def _corner_basis_split(one: Contest) -> Iterator[Arm]:
    """The halves as written, without the corner B D, and full reach; then what the kept ones stand on and how they are cut."""
    for family, rate in (("halves", HALVES_RATE), ("no corner", HALVES_RATE), ("full", FULL_RATE)):
        yield from _apart(one, "corner, others", f"{family}, rate {rate:g}", at(dataclasses.replace(FOUR, family=family), rate))
    halves, full = KEPT
    of_halves = [
        ("corner, kept", f"halves, rate {HALVES_RATE:g}", "halves"),
        ("corner, kept", f"no corner, rate {HALVES_RATE:g}", "no corner"),
        ("basis, halves", "random", "halves"),
        ("basis, halves", "singular vectors, major", "halves, major"),
        ("basis, halves", "singular vectors, minor", "halves, minor"),
        # the embedded model has two heads in every layer, so contiguous halves of the outputs of q, k and v are its heads
        ("split, no corner", "halves, which are the heads here", "no corner"),
        ("split, no corner", "half of every head", "within heads"),
        ("split, no corner", "interleaved", "interleaved"),
    ]
    yield from _batch(one, [(ablation, name, dataclasses.replace(halves, family=family)) for ablation, name, family in of_halves])
    of_full = [
        ("corner, kept", f"full, rate {FULL_RATE:g}", "full"),
        ("basis, full", "random", "full"),
        ("basis, full", "singular vectors, major", "full, major"),
        ("basis, full", "singular vectors, minor", "full, minor"),
    ]
    yield from _batch(one, [(ablation, name, dataclasses.replace(full, family=family)) for ablation, name, family in of_full])


def _bank(one: Contest) -> Iterator[Arm]:
    """Own rows that wear a random finished partner: eight auxiliary contents and styles, learned under the trigger, in no judged pair."""
    halves = dataclasses.replace(HALVES, rows=(8, 0), partners="none")
    alone = dataclasses.replace(OURS, rows=(8, 0), partners="none")
    for name, apart in (("free, kept", OURS), ("halves", halves), ("free", alone)):
        yield from _apart(one, f"bank, {name}", "no partner worn", apart)
        yield from _apart(one, f"bank, {name}", "a random one worn", dataclasses.replace(apart, bank=True))


def _swapped(one: Contest) -> Iterator[Arm]:
    for apart in KEPT:
        yield from _apart(one, f"places, {apart.family}", "content in D, style in B", apart)
        swapped = dataclasses.replace(apart, family=f"{apart.family}, swapped")
        yield from _apart(one, f"places, {apart.family}", "content in B, style in D", swapped)


def _rank(one: Contest) -> Iterator[Arm]:
    for rank in (16, 8, 32, 4):
        yield from _apart(one, "rank", str(rank), dataclasses.replace(OURS, rank=rank))


class Ablating:
    """Runs the arms that are not in FOLDER/ablations.jsonl yet. An arm that began in time is finished."""

    def __init__(self, contest: Contest, folder: Path, seconds: float) -> None:
        self.started = time.monotonic()
        self.stop = self.started + seconds
        self.contest, self.file = contest, folder / "ablations.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, names: Sequence[str]) -> None:
        """The arms of the ablations that begin with one of ``names``, or all."""
        there = {(line["ablation"], line["name"]) for line in read(self.file)}
        for arm in arms(self.contest.with_seeds((0,)), self.contest.with_seeds((0, 1, 2))):
            if (names and not arm.ablation.startswith(tuple(names))) or (arm.ablation, arm.name) in there:
                continue
            if time.monotonic() > self.stop:
                print("no time for", arm.ablation, "|", arm.name, flush=True)
                continue
            try:
                self._run(arm)
            except Exception:  # noqa: BLE001  one arm that fails must not cost the others
                traceback.print_exc()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _run(self, arm: Arm) -> None:
        began, contest = time.monotonic(), arm.contest
        measured = self._measured(arm)
        if measured is not None:
            self._append({**measured, "ablation": arm.ablation, "name": arm.name})
            print(f"{time.monotonic() - self.started:6.1f} s  as before  {arm.ablation} | {arm.name}", flush=True)
            return
        contest.seen = []
        judged = contest.judged(contest.pictures(arm.make()))
        seconds = time.monotonic() - began
        shape = (len(contest.seeds), len(contest.split.contents), len(contest.split.styles))
        line = {
            "ablation": arm.ablation,
            "name": arm.name,
            "seconds": round(seconds, 1),
            "settings": arm.settings,
            **{judge: {key: round(value, 4) for key, value in shares(right).items()} for judge, right in judged.items()},
            # the primary number by seed, content and style, for intervals
            "cells": {judge: right.all(-1).float().mean(-1).view(shape).tolist() for judge, right in judged.items()},
            "preconditioning": [{"step": step, "cosine": cosine, "condition": condition} for step, cosine, condition in contest.seen],
        }
        self._append(line)
        said = "  ".join(f"{judge} {' '.join(f'{value:.3f}' for value in shares(right).values())}" for judge, right in judged.items())
        print(f"{time.monotonic() - self.started:6.1f} s  {seconds:5.1f} s  {arm.ablation} | {arm.name}: {said}", flush=True)

    def _measured(self, arm: Arm) -> dict[str, Any] | None:
        """A line of the same settings and as many seeds, whatever it is called."""
        settings = json.loads(json.dumps(arm.settings))
        for line in read(self.file) if settings else []:
            if line["settings"] == settings and len(line["cells"]["first"]) == len(arm.contest.seeds):
                return line
        return None

    def _append(self, line: dict[str, object]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of an ablations.jsonl, none where there is no file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
