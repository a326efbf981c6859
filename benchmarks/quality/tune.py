"""Trials on the development pairs, by the first judge: python -m benchmarks.quality tune FOLDER --seconds N

Each method has its list of trials; what won is written into rows.py, and the log is kept beside it. Trials of one stage-one setting at
several rates are one batch.
"""

import dataclasses
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from . import concepts, metrics
from .composed import Words, composed_scores, paint_terms
from .families import Adapters
from .merging import choose_by_step, null_space, over_time
from .methods import Apart, Contest, Joint
from .painting import shares
from .references import STEPS

KEEP = Apart(partners="keep", rows=(2, 2))


def apart_trials() -> Iterator[tuple[str, list[Apart]]]:
    """(name, settings that differ in their rates), what was tried in the order of trying."""

    def at(apart: Apart, *rates: float) -> list[Apart]:
        return [dataclasses.replace(apart, content_rate=rate, style_rate=rate) for rate in rates]

    yield "sum", at(Apart(), 5e-4, 1e-3, 2e-3)
    yield "leaning .1", at(Apart(family="leaning", slow=0.1), 1e-3, 2e-3, 3e-3)
    yield "sum, keep", at(KEEP, 5e-4, 1e-3, 2e-3)
    yield "tangent, keep", at(dataclasses.replace(KEEP, family="tangent"), 1e-3, 2e-3, 4e-3)
    yield "full, keep", at(dataclasses.replace(KEEP, family="full", rank=32), 2e-3, 4e-3)
    yield "sum, keep, 4 + 4 rows", at(dataclasses.replace(KEEP, rows=(4, 4)), 1e-3, 2e-3)
    yield "leaning 1", at(Apart(family="leaning"), 5e-4, 1e-3, 2e-3)
    yield "leaning .3", at(Apart(family="leaning", slow=0.3), 1e-3, 2e-3)
    yield "two inputs", at(Apart(family="two inputs"), 1e-3, 2e-3)
    yield "halves, others", at(Apart(family="halves", rank=32, rows=(2, 2), partners="others"), 1e-3, 3e-3)
    yield "orthogonal", at(Apart(family="orthogonal"), 1e-3, 2e-3, 4e-3)
    yield "published, others", at(Apart(family="published", rank=32, rows=(2, 2), partners="others"), 1e-3, 3e-3)
    yield "full", at(Apart(family="full", rank=32), 1e-3, 2e-3, 4e-3)
    yield "full, major, keep", at(dataclasses.replace(KEEP, family="full, major", rank=32), 2e-3)
    yield "blocks", at(Apart(family="blocks"), 1e-3, 2e-3, 4e-3)
    yield "no corner, others", at(Apart(family="no corner", rank=32, rows=(2, 2), partners="others"), 3e-3)
    yield "sum, 500 steps", at(Apart(steps=500), 1e-3)
    yield "sum, decay", at(Apart(decay=True), 1e-3, 2e-3)
    yield "sum, rank 32", at(Apart(rank=32), 1e-3)


METRICS = {
    "sum": metrics.of_two_pairs,
    "sum, keep": metrics.of_two_pairs,
    "sum, keep, 4 + 4 rows": metrics.of_two_pairs,
    "leaning .1": metrics.of_two_pairs,
    "halves, others": metrics.of_halves,
    "published, others": metrics.of_halves,
}
JOINED = ("sum", "sum, keep", "sum, keep, 4 + 4 rows", "leaning .1", "tangent, keep", "full, keep", "halves, others")
JOINT_RATES = (3e-4, 1e-3)
RAMPS = {  # content first, content last, style first, style last
    "content early": (1.3, 0.6, 0.8, 1.2),
    "content fades": (1.0, 0.5, 1.0, 1.0),
    "content early, style rises": (1.2, 0.8, 0.8, 1.3),
    "style early": (0.7, 1.2, 1.3, 0.8),
}


class Tuning:
    """A log of trials: one JSON line each, appended as it is known."""

    def __init__(self, contest: Contest, folder: Path, seconds: float) -> None:
        self.contest, self.stop, self.started = contest, time.monotonic() + seconds, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.log = (folder / "tuning.jsonl").open("a", encoding="utf-8")

    def try_all(self, names: Sequence[str]) -> None:
        """The trials of ``names``, or all."""
        for name, several in apart_trials():
            if names and name not in names:
                continue
            if time.monotonic() > self.stop:
                print("no time for", name, flush=True)
                continue
            try:
                self._try(name, several)
            except Exception:  # noqa: BLE001  one trial that fails must not cost the others
                traceback.print_exc()

    def _try(self, name: str, several: list[Apart]) -> None:
        contest = self.contest
        contest.prepare(several)
        found = []
        for apart in several:
            adapters = contest.merge(apart)
            found.append((self.note(name, adapters, rate=apart.content_rate), apart, adapters))
        _, best, adapters = max(found, key=lambda each: each[0])
        if name in ("sum", "sum, keep"):
            self._merges(name, adapters)
        if name in JOINED:
            for metric in {None, METRICS.get(name)}:
                joints = [Joint(rate, metric=metric) for rate in JOINT_RATES]
                for joint, joined in zip(joints, contest.together(adapters, joints), strict=True):
                    label = f"{name}, joint, {'Riemannian' if metric else 'AdamW'}"
                    self.note(label, joined, apart_rate=best.content_rate, rate=joint.rate)

    def _merges(self, name: str, adapters: Adapters) -> None:
        for content, style in ((1.15, 1.15), (1.0, 1.2), (0.85, 1.0), (1.0, 0.85)):
            self.note(f"{name}, strengths", adapters.scaled(content, style), strengths=[content, style])
        for name_of_ramp, ramp in RAMPS.items():
            self.note(f"{name}, ramp", over_time(adapters, *ramp, steps=STEPS), ramp=name_of_ramp)
        studio = self.contest.studio
        words = Words([concepts.subject(self.contest.split.contents[content]) for _, content, _ in self.contest.pairs])
        for weight in (1.0, 1.5):
            terms = composed_scores(adapters, words, studio.painter.dtype, weight, 1.0)
            self.mark(f"{name}, composed scores", paint_terms(studio, terms, len(self.contest.pairs)), weight=weight)
        for strength in (0.33, 0.67, 1.0):
            self.note(f"{name}, null space", null_space(adapters, strength), strength=strength)
        if name == "sum":
            for alpha, beta in ((1.5, 0.5), (1.0, 0.5), (0.5, 0.5), (0.5, 0.75)):
                self.note("choose by step", choose_by_step(adapters, steps=STEPS, alpha=alpha, beta=beta), alpha=alpha, beta=beta)

    def note(self, name: str, worn: object, **settings: object) -> float:
        return self.mark(name, self.contest.pictures(worn), **settings)  # type: ignore[arg-type]

    def mark(self, name: str, pictures: Tensor, **settings: object) -> float:
        found = {judge: shares(right) for judge, right in self.contest.judged(pictures).items()}
        self.log.write(json.dumps({"name": name, **settings, **found}) + "\n")
        self.log.flush()
        first = next(iter(found.values()))
        said = " ".join(f"{value:.3f}" for value in first.values())
        print(f"{time.monotonic() - self.started:6.1f} s  {name:38s} {settings}  {said}", flush=True)
        return first["all three"]
