"""Runs the roads (roads.py, further.py) that are not in FOLDER/roads.jsonl yet."""

import functools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.world.sheets import save_sheet

from . import concepts, further, mediated, roads
from .ablate import read
from .contest import slug
from .families import Adapters
from .grouped import Factors
from .methods import Contest
from .painting import shares
from .roads import Road, Worn

KINDS: dict[str, Callable[[Contest], Iterator[Road]]] = {
    "words": further.word_roads,
    "convolutions": further.convolution_roads,
    "balance": further.balance_roads,
    "everything": further.everything_roads,
    "everything, varied": further.varied_roads,
    "start": further.start_roads,
    "thirds": further.third_roads,
    "alone": further.alone_roads,
    "pictures": further.picture_roads,
    "sampler": further.sampler_roads,
    "later styles": roads.later_style_roads,
    "later contents": roads.later_content_roads,
    "time": roads.time_roads,
    "reach": roads.reach_roads,
    "styles": roads.style_roads,
    "contents": roads.content_roads,
    "sampling": roads.sampling_roads,
    "rivals": roads.rival_roads,
    "pairs": roads.pair_roads,
    **{f"mediator, {name}": functools.partial(mediated.mediated_roads, name=name) for name in mediated.MEDIATIONS},
}


@contextmanager
def _carried_on() -> Iterator[None]:
    """One road that fails, or one kind of them, must not cost the others."""
    try:
        yield
    except Exception:  # noqa: BLE001
        traceback.print_exc()


class Travelling:
    """Runs the roads that are not in FOLDER/roads.jsonl yet; one that began in time is finished."""

    def __init__(self, contest: Contest, folder: Path, seconds: float) -> None:
        self.started = time.monotonic()
        self.stop = self.started + seconds
        self.contest, self.file = contest, folder / "roads.jsonl"

    def run(self, kinds: Sequence[str]) -> None:
        there = {(line["kind"], line["name"]) for line in read(self.file)}
        for kind in kinds or KINDS:
            with _carried_on():
                for road in KINDS[kind](self.contest):
                    if (road.kind, road.name) in there:
                        continue
                    if time.monotonic() > self.stop:
                        print("no time for", road.kind, "|", road.name, flush=True)
                        continue
                    with _carried_on():
                        self._run(road)
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()

    def _run(self, road: Road) -> None:
        began = time.monotonic()
        worn = road.make()
        made = time.monotonic() - began
        several: list[tuple[tuple[float, float], Worn]] = [((1.0, 1.0), worn)]
        if isinstance(worn, Adapters):
            several = [(strengths, worn.scaled(*strengths)) for strengths in road.strengths]
        found = [{"strengths": strengths, **self._look(road, strengths, each)} for strengths, each in several]
        line = {"kind": road.kind, "name": road.name, "settings": road.settings, "seconds": round(made, 1), "found": found}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        said = "  ".join(f"{one['strengths']}: {one['first']['all three']:.3f} {one['second']['all three']:.3f}" for one in found)
        print(f"{time.monotonic() - self.started:6.1f} s  {made:5.1f} s  {road.kind} | {road.name}: {said}", flush=True)

    def _look(self, road: Road, strengths: tuple[float, float], worn: Worn) -> dict[str, Any]:
        """Shares by both judges, the primary number by seed, content and style, and the second judge's three marks by pair."""
        contest = road.contest or self.contest
        each = len(contest.split.pairs)
        count = worn.count if isinstance(worn, Adapters) else worn.up[0].shape[1] if isinstance(worn, Factors) else len(worn)
        if count != len(contest.pairs):
            contest = contest.with_seeds(contest.seeds[: count // each])
        pictures = worn if isinstance(worn, Tensor) else contest.pictures(worn)
        judged = contest.judged(pictures)
        if strengths == (1.0, 1.0):  # the first noise of every pair's prompts, a pair in a row
            first = pictures[:each].unflatten(1, (len(concepts.PROMPTS), -1))[:, :, 0].flatten(0, 1)
            save_sheet(self.file.parent / f"{slug(road.kind + ' ' + road.name)}.webp", first.float() / 255, len(concepts.PROMPTS))
        shape = (len(contest.seeds), len(contest.split.contents), len(contest.split.styles))
        found: dict[str, Any] = {judge: {key: round(value, 4) for key, value in shares(right).items()} for judge, right in judged.items()}
        found["cells"] = {judge: _rounded(right.all(-1).float().mean(-1).view(shape)) for judge, right in judged.items()}
        found["marks by pair"] = _rounded(judged["second"].float().mean(1).view(*shape, 3).mean(0))
        return found


def _rounded(values: Tensor) -> Any:
    return values.double().mul(1e4).round().div(1e4).tolist()
