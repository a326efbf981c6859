"""Roads with a mediator (mediator.py) between adapters as they are trained everywhere: python -m benchmarks.quality roads FOLDER
--convolutions --only "mediator, core, words in both"
"""

import functools
from collections.abc import Iterator
from dataclasses import replace

from .families import Adapters
from .further import WORDED, WORDED_LORAS, steady
from .mediator import Lessons, Mediated, Mediating, Mediation, Mediator, bank, known_concepts
from .methods import Apart, Contest
from .references import STEPS
from .roads import CALM, Road

MEDIATIONS: dict[str, tuple[Apart, Apart, Mediation]] = {  # how the bank is trained, what is worn, the mediator
    "core, no words": (CALM, CALM, Mediation()),
    "core, words worn alone": (CALM, WORDED, Mediation()),
    "core, words in both": (WORDED, WORDED, Mediation()),
    "rank 32, no words": (CALM, CALM, Mediation(core=False, rank=32)),
    "rank 32, words in both": (WORDED, WORDED, Mediation(core=False, rank=32)),
    "two LoRAs, core, words in both": (WORDED_LORAS, WORDED_LORAS, Mediation()),
}


def _first(steps: int) -> tuple[float, ...]:
    return (1.0,) * steps + (0.0,) * (STEPS - steps)


SCHEDULES: dict[str, tuple[float, ...]] = {  # its share in every sampling step
    "off": _first(0),
    "on": _first(STEPS),
    "first 8 steps": _first(8),
    "at .5": (0.5,) * STEPS,
    "first 5 steps": _first(5),
    "first 12 steps": _first(12),
}


def mediated_roads(contest: Contest, name: str) -> Iterator[Road]:
    """One kind of mediator, always on, in part, or for a part of the sampling. For a network whose convolutions are adapted."""
    if not contest.studio.learner.convolutions:
        return
    banked, apart, mediation = MEDIATIONS[name]
    if contest.most_steps is not None:
        mediation = replace(mediation, contents=2, styles=2, steps=contest.most_steps, rows=4)

    @functools.cache
    def made() -> tuple[Adapters, Mediator]:
        known = known_concepts(contest.studio, mediation.contents, mediation.styles)
        contents, looks = bank(contest, banked, known)
        mediator = Mediating(contest.studio, mediation, contents, looks, Lessons(contest.studio, known)).train()
        return contest.merge(apart, steady(apart)), mediator

    for schedule, shares in SCHEDULES.items():
        make = functools.partial(lambda shares: Mediated(*made(), shares), shares)
        yield Road("mediator", f"{name}, {schedule}", make, dict(vars(mediation)), ((1.0, 1.0), (0.9, 1.1)))
