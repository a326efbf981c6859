"""More roads: what each adapter alone learns from its four pictures, and how it is asked for what it has learned."""

import copy
import functools
from collections.abc import Callable, Iterator

from torch import Tensor

from benchmarks.world.captions import with_article

from . import concepts
from .choose import at
from .composed import Words, base_below, paint_terms
from .concepts import Split
from .families import Adapters
from .methods import Apart, Contest
from .painting import paint, questions
from .references import Sampling
from .roads import CALM, MINE, TWO_LORAS, Road, changed, differing


def steady(apart: Apart) -> Apart:
    """At a constant rate, as styles are."""
    return changed(apart, decay=False)


WORDED = changed(CALM, family="free, words", words=5e-3)
PIVOTAL = changed(WORDED, words_first=125)
NO_WORDS = changed(CALM, family="free, words")  # the same content, in a family whose style may have words
LORAS = changed(TWO_LORAS, family="lora, words", words=5e-3, words_first=125)
WORDED_LORAS = changed(WORDED, family="lora, words")
LARGE, LARGE_WORDED = changed(CALM, family="free, as large as lora"), changed(WORDED, family="free, as large as lora, words")
SMALL_WORDED_LORAS = changed(WORDED, family="lora, as small as free, words")
SEEN = changed(CALM, mirrored=True, outside=0.2)
WORDINGS: dict[str, tuple[Apart, Apart]] = {
    "both, words first": (PIVOTAL, steady(PIVOTAL)),
    "content alone, words first": (PIVOTAL, MINE),
    "style alone, words first": (NO_WORDS, steady(PIVOTAL)),
    "both": (WORDED, steady(WORDED)),
    "both, words first, all falling": (PIVOTAL, PIVOTAL),
    "two LoRAs, words first": (changed(LORAS, decay=True), LORAS),
    "both, words first, mirrored and masked": (changed(PIVOTAL, mirrored=True, outside=0.2), steady(PIVOTAL)),
    "both, words first, fast": (changed(PIVOTAL, words=2e-2), steady(changed(PIVOTAL, words=2e-2))),
    "words alone": (at(PIVOTAL, 1e-9), at(PIVOTAL, 1e-9)),
    "both, words first, slowly": (changed(PIVOTAL, words=1e-3), steady(changed(PIVOTAL, words=1e-3))),
    "both, words first, adapter at half the rate": (at(PIVOTAL, 5e-4), steady(at(PIVOTAL, 5e-4))),
}
SLOW_WORDS = steady(changed(WORDED, words=1e-3))
LESS_STYLE = ((1.0, 1.0), (1.0, 0.8), (1.0, 0.65), (1.15, 0.8))
BALANCED: dict[str, tuple[Apart, Apart]] = {
    "content's words first, style's beside": (PIVOTAL, steady(WORDED)),
    "content's words first, style's beside, slowly": (PIVOTAL, SLOW_WORDS),
    "both beside, style's slowly": (WORDED, SLOW_WORDS),
}
PICTURES: dict[str, tuple[Apart, Apart]] = {
    "as before": (CALM, MINE),
    "content mirrored": (changed(CALM, mirrored=True), MINE),
    "content mirrored and masked": (SEEN, MINE),
    "content masked": (changed(CALM, outside=0.2), MINE),
    "content mirrored and masked, 0": (changed(SEEN, outside=0.0), MINE),
    "both mirrored": (changed(CALM, mirrored=True), changed(MINE, mirrored=True)),
    "content mirrored and masked, 500 steps": (changed(SEEN, steps=500), MINE),
}
THIRDS = (  # rows of a step, steps, rate, whether the content's and the style's falls, of how many of the last steps the mean is taken
    ((1, 1), 333, 2e-3, True, False, 0),
    ((1, 1), 333, 2e-3, False, False, 0),
    ((1, 1), 333, 1.5e-3, True, False, 0),
    ((1, 1), 333, 2e-3, True, True, 0),
    ((1, 1), 250, 2e-3, True, False, 0),
    ((2, 1), 220, 2e-3, True, False, 0),
    ((1, 1), 333, 2e-3, False, False, 111),
    ((1, 1), 333, 3e-3, True, True, 0),
    ((1, 1), 333, 1e-3, True, False, 0),
    ((1, 1), 250, 3e-3, True, True, 0),
)
SAMPLERS: dict[str, Sampling] = {
    "guidance 3": Sampling(3.0),
    "guidance 5": Sampling(5.0),
    "guidance 6": Sampling(6.0),
    "guidance 6 from .1 to .7": Sampling(6.0, first=0.1, last=0.7),
    "guidance 8 from .2 to .6": Sampling(8.0, first=0.2, last=0.6),
    "guidance 5, but for the last .3": Sampling(5.0, last=0.7),
    "guidance 5, but for the first .2": Sampling(5.0, first=0.2),
    "40 steps": Sampling(steps=40),
    "guidance 2.5": Sampling(2.5),
}


def word_roads(contest: Contest) -> Iterator[Road]:
    """What the triggers mean is learned too."""
    for name, (content, style) in WORDINGS.items():
        yield Road("words", name, functools.partial(contest.merge, content, style), differing(content))


def balance_roads(contest: Contest) -> Iterator[Road]:
    """Words, at strengths that leave the content its share."""
    for name, (content, style) in BALANCED.items():
        yield Road("words, balance", name, functools.partial(contest.merge, content, style), differing(content), LESS_STYLE)


def everything_roads(contest: Contest) -> Iterator[Road]:
    """Words and convolutions together, for a network whose convolutions are adapted too."""
    if not contest.studio.learner.convolutions:
        return
    content, style = WORDED, steady(WORDED)
    strengths = ((1.0, 1.0), (0.9, 1.1), (1.0, 0.8))
    make = functools.partial(contest.merge, content, style)
    yield Road("words and convolutions", "ours", make, differing(content), strengths)
    more = functools.partial(_asked_with, contest, content, style, Sampling(5.0))
    yield Road("words and convolutions", "ours, guidance 5", more, differing(content))
    make = functools.partial(contest.merge, changed(content, outside=0.2), style)
    yield Road("words and convolutions", "ours, content masked", make, differing(content), strengths)


def varied_roads(contest: Contest) -> Iterator[Road]:
    """Words and convolutions together, one thing changed at a time: pictures in a mirror, steps and their rows, rates."""
    if not contest.studio.learner.convolutions:
        return
    few = changed(WORDED, rows=(1, 1), steps=500)
    for name, content, style in (
        ("ours, style mirrored", WORDED, steady(changed(WORDED, mirrored=True))),
        ("ours, both mirrored", changed(WORDED, mirrored=True), steady(changed(WORDED, mirrored=True))),
        ("ours, 1 + 1 rows, 500 steps", few, steady(few)),
        ("ours, 500 steps", changed(WORDED, steps=500), steady(changed(WORDED, steps=500))),
        ("ours, words at half the rate", changed(WORDED, words=2.5e-3), steady(changed(WORDED, words=2.5e-3))),
        ("ours, style falling", WORDED, WORDED),
    ):
        make = functools.partial(contest.merge, content, style)
        yield Road("words and convolutions", name, make, differing(content), ((1.0, 1.0), (0.9, 1.1), (1.1, 1.0)))


def start_roads(contest: Contest) -> Iterator[Road]:
    """How large the downs start in convolutions: as orthonormal rows, or as a LoRA's random ones. Two trials for each side."""
    if not contest.studio.learner.convolutions:
        return
    for name, content in (
        ("ours", WORDED),
        ("ours, as large as a LoRA's", LARGE_WORDED),
        ("two LoRAs", WORDED_LORAS),
        ("two LoRAs, as small as ours", SMALL_WORDED_LORAS),
    ):
        make = functools.partial(contest.merge, content, steady(content))
        yield Road("words and convolutions, start", name, make, differing(content), ((1.0, 1.0),))


def _asked_with(contest: Contest, content: Apart, style: Apart, how: Sampling) -> Tensor:
    """Pictures of a merge, sampled otherwise."""
    studio = contest.studio
    usual, studio.sampling = studio.sampling, how
    try:
        return contest.pictures(contest.merge(content, style))
    finally:
        studio.sampling = usual


def picture_roads(contest: Contest) -> Iterator[Road]:
    """More from the four pictures of a content: in a mirror, and where the content is."""
    for name, (content, style) in PICTURES.items():
        yield Road("pictures", name, functools.partial(contest.merge, content, style), differing(content))


def third_roads(contest: Contest) -> Iterator[Road]:
    """As good with a third of the pictures? Where few are seen, the rate is what is left to choose."""
    for rows, steps, rate, content_falls, style_falls, average in THIRDS:
        apart = at(changed(MINE, rows=rows, steps=steps, average=average), rate)
        content, style = changed(apart, decay=content_falls), changed(apart, decay=style_falls)
        falling = "both" if style_falls else "the content" if content_falls else "none"
        name = f"{rows[0]} + {rows[1]} rows, {steps} steps, {rate:g}, {falling} falling" + (f", mean of {average}" if average else "")
        settings = {**differing(content), "seen": sum(rows) * steps}
        yield Road("time", name, functools.partial(contest.merge, content, style), settings, ((1.0, 1.0),))


def convolution_roads(contest: Contest) -> Iterator[Road]:
    """For a network whose every layer is adapted (--everywhere --convolutions), and for no other."""
    if not contest.studio.learner.convolutions:
        return
    attention = changed(CALM, family="free, content in attention")
    loras = changed(TWO_LORAS, decay=True)
    for name, content, style in (
        ("ours, 0.001", CALM, MINE),
        ("ours, content in attention alone", attention, MINE),
        ("ours, 0.0005", at(CALM, 5e-4), at(MINE, 5e-4)),
        ("two LoRAs, kept, 0.001", loras, TWO_LORAS),
        ("ours, content in attention alone, style 0.002", attention, at(MINE, 2e-3)),
        ("ours, style falling", CALM, CALM),
    ):
        yield Road("convolutions", name, functools.partial(contest.merge, content, style), differing(content))


def sampler_roads(contest: Contest) -> Iterator[Road]:
    """The same adapters, asked otherwise."""
    studio = contest.studio
    for name, how in SAMPLERS.items():
        yield Road("sampler", name, functools.partial(_asked_with, contest, CALM, MINE, how))
    one = contest.with_seeds(contest.seeds[:1])
    words = Words([concepts.subject(contest.split.contents[content]) for _, content, _ in one.pairs])
    for guidance in (2.0, 3.0):

        def below(guidance: float = guidance) -> Tensor:
            terms = base_below(one.merge(CALM, MINE), words, studio.painter.dtype, guidance)
            return paint_terms(studio, terms, len(one.pairs))

        yield Road("sampler, 1 seed", f"away from the base model, guidance {guidance:g}", below)


def alone_roads(contest: Contest) -> Iterator[Road]:
    """What each adapter has learned by itself, and what the model does with words that it knows: first seed."""
    looks, known_names = concepts.AUXILIARY_STYLES, {each.name for each in contest.studio.world.contents}
    things = tuple(thing for thing in concepts.AUXILIARY_CONTENTS if thing in known_names)
    contents, styles = contest.split.contents, contest.split.styles

    def road(name: str, split: Split, worn: Callable[[Contest], Adapters | None], *, known: bool, named: bool) -> Road:
        made = _asked(contest, split, known=known, named=named)
        return Road("alone", name, lambda: paint(made.studio, worn(made), made.asked), contest=made)

    def of_role(role: str, which: int) -> Callable[[Contest], Adapters]:
        def worn(made: Contest) -> Adapters:
            apart = CALM if role == "content" else MINE
            contest.prepare_role([apart], role)
            return contest.done[apart, role].take([pair[which] for pair in made.pairs])

        return worn

    yield road("a content in known styles", Split(contents, looks), of_role("content", 1), known=False, named=True)
    yield road("known things in a style", Split(things, styles), of_role("style", 2), known=True, named=False)
    yield road("known things in known styles", Split(things, looks), lambda made: None, known=True, named=True)


def _asked(contest: Contest, split: Split, *, known: bool, named: bool) -> Contest:
    """``contest`` with the first seed alone, asked for the pairs of ``split``: known things and styles by their names."""
    made = copy.copy(contest)
    made.seeds, made.split = contest.seeds[:1], split
    made.pairs = [(0, content, style) for content, style in split.pairs]
    made.asked = [
        questions(
            contest.studio,
            split.contents[content],
            split.styles[style],
            thing=with_article(split.contents[content]) if known else None,
            look=split.styles[style] if named else None,
        )
        for content, style in split.pairs
    ]
    return made
