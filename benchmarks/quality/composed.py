"""Guidance with more than one condition: the prediction is a weighted sum of what several adapters say to several prompts.

No rival of the paper's table, but the ceiling of what two finished adapters can say together without touching each other's weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.world.autoencoder import decode

from . import concepts
from .families import Adapters
from .grouped import Factors, Segment
from .references import GUIDANCE, STEPS, Replayed, Studio, phrase, start_noise


@dataclass(frozen=True)
class Term:
    """``weight`` times what the network says, wearing ``worn``, to ``prompts`` (one for each group and asked place)."""

    weight: float
    worn: Factors | None
    prompts: Sequence[str]


@torch.no_grad()
def paint_terms(studio: Studio, terms: Sequence[Term], groups: int) -> Tensor:
    """Pictures uint8 (G, prompts * noises, 3, S, S); the weights of the terms add up to 1."""
    net, noise = studio.painter, start_noise(concepts.NOISES, studio.side, studio.device)
    each = len(concepts.PROMPTS) * len(noise)
    texts = [tuple(x.repeat_interleave(len(noise), 0) for x in studio.encode_text(term.prompts)) for term in terms]

    def scores(x: Tensor, time: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for term, text in zip(terms, texts, strict=True):
            net.wear(groups, [] if term.worn is None else [Segment(0, each, term.worn)])
            total = total + term.weight * net(x, time.expand(len(x)), *text)
        return total

    predict = Replayed(scores, studio.captured)
    times, levels = studio.noise.course(STEPS)
    x = studio.noise.start(noise.repeat(groups * len(concepts.PROMPTS), 1, 1, 1), None, levels[0])
    for k in range(STEPS):
        x = x + (levels[k + 1] - levels[k]) * predict(studio.noise.shown(x, levels[k]), times[k])
    net.wear(1, [])
    return (decode(studio.autoencoder, x) * 255).round().byte().cpu().unflatten(0, (groups, each))


class Words:
    """The prompts of every group and place: both concepts, one alone, none; ``subjects[g]`` is the content of group g in a prompt."""

    def __init__(self, subjects: Sequence[str]) -> None:
        def all_of(photo: bool, trigger: bool) -> list[str]:
            made = []
            for subject in subjects:
                thing = subject if trigger else subject.replace(f"{concepts.CONTENT_TRIGGER} ", "")
                for place, wording in concepts.PROMPTS:
                    where = phrase(place)
                    styled = wording.format(thing=thing, place=where, style=concepts.STYLE_TRIGGER)
                    made.append(f"a photo of {thing} {where}" if photo else styled)
            return made

        self.both, self.style = all_of(False, True), all_of(False, False)
        self.content, self.plain = all_of(True, True), all_of(True, False)
        self.empty = [""] * len(self.both)


def composed_scores(adapters: Adapters, words: Words, dtype: torch.dtype, content: float, style: float) -> list[Term]:
    """empty + G (base + style (e_style - base) + content (e_content - base) - empty): the sum of the two effects in function space.

    The effect of the style is taken at its own words against the plain ones, that of the content too.
    """
    only_content, only_style = (adapters.scaled(*each).factors(frozenset(), dtype) for each in ((1.0, 0.0), (0.0, 1.0)))
    return [
        Term(1 - GUIDANCE, None, words.empty),
        Term(GUIDANCE * style, only_style, words.style),
        Term(GUIDANCE * content, only_content, words.content),
        Term(GUIDANCE * (1 - content - style), None, words.plain),
    ]


def style_guided(adapters: Adapters, words: Words, dtype: torch.dtype, more: float) -> list[Term]:
    """Ordinary guidance, and ``more`` of what the style's adapter and words change of the content's photograph."""
    both, only_content = (adapters.scaled(*each).factors(frozenset(), dtype) for each in ((1.0, 1.0), (1.0, 0.0)))
    return [
        Term(1 - GUIDANCE, both, words.empty),
        Term(GUIDANCE + more, both, words.both),
        Term(-more, only_content, words.content),
    ]


def two_conditions(adapters: Adapters, words: Words, dtype: torch.dtype, content: float, style: float) -> list[Term]:
    """One merged adapter, two guidances: empty + ``content`` (content's words - empty) + ``style`` (both words - content's words)."""
    both = adapters.factors(frozenset(), dtype)
    return [Term(1 - content, both, words.empty), Term(content - style, both, words.content), Term(style, both, words.both)]


def base_below(adapters: Adapters, words: Words, dtype: torch.dtype, guidance: float = GUIDANCE) -> list[Term]:
    """Guidance away from what the base model says to no words, not from what the adapter says to none."""
    return [Term(1 - guidance, None, words.empty), Term(guidance, adapters.factors(frozenset(), dtype), words.both)]
