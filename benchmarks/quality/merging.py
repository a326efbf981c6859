"""The rivals that merge two finished LoRAs without training: each takes and gives adapters of the family LORA."""

import torch
from torch import Tensor

from .families import LORA, Adapters
from .grouped import Factors


def _changed(adapters: Adapters, change: str, new: list[Tensor]) -> Adapters:
    learned = [{**stack, change: tensor} for stack, tensor in zip(adapters.learned, new, strict=True)]
    return Adapters(LORA, learned, adapters.frozen)


@torch.no_grad()
def null_space(adapters: Adapters, strength: float) -> Adapters:
    """NP-LoRA (arXiv 2511.11051): the content's down loses the share ``strength`` = mu / (1 + mu) of what lies in the style's row space."""
    new = []
    for stack in adapters.learned:
        rows = torch.linalg.qr(stack["style_down"].mT)[0]  # (L, G, n, r), orthonormal columns
        new.append(stack["content_down"] - strength * (stack["content_down"] @ rows) @ rows.mT)
    return _changed(adapters, "content_down", new)


@torch.no_grad()
def choose_by_step(adapters: Adapters, *, steps: int, alpha: float, beta: float) -> Factors:
    """K-LoRA (CVPR 2025): in every layer and step one of the two alone, the content where S_c >= S_s g (alpha t / T + beta).

    S is the sum of the r_c r_s largest absolute entries of an update, g the ratio of the two's total absolute sums over all layers.
    """
    rank = adapters.learned[0]["content_up"].shape[-1]
    scores, totals = [], torch.zeros(2, adapters.learned[0]["content_up"].shape[1])
    for stack in adapters.learned:
        found = []
        for which, concept in enumerate(("content", "style")):
            sizes = (stack[f"{concept}_up"] @ stack[f"{concept}_down"]).abs().flatten(2)
            totals[which] += sizes.sum((0, 2)).cpu()
            found.append(sizes.topk(min(rank * rank, sizes.shape[-1]), -1)[0].sum(-1))
        scores.append(found)
    ratio = (totals[0] / totals[1]).to(scores[0][0].device)
    factors, gates = adapters.factors(frozenset(), torch.float32), []
    for content, style in scores:
        wins = torch.stack([content >= style * ratio * (alpha * t / steps + beta) for t in range(steps)]).float()
        gates.append(torch.cat([wins[..., None].expand(-1, -1, -1, rank), 1 - wins[..., None].expand(-1, -1, -1, rank)], -1))
    return Factors(factors.up, factors.down, gates)


@torch.no_grad()
def only_blocks(adapters: Adapters, names: list[list[str]], content: str, style: str) -> Adapters:
    """B-LoRA's merge: of the content what lies in the blocks whose names begin with ``content``, of the style those with ``style``."""
    learned = []
    for stack, layers in zip(adapters.learned, names, strict=True):
        changed = dict(stack)
        for concept, block in (("content", content), ("style", style)):
            mask = torch.tensor([float(name.startswith(block)) for name in layers], device=stack["content_up"].device)
            changed[f"{concept}_up"] = stack[f"{concept}_up"] * mask[:, None, None, None]
        learned.append(changed)
    return Adapters(LORA, learned, adapters.frozen)


@torch.no_grad()
def over_time(
    adapters: Adapters, content_first: float, content_last: float, style_first: float, style_last: float, *, steps: int
) -> Factors:
    """Strengths that go from their first value, at the noisiest step, to their last in a straight line."""
    rank, factors, gates = adapters.learned[0]["content_up"].shape[-1], adapters.factors(frozenset(), torch.float32), []
    for up in factors.up:
        layers, groups = up.shape[:2]
        ramps = [torch.linspace(a, b, steps).view(steps, 1, 1, 1) for a, b in ((content_first, content_last), (style_first, style_last))]
        gates.append(torch.cat([ramp.expand(steps, layers, groups, rank) for ramp in ramps], -1).to(up.device))
    return Factors(factors.up, factors.down, gates)
