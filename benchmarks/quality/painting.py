"""What adapters paint, and what the judges say of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.world import backgrounds, styles
from benchmarks.world.judge import Judge, ask

from . import concepts
from .families import Adapters
from .grouped import Factors, Segment
from .references import Studio, phrase, start_noise


@dataclass(frozen=True)
class Question:
    """A prompt and what a judge should find in the picture, as indices; NOTHING where nothing is asked."""

    prompt: str
    content: int
    style: int
    background: int


NOTHING = -1


def questions(studio: Studio, content: str, style: str, *, thing: str | None = None, look: str | None = None) -> list[Question]:
    """The six prompts for a content in a style; ``thing`` and ``look`` stand for the trigger words where a concept is left out."""
    shown = thing or concepts.subject(content)
    named = look or concepts.STYLE_TRIGGER
    found = []
    for place, wording in concepts.PROMPTS:
        prompt = wording.format(thing=shown, place=phrase(place), style=named)
        found.append(Question(prompt, studio.world.index(content), styles.NAMES.index(style), backgrounds.NAMES.index(place)))
    return found


def paint(studio: Studio, worn: Adapters | Factors | None, asked: Sequence[Sequence[Question]], most_rows: int = 384) -> Tensor:
    """Pictures uint8 (G, prompts * noises, 3, S, S) on the CPU: every question of group g at every noise, by adapter g."""
    factors = worn.factors(frozenset(), studio.painter.dtype) if isinstance(worn, Adapters) else worn
    words = worn.words() if isinstance(worn, Adapters) else None
    noise = start_noise(concepts.NOISES, studio.side, studio.device)
    each = len(asked[0]) * len(noise)
    at_once = max(1, most_rows // each)
    done = []
    for first in range(0, len(asked), at_once):
        some = asked[first : first + at_once]
        learned = None if words is None else words[first : first + len(some)].repeat_interleave(len(asked[0]), 0)
        context, pooled = studio.encode_text([question.prompt for group in some for question in group], learned)
        context, pooled = context.repeat_interleave(len(noise), 0), pooled.repeat_interleave(len(noise), 0)
        if factors is None:
            studio.painter.wear(len(some), [])
        else:
            these = factors.take(range(first, first + len(some))).to(studio.painter.dtype)
            studio.painter.wear(len(some), [Segment(0, 2 * each, these)])
        pictures = studio.sample(context, pooled, noise.repeat(context.shape[0] // len(noise), 1, 1, 1))
        done.append((pictures * 255).round().byte().cpu().unflatten(0, (len(some), each)))
    studio.painter.wear(1, [])
    return torch.cat(done)


def marks(judge: Judge, pictures: Tensor, asked: Sequence[Sequence[Question]]) -> Tensor:
    """bool (G, pictures, 3): content, style and background right. pictures uint8 (G, N, 3, S, S)."""
    verdict = ask(judge, pictures.flatten(0, 1))
    noises = len(concepts.NOISES)
    truth = torch.tensor([[q.content, q.style, q.background] for group in asked for q in group]).repeat_interleave(noises, 0)
    said = torch.stack([verdict.content, verdict.style, verdict.background], 1)
    return ((said == truth) | (truth == NOTHING)).unflatten(0, pictures.shape[:2])


def shares(right: Tensor) -> dict[str, float]:
    """Of marks (..., 3): the share of each and of all three."""
    flat = right.flatten(0, -2).float()
    names = dict(zip(("content", "style", "background"), flat.mean(0).tolist(), strict=True))
    return {**names, "content and style": (flat[:, 0] * flat[:, 1]).mean().item(), "all three": flat.prod(1).mean().item()}
