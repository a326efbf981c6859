"""The last contest: every rival preserved, all held-out pairs. python -m benchmarks.quality final FOLDER --only ROW --seconds N

108 pairs (12 contents x 9 styles), three seeds, six prompts, four noises: 7,776 pictures a row. What is fixed here was chosen on the
development pairs (results/roads.jsonl). A training for each pair costs three times as much as all else, so that league has one seed, and
its rows begin from stage one of the first seed.
"""

import dataclasses
import functools

from .choose import at
from .families import Adapters
from .further import LARGE, LARGE_WORDED, WORDED, WORDED_LORAS, steady
from .merging import choose_by_step, null_space
from .methods import Apart, Contest, Joint
from .references import STEPS
from .rerouting import rerouted
from .roads import CALM, FITTED, MINE, ORTHOGONAL, TWO_LORAS, changed
from .rows import Row, true_pictures

FALLING_LORAS = dataclasses.replace(at(TWO_LORAS, 1e-3), decay=True)
KEPT_LORAS = at(TWO_LORAS, 1e-3)
TOGETHER = Joint(3e-4, kept=4)
ON_BOTH = (32, 1e-3, 650)  # rank, rate, steps


def final_rows(contest: Contest, pairs: Contest) -> dict[str, tuple[Row, Contest]]:
    """All rows, by name, and the contest that each belongs to: ``contest`` has all seeds, ``pairs`` the one that is asked for.

    The rivals get what was found for ours: the content's rate falls to zero over the second half.
    """

    def loras() -> Adapters:
        return contest.merge(FALLING_LORAS, KEPT_LORAS)

    merged = {
        "ours": lambda: contest.merge(CALM, MINE),
        "ours, fitted": lambda: contest.merge(CALM, FITTED),
        "two LoRAs, kept": loras,
        "NP-LoRA, kept": lambda: null_space(loras(), 0.5),
        "ours as before": lambda: contest.merge(MINE),
        "K-LoRA, kept": lambda: choose_by_step(loras(), steps=STEPS, alpha=0.0, beta=1.0),
        "SSR-Merge, kept": lambda: rerouted(contest, loras(), 1.0),
        "Orthogonal Adaptation, kept": lambda: contest.merge(at(ORTHOGONAL, 4e-3)),
    }
    rows = {name: (Row("merge", make), contest) for name, make in merged.items()}
    rows |= {name: (row, contest) for name, row in course_rows(contest).items()}
    single = worded_rows(pairs) | joined_rows(pairs) | worded_joined_rows(pairs)
    if pairs.studio.learner.convolutions:
        single |= convolved_rows(pairs)
    rows |= {name: (row, pairs) for name, row in single.items()}
    rows["true pictures"] = (Row("frame", lambda: true_pictures(contest)), contest)
    return rows


def joined_rows(contest: Contest) -> dict[str, Row]:
    """A training for each pair."""

    def together(content: Apart, style: Apart) -> Adapters:
        return contest.together(contest.merge(content, style), [TOGETHER])[0]

    def on_both() -> Adapters:
        rank, rate, steps = ON_BOTH
        return contest.one_for_both(rank, [rate], steps, kept=4)[0]

    made = {
        "ours, fitted + joint": lambda: together(CALM, FITTED),
        "ours + joint": lambda: together(CALM, MINE),
        "one LoRA on both, rank 32, kept": on_both,
        "two LoRAs, kept + joint": lambda: together(FALLING_LORAS, KEPT_LORAS),
    }
    return {name: Row("pair", make) for name, make in made.items()}


def worded_rows(contest: Contest) -> dict[str, Row]:
    """With words learned beside the adapters; on a network whose convolutions are adapted, with these as well."""
    more = added(contest)
    made = {
        "ours": lambda: worded(contest, WORDED),
        "two LoRAs, kept": lambda: worded(contest, WORDED_LORAS),
        "NP-LoRA, kept": lambda: null_space(worded(contest, WORDED_LORAS), 0.5),
    }
    if contest.studio.learner.convolutions:
        made["ours, larger start"] = lambda: contest.merge(LARGE_WORDED, steady(LARGE_WORDED))
    return {f"{name}, {more}": Row(more, make) for name, make in made.items()}


def course_rows(contest: Contest) -> dict[str, Row]:
    """With words and convolutions by the courses that led in development: 500 steps of one picture and one preservation picture; that,
    and the style's pictures in a mirror too."""
    if not contest.studio.learner.convolutions:
        return {}

    def apart(mine: Apart, *, mirrored: bool) -> Adapters:
        course = changed(mine, rows=(1, 1), steps=500)
        return contest.merge(course, steady(changed(course, mirrored=mirrored)))

    rows = {}
    for mirrored, league in ((False, "words, convolutions, single pictures"), (True, "words, convolutions and mirror")):
        made = {
            "ours": functools.partial(apart, WORDED, mirrored=mirrored),
            "two LoRAs, kept": functools.partial(apart, WORDED_LORAS, mirrored=mirrored),
        }
        rows |= {f"{name}, {league}": Row(league, make) for name, make in made.items()}
    return rows


def worded_joined_rows(contest: Contest) -> dict[str, Row]:
    """The same, trained together. A joint stage leaves words as they were learned; one LoRA on both learns them as it goes."""
    more = added(contest)

    def on_both() -> Adapters:
        rank, rate, steps = ON_BOTH
        return contest.one_for_both(rank, [rate], steps, kept=4, words=WORDED.words)[0]

    made = {
        "ours + joint": lambda: contest.together(worded(contest, WORDED), [TOGETHER])[0],
        "two LoRAs, kept + joint": lambda: contest.together(worded(contest, WORDED_LORAS), [TOGETHER])[0],
        "one LoRA on both, rank 32, kept": on_both,
    }
    return {f"{name}, {more}": Row(f"pair, {more}", make) for name, make in made.items()}


def convolved_rows(contest: Contest) -> dict[str, Row]:
    """With adapted convolutions and no words."""

    def merged(content: Apart, style: Apart) -> Adapters:
        contest.prepare_role([CALM, FALLING_LORAS], "content")
        contest.prepare_role([MINE, KEPT_LORAS], "style")
        return contest.merge(content, style)

    made = {
        "ours": lambda: merged(CALM, MINE),
        "two LoRAs, kept": lambda: merged(FALLING_LORAS, KEPT_LORAS),
        "NP-LoRA, kept": lambda: null_space(merged(FALLING_LORAS, KEPT_LORAS), 0.5),
        "ours, larger start": lambda: contest.merge(LARGE, steady(LARGE)),
    }
    return {f"{name}, convolutions": Row("convolutions", make) for name, make in made.items()}


def added(contest: Contest) -> str:
    return "words and convolutions" if contest.studio.learner.convolutions else "words"


def worded(contest: Contest, mine: Apart) -> Adapters:
    """``mine`` with its words, merged; all that have words are trained as one batch."""
    both = (WORDED, WORDED_LORAS)
    contest.prepare_role(both, "content")
    contest.prepare_role([steady(each) for each in both], "style")
    return contest.merge(mine, steady(mine))


def of_contest(rows: dict[str, tuple[Row, Contest]], contest: Contest) -> dict[str, Row]:
    """The rows of one of the two contests."""
    return {name: row for name, (row, own) in rows.items() if own is contest}
