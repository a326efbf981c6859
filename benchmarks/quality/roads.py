"""Roads to a better merge, on the development pairs: python -m benchmarks.quality roads FOLDER --only styles --seconds N

A content's and a style's adapter are trained apart, so a new way to train one is merged with the other as it was. Every road is measured
at strengths (1, 1) and (.9, 1.1) by both judges, with three training seeds; FOLDER/roads.jsonl gets a line when a road is finished, and
roads that are there are left out. The rivals get output preservation and as many trials as ours.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from . import concepts, metrics
from .choose import OURS, at
from .composed import Term, Words, base_below, composed_scores, paint_terms, style_guided, two_conditions
from .families import Adapters
from .grouped import Factors
from .merging import choose_by_step, null_space, over_time
from .methods import Apart, Contest, Joint
from .references import STEPS
from .rerouting import rerouted

MINE = at(OURS, 1e-3)
TWO_LORAS = Apart(rows=(4, 4), partners="keep")
ORTHOGONAL = dataclasses.replace(TWO_LORAS, family="orthogonal")
STRENGTHS = ((1.0, 1.0), (0.9, 1.1))
SWEEP = ((0.7, 1.1), (0.8, 1.1), (0.9, 1.0), (0.9, 1.2), (1.0, 1.15), (1.1, 1.1))
Worn = Adapters | Factors | Tensor


@dataclass(frozen=True)
class Road:
    """One line: ``make`` gives what the pairs wear, or the pictures; ``strengths`` are those that it is looked at with."""

    kind: str
    name: str
    make: Callable[[], Worn]
    settings: dict[str, object] = field(default_factory=dict)
    strengths: Sequence[tuple[float, float]] = STRENGTHS
    contest: Contest | None = None  # if its pairs are others than those of the other roads


def changed(apart: Apart, **changes: object) -> Apart:
    return dataclasses.replace(apart, **changes)  # type: ignore[arg-type]


def differing(apart: Apart) -> dict[str, object]:
    """What a setting has that ours has not."""
    base = dataclasses.asdict(MINE)
    return {key: value for key, value in dataclasses.asdict(apart).items() if value != base[key]}


STYLES: dict[str, Apart] = {
    "as before": MINE,
    "2 rows wear the thing's own adapter": changed(MINE, fitted=2),
    "2 rows on partners": changed(MINE, on_partner=2),
    "4 rows wear the thing's own adapter": changed(MINE, fitted=4),
    "2 rows wear it, 2 on partners": changed(MINE, fitted=2, on_partner=2),
    "the same words, nothing worn": changed(MINE, fitted=2, fitted_worn=False),
    "averaged, 125": changed(MINE, average=125),
    "decay": changed(MINE, decay=True),
    "500 steps": changed(MINE, steps=500),
    "a random partner worn": changed(MINE, bank=True),
    "more noise": changed(MINE, tilt=0.5),
    "less noise": changed(MINE, tilt=2.0),
    "2 rows named by the trigger": changed(MINE, named_by_trigger=2),
    "rate 2e-3, decay": changed(MINE, style_rate=2e-3, decay=True),
    "500 steps, decay": changed(MINE, steps=500, decay=True),
    "4 rows on partners": changed(MINE, on_partner=4),
    "500 steps, 2 rows wear it": changed(MINE, steps=500, fitted=2),
    "preservation at half weight": changed(MINE, weight=0.5),
    "preservation at double weight": changed(MINE, weight=2.0),
    "rank 32": changed(MINE, rank=32),
}
CONTENTS: dict[str, Apart] = {
    "as before": MINE,
    "2 rows on partners": changed(MINE, on_partner=2),
    "2 rows in known styles, painted before": changed(MINE, restyled=2),
    "2 such rows wearing the style's adapter": changed(MINE, restyled=2, restyled_worn=True),
    "averaged, 125": changed(MINE, average=125),
    "125 steps": changed(MINE, steps=125),
    "decay": changed(MINE, decay=True),
    "4 rows on partners": changed(MINE, on_partner=4),
    "2 rows named by the trigger": changed(MINE, named_by_trigger=2),
    "a random partner worn": changed(MINE, bank=True),
    "less noise": changed(MINE, tilt=2.0),
    "more noise": changed(MINE, tilt=0.5),
    "preservation at double weight": changed(MINE, weight=2.0),
    "rate 5e-4": changed(MINE, content_rate=5e-4),
    "500 steps, decay": changed(MINE, steps=500, decay=True),
    "8 sets": changed(MINE, sets=8),
}
CALM = changed(MINE, decay=True)
FITTED = changed(CALM, fitted=2, on_partner=2)
HIGHER = ((1.0, 1.0), (1.1, 1.0), (1.2, 1.0), (1.1, 0.9))
LATER_STYLES: dict[str, Apart] = {
    "fitted 2, on partners 2": FITTED,
    "made 2": changed(CALM, made=2),
    "fitted 2, on partners 2, made 2": changed(FITTED, made=2),
    "less noise": changed(CALM, tilt=2.0),
    "fitted 2, on partners 2, less noise": changed(FITTED, tilt=2.0),
    "fitted 1, on partners 2": changed(FITTED, fitted=1),
    "fitted 2, on partners 4": changed(FITTED, on_partner=4),
    "fitted 1, on partners 4": changed(FITTED, fitted=1, on_partner=4),
    "fitted 1, on partners 2, made 2": changed(FITTED, fitted=1, made=2),
    "500 steps": changed(CALM, steps=500),
    "fitted 2, on partners 2, 500 steps": changed(FITTED, steps=500),
    "made 4": changed(CALM, made=4),
    "as before": CALM,
    "rate 2e-3": changed(CALM, style_rate=2e-3),
    "fitted 2, on partners 2, rate 5e-4": changed(FITTED, style_rate=5e-4),
    "fitted 2, on partners 2, more noise": changed(FITTED, tilt=0.5),
}
LATER_CONTENTS: dict[str, Apart] = {
    "as before": CALM,
    "500 steps": changed(CALM, steps=500),
    "rate 2e-3": changed(CALM, content_rate=2e-3),
    "less noise": changed(CALM, tilt=1.5),
    "more noise": changed(CALM, tilt=0.7),
    "6 own rows, 2 kept": changed(CALM, rows=(6, 2)),
    "preservation at half weight": changed(CALM, weight=0.5),
    "on partners 2": changed(CALM, on_partner=2),
    "rate 2e-3, on partners 2": changed(CALM, content_rate=2e-3, on_partner=2),
    "8 sets": changed(CALM, sets=8),
    "500 steps, rate 2e-3": changed(CALM, steps=500, content_rate=2e-3),
}
COURSES = (  # rows of a step, steps, rate, whether the content's falls: what a training costs
    ((4, 4), 125, 1e-3, True),
    ((2, 2), 250, 1e-3, True),
    ((1, 1), 500, 1e-3, True),
    ((2, 2), 125, 1e-3, True),
    ((4, 4), 60, 2e-3, True),
    ((1, 1), 250, 1e-3, True),
    ((2, 2), 250, 1e-3, False),
    ((1, 1), 500, 1e-3, False),
    ((4, 1), 125, 1e-3, True),
    ((1, 1), 500, 5e-4, True),
    ((2, 2), 60, 2e-3, True),
    ((4, 4), 500, 1e-3, True),
    ((1, 1), 1000, 5e-4, True),
    ((4, 4), 60, 1e-3, True),
    ((1, 1), 125, 1e-3, True),
    ((4, 4), 125, 1e-3, False),
    ((4, 4), 125, 2e-3, True),
)
RAMPS = (  # content first and last, style first and last
    (1.0, 0.7, 1.0, 1.0),
    (1.0, 0.7, 1.0, 1.15),
    (1.1, 0.6, 1.0, 1.2),
    (0.7, 1.0, 1.1, 1.1),
    (0.9, 0.9, 0.9, 1.3),
    (0.9, 0.9, 1.3, 0.9),
)


def style_roads(contest: Contest) -> Iterator[Road]:
    for name, apart in STYLES.items():
        if apart.rank == MINE.rank:
            yield Road("style", name, functools.partial(contest.merge, MINE, apart), differing(apart))
        else:
            yield Road("style and content", name, functools.partial(contest.merge, apart), differing(apart))


def content_roads(contest: Contest) -> Iterator[Road]:
    for name, apart in CONTENTS.items():
        yield Road("content", name, functools.partial(contest.merge, apart, MINE), differing(apart))


def later_style_roads(contest: Contest) -> Iterator[Road]:
    """On a content that is trained at a falling rate; so are the styles."""
    for name, apart in LATER_STYLES.items():
        yield Road("style, falling", name, functools.partial(contest.merge, CALM, apart), differing(apart), HIGHER)


def later_content_roads(contest: Contest) -> Iterator[Road]:
    """Under a style that was fitted."""
    for name, apart in LATER_CONTENTS.items():
        yield Road("content, falling", name, functools.partial(contest.merge, apart, FITTED), differing(apart), HIGHER)


def time_roads(contest: Contest) -> Iterator[Road]:
    """Marks against pictures seen: rows of a step times steps, for content and style alike."""
    for rows, steps, rate, falls in COURSES:
        style = at(changed(MINE, rows=rows, steps=steps), rate)
        content = changed(style, decay=falls)
        name = f"{rows[0]} + {rows[1]} rows, {steps} steps, {rate:g}{', the content falling' if falls else ''}"
        yield Road("time", name, functools.partial(contest.merge, content, style), {**differing(content), "seen": sum(rows) * steps})
    yield Road("time", "4 + 4 rows, 250 steps, 0.001, the content falling", functools.partial(contest.merge, CALM, MINE), {"seen": 2000})


def reach_roads(contest: Contest) -> Iterator[Road]:
    """For a network whose every Linear is adapted (--everywhere), and for no other."""
    if not contest.studio.learner.everywhere:
        return
    for rate in (1e-3, 5e-4):
        content, style = at(CALM, rate), at(MINE, rate)
        yield Road("every Linear", f"ours, {rate:g}", functools.partial(contest.merge, content, style), {}, HIGHER)
    loras = changed(TWO_LORAS, decay=True)
    yield Road("every Linear", "two LoRAs, kept, 0.001", functools.partial(contest.merge, loras, TWO_LORAS), {}, HIGHER)
    yield Road("every Linear", "ours, fitted, 0.001", functools.partial(contest.merge, CALM, FITTED), {}, HIGHER)


def sampling_roads(contest: Contest) -> Iterator[Road]:
    """A calm content and a fitted style, with other strengths, or other guidance."""
    dtype = contest.studio.painter.dtype
    first = contest.with_seeds((contest.seeds[0],))
    words = Words([concepts.subject(contest.split.contents[content]) for _, content, _ in first.pairs])

    def painted(make: Callable[..., list[Term]], *values: float) -> Tensor:
        return paint_terms(contest.studio, make(first.merge(CALM, FITTED), words, dtype, *values), len(first.pairs))

    yield Road("strengths", "swept", functools.partial(contest.merge, CALM, FITTED), {}, SWEEP)
    for content, style in ((1.0, 1.0), (0.9, 1.1), (1.0, 1.2), (0.8, 1.0)):
        make = functools.partial(painted, composed_scores, content, style)
        yield Road("guidance, 1 seed", f"sum of effects, {content:g} and {style:g}", make)
    for content, style in ((4.0, 6.0), (3.0, 5.0), (2.0, 5.0)):
        make = functools.partial(painted, two_conditions, content, style)
        yield Road("guidance, 1 seed", f"two guidances, {content:g} and {style:g}", make)
    for more in (1.0, 2.0):
        yield Road("guidance, 1 seed", f"{more:g} more of the style's change", functools.partial(painted, style_guided, more))
    yield Road("guidance, 1 seed", "away from the base model", functools.partial(painted, base_below))
    for ramp in RAMPS:
        make_ramp = functools.partial(lambda ramp: over_time(contest.merge(CALM, FITTED), *ramp, steps=STEPS), ramp)
        yield Road("strengths over the steps", " ".join(f"{each:g}" for each in ramp), make_ramp, {}, ((1.0, 1.0),))


def rival_roads(contest: Contest) -> Iterator[Road]:
    """Every rival that merges, preserved."""
    rates = (1e-3, 5e-4, 2e-3)
    for rate in rates:
        apart = at(TWO_LORAS, rate)
        sweep = (*STRENGTHS, *SWEEP) if rate == 1e-3 else STRENGTHS
        yield Road("rival", f"two LoRAs, kept, {rate:g}", functools.partial(contest.merge, apart), {}, sweep)
    for rate in rates[:2]:
        for strength in (0.33, 0.5, 0.67, 1.0):
            make = functools.partial(lambda rate, strength: null_space(contest.merge(at(TWO_LORAS, rate)), strength), rate, strength)
            yield Road("rival", f"NP-LoRA, kept, {strength:g}, {rate:g}", make)
    for damping in (1e-3, 1e-2, 1e-1, 1.0):
        make = functools.partial(lambda damping: rerouted(contest, contest.merge(at(TWO_LORAS, 1e-3)), damping), damping)
        yield Road("rival", f"SSR-Merge, kept, {damping:g}", make, {}, ((1.0, 1.0),))
    for alpha, beta in ((1.5, 0.5), (0.5, 0.5), (0.5, 0.75), (0.5, 1.0), (0.0, 1.0), (1.0, 0.75)):

        def chosen(alpha: float = alpha, beta: float = beta) -> Factors:
            return choose_by_step(contest.merge(at(TWO_LORAS, 1e-3)), steps=STEPS, alpha=alpha, beta=beta)

        yield Road("rival", f"K-LoRA, kept, {alpha:g} {beta:g}", chosen, {}, ((1.0, 1.0),))
    for rate in (2e-3, 4e-3, 8e-3):
        yield Road("rival", f"Orthogonal Adaptation, kept, {rate:g}", functools.partial(contest.merge, at(ORTHOGONAL, rate)))


def pair_roads(contest: Contest) -> Iterator[Road]:
    """Trained together, all preserved."""
    joint = Joint(3e-4, kept=4)

    def together(start: Apart, joints: list[Joint], place: int) -> Adapters:
        return contest.together(contest.merge(start), joints)[place]

    riemannian = dataclasses.replace(joint, metric=metrics.of_two_pairs)
    calm = dataclasses.replace(joint, decay=True)

    def fitted_first(joint: Joint) -> Adapters:
        return contest.together(contest.merge(CALM, FITTED), [joint])[0]

    yield Road("together", "calm, fitted, AdamW, 3e-4", functools.partial(fitted_first, calm))
    more = dataclasses.replace(calm, fitted=1, bank_of=MINE)
    yield Road("together", "calm, fitted, AdamW, 3e-4, 1 row wears it", functools.partial(fitted_first, more))
    yield Road("together", "calm, fitted, AdamW, 1e-3", functools.partial(fitted_first, dataclasses.replace(calm, rate=1e-3)))
    yield Road("together", "ours, AdamW, 3e-4", functools.partial(together, MINE, [joint], 0))
    fitted = dataclasses.replace(joint, fitted=1, bank_of=MINE)
    yield Road("together", "ours, AdamW, 3e-4, 1 row wears it", functools.partial(together, MINE, [fitted], 0))
    yield Road("together", "two LoRAs, AdamW, 3e-4", functools.partial(together, at(TWO_LORAS, 1e-3), [joint], 0))
    yield Road("together", "ours, Riemannian, 3e-4", functools.partial(together, MINE, [riemannian], 0))
    one = contest.with_seeds((contest.seeds[0],))
    rates = (5e-4, 1e-3, 2e-3)

    @functools.cache
    def on_both() -> list[Adapters]:
        return one.one_for_both(32, rates, 650, kept=4)

    for place, rate in enumerate(rates):
        make = functools.partial(lambda place: on_both()[place], place)
        yield Road("together, 1 seed", f"one LoRA on both, kept, {rate:g}", make, {}, ((1.0, 1.0),))
