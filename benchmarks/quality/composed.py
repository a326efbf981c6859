"""Composition of scores instead of weights: e(style) + w (e(content) - e(base)), each network with its own words. Three passes a step.

No rival of the paper's table, but the ceiling of what two finished adapters can say together without touching each other's weights.
"""

import torch
from torch import Tensor

from benchmarks.world.autoencoder import decode

from . import concepts
from .families import Adapters
from .grouped import Segment
from .painting import Question
from .references import GUIDANCE, STEPS, Replayed, Studio, phrase, start_noise


@torch.no_grad()
def paint_composed(studio: Studio, adapters: Adapters, asked: list[list[Question]], subjects: list[str], weight: float) -> Tensor:
    """Pictures uint8 (G, prompts * noises, 3, S, S); ``subjects[g]`` is the content of group g in a prompt."""
    net, groups = studio.painter, len(asked)
    noise = start_noise(concepts.NOISES, studio.side, studio.device)
    each = len(concepts.PROMPTS) * len(noise)
    in_style, photo, plain = [], [], []
    for subject in subjects:
        bare = subject.replace(f"{concepts.CONTENT_TRIGGER} ", "")
        for place, wording in concepts.PROMPTS:
            in_style.append(wording.format(thing=bare, place=phrase(place), style=concepts.STYLE_TRIGGER))
            photo.append(f"a photo of {subject} {phrase(place)}")
            plain.append(f"a photo of {bare} {phrase(place)}")
    texts = [tuple(x.repeat_interleave(len(noise), 0) for x in studio.encode_text(prompts)) for prompts in (in_style, photo, plain)]
    texts.append(tuple(x.expand(groups * each, *x.shape[1:]) for x in studio.encode_text([""])))
    worn = [adapters.scaled(0.0, 1.0), adapters.scaled(1.0, 0.0)]
    factors = [each_worn.factors(frozenset(), net.dtype) for each_worn in worn]

    def scores(x: Tensor, time: Tensor) -> Tensor:
        found = []
        for segments, text in zip(([Segment(0, each, factors[0])], [Segment(0, each, factors[1])], [], []), texts, strict=True):
            net.wear(groups, segments)
            found.append(net(x, time.expand(len(x)), *text))
        style, content, base, empty = found
        return empty + GUIDANCE * (style + weight * (content - base) - empty)

    predict = Replayed(scores, studio.device)
    times = torch.linspace(len(studio.alphas) - 1, 0, STEPS, device=studio.device).round().long()
    sigmas = torch.cat([((1 - studio.alphas[times]) / studio.alphas[times]).sqrt(), studio.alphas.new_zeros(1)])
    x = noise.repeat(groups * len(concepts.PROMPTS), 1, 1, 1) * sigmas[0]
    for k in range(STEPS):
        x = x + (sigmas[k + 1] - sigmas[k]) * predict(x / (sigmas[k] ** 2 + 1).sqrt(), times[k])
    net.wear(1, [])
    return (decode(studio.autoencoder, x) * 255).round().byte().cpu().unflatten(0, (groups, each))
