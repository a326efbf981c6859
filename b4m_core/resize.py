"""A smaller rank for a trained adapter: every product is replaced by the nearest one of lower rank.

The singular value decomposition of each concept's product, cut off after the largest ``rank`` values, which no other
product of that rank comes nearer to (Eckart and Young 1936). Content and style are cut apart from each other, so both
sliders stay.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .adapter import Adapter
from .errors import B4MError
from .projection import PartlyLearnableProjection
from .splits import CONCEPTS

Factors = tuple[Tensor, Tensor]
"""up (m, k) and down (k, n) of one product, float64."""
_RESULT = "free"
"""The split of the result: its parts belong to nobody but their concept, so that any product has a place in it."""


def resized(adapter: Adapter, rank: int) -> tuple[Adapter, float]:
    """The adapter with at most ``rank`` for each concept, and its relative Frobenius difference from the whole over all
    layers, at full strength. What it carries along stays as it is.

    One that has no more is left as it is. Raises :class:`B4MError` for a rank below 1, and where content and style
    cannot be cut apart.
    """
    if rank < 1:
        raise B4MError(f"The rank is {rank}: choose one of at least 1.")
    facts = adapter.facts
    if facts.rank <= rank:
        return adapter, 0.0
    products = _products_of(adapter)
    lower = dataclasses.replace(facts, rank=rank, basis="", split=_RESULT, start="zero_start", compact=False, stored_basis=False)
    small = Adapter.fresh(adapter.shapes(), lower)
    off = whole = 0.0
    with torch.inference_mode(False), torch.no_grad():
        for name, layer in adapter.layers.items():
            before, after = dict(products(layer)), {}
            for concept, factors in before.items():
                after[concept] = truncated(*factors, rank)
                for part, value in zip(getattr(lower.split_row, concept), after[concept], strict=True):
                    getattr(small.layers[name], part).copy_(value)
            off += _square_of([*before.values(), *((-up, down) for up, down in after.values())])
            whole += _square_of(list(before.values()))
    whole_again = small.rounded().carrying(adapter.carried).shown_by(adapter.thumbnail).noted(*adapter.notes)
    return whole_again, math.sqrt(off / whole) if whole else 0.0


def truncated(up: Tensor, down: Tensor, rank: int) -> Factors:
    """The nearest product of that rank to up (m, k) times down (k, n), its weight shared evenly by the two factors."""
    left, core_up = torch.linalg.qr(up)  # (m, k), (k, k)
    right, core_down = torch.linalg.qr(down.T)  # (n, k), (k, k)
    u, values, v = torch.linalg.svd(core_up @ core_down.T)
    root = values[:rank].sqrt()
    return _filled(left @ u[:, :rank] * root, (right @ v[:rank].T * root).T, rank)


def _filled(up: Tensor, down: Tensor, rank: int) -> Factors:
    """The factors with zeros up to ``rank``, for a layer that has no more."""
    missing = rank - up.shape[1]
    return torch.nn.functional.pad(up, (0, missing)), torch.nn.functional.pad(down, (0, 0, 0, missing))


def _products_of(adapter: Adapter) -> Callable[[PartlyLearnableProjection], Iterator[tuple[str, Factors]]]:
    """How a layer is taken apart: the product of each concept that says something, or for one concept alone all."""
    facts = adapter.facts
    if not facts.split_row.cut:
        row = facts.split_row
        return lambda layer: (
            (concept, factors)
            for concept in CONCEPTS
            if getattr(layer, getattr(row, concept)[0]).any()
            for factors in [_wide(*layer.lora_factors(alone=concept))]
        )
    if facts.role in CONCEPTS:
        return lambda layer: iter([(facts.role, _wide(*layer.lora_factors()))])
    raise B4MError(
        f"With the split {facts.split} content and style share a block, so a smaller rank would lose their sliders: "
        "save this adapter at its own rank, or reduce its content and its style and merge them again."
    )


def _wide(up: Tensor, down: Tensor) -> Factors:
    return up.detach().double(), down.detach().double()


def _square_of(products: list[Factors]) -> float:
    """The squared Frobenius norm of the sum of products: tr(U'U V V')."""
    if not products:
        return 0.0
    up, down = torch.cat([each[0] for each in products], 1), torch.cat([each[1] for each in products], 0)
    return max(float(((up.T @ up) * (down @ down.T)).sum()), 0.0)
