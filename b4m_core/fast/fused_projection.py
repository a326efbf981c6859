"""All groups of projections of one kind, laid out for one matrix product a group.

A group is the projections that read the same input (projection_groups.py). Its base weights and its low-rank `down`
factors stand below each other in one matrix [W_1; ...; W_G; down_1; ...; down_G], so that one product gives both; a
second, batched one adds `up`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..layers import AdaptedLayer, matrix_shape
from ..splits import Layout
from ..stacks import Stack
from .fused_factors import FusedFactors


class FusedProjection(FusedFactors):
    """N groups of G projections of one shape (m, n) and one layout, in the compute ``dtype``.

    ``wide`` (N, G m + G k, n) and ``bias`` (N, G m + G k) or None, where there is none or it is added elsewhere
    (``biased``); ``low`` is the `down` part of ``wide``. ``kept``: somebody keeps the answers until the backward pass
    anyway. ``kernels``: accelerate.py. The weights of ``layers``, Linears or convolutions of single places, wherever
    they are, become views into ``wide``: nothing is held twice.
    """

    def __init__(
        self, layout: Layout, stack: Stack, layers: Sequence[Sequence[AdaptedLayer]], dtype: torch.dtype, *, kept: bool = False,
        biased: bool = True, kernels: Any = None,
    ) -> None:  # fmt: skip
        first, groups, members = layers[0][0], len(layers), len(layers[0])  # N = groups, G = members
        m, n = matrix_shape(first)
        self.kernels, self.kept = kernels, kept
        wide = torch.zeros(groups, n, members * (m + layout.width), dtype=dtype, device=stack.up.device)
        self.wide = wide.mT  # (N, G m + G k, n); long sums are faster with their terms side by side
        self.bias = self.wide.new_zeros(self.wide.shape[:2]) if biased and first.bias is not None else None  # (N, G m + G k)
        for group, row in enumerate(layers):
            for member, layer in enumerate(row):
                self._take(layer, group, slice(member * m, (member + 1) * m))
        low = self.wide[:, members * m :].view(groups, members, layout.width, n)  # (N, G, k, n)
        super().__init__(layout, stack, self.wide.new_zeros(groups, members, m, layout.width), low)

    def _take(self, layer: AdaptedLayer, group: int, place: slice) -> None:
        shape = layer.weight.shape
        self.wide[group, place].copy_(layer.weight.flatten(1))
        layer.weight.data = self.wide[group, place].view(shape)
        if self.bias is not None and layer.bias is not None:
            self.bias[group, place].copy_(layer.bias)
