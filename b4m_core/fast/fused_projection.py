"""All groups of projections of one kind, laid out for one matrix product a group.

A group is the projections that read the same input (projection_groups.py). Its base weights and its low-rank `down`
factors stand below each other in one matrix [W_1; ...; W_G; down_1; ...; down_G], so that one product gives both; a
second, batched one adds `up`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..row_split import Rows
from ..splits import Layout, Place
from ..stacks import Stack


class FusedProjection:
    """N groups of G projections of one shape (m, n) and one layout, in the compute ``dtype``.

    ``wide`` (N, G m + G k, n) and ``bias`` (N, G m + G k) or None; ``low`` (N, G, k, n) is the `down` part of it;
    ``up`` (N, G, m, k). ``found`` holds, for every part that moves, (N, G, ...) what a backward pass finds, that of
    each of its places beside the other. ``stack`` holds the parts themselves, layers in the order of the groups.
    ``kept``: somebody keeps the answers until the backward pass anyway. ``kernels``: accelerate.py. The weights of
    ``linears``, wherever they are, become views into ``wide``: nothing is held twice.
    """

    def __init__(
        self, layout: Layout, stack: Stack, linears: Sequence[Sequence[nn.Linear]], dtype: torch.dtype, *, kept: bool = False,
        kernels: Any = None,
    ) -> None:  # fmt: skip
        first, groups, members = linears[0][0], len(linears), len(linears[0])
        m, n = first.weight.shape  # N = groups, G = members
        self.kernels, self.kept = kernels, kept
        self.layout, self.stack, self.groups, self.members, self.m, self.n = layout, stack, groups, members, m, n
        wide = torch.zeros(groups, n, members * (m + layout.width), dtype=dtype, device=stack.up.device)
        self.wide = wide.mT  # (N, G m + G k, n); long sums are faster with their terms side by side
        self.low = self.wide[:, members * m :].view(groups, members, layout.width, n)  # (N, G, k, n)
        self.up = self.wide.new_zeros(groups, members, m, layout.width)  # (N, G, m, k)
        self.bias = None if first.bias is None else self.wide.new_zeros(self.wide.shape[:2])  # (N, G m + G k)
        for group, row in enumerate(linears):
            for member, linear in enumerate(row):
                self._take(linear, group, slice(member * m, (member + 1) * m))
        self.found: dict[Place, Tensor] = {}
        for place in layout.places:
            part = stack.parts[place.part]
            if part.grad is not None:
                shape = (*part.shape[1:-1], part.shape[-1] * len(place.ranks))  # (h, r times its blocks) or (r, w)
                self.found[place] = self.wide.new_zeros(groups, members, *shape)
            self._put(place)

    def _take(self, linear: nn.Linear, group: int, place: slice) -> None:
        self.wide[group, place].copy_(linear.weight)
        linear.weight.data = self.wide[group, place]
        if self.bias is not None:
            self.bias[group, place].copy_(linear.bias)

    def _put(self, place: Place) -> None:
        part = self.stack.parts[place.part].detach()  # (N G, h, r) or (N G, r, w)
        place.put(self.up if place.up else self.low, part.view(self.groups, self.members, *part.shape[1:]))

    def refresh(self) -> None:
        """Bring the factors up to date with the parts that move; once after every optimiser step."""
        for place in self.found:
            self._put(place)

    def gather(self, rows: Rows, count: int) -> None:
        """Add what the last backward pass over ``count`` rows found to the gradients of the parts that ``rows``
        moves.
        """
        for place, found in self.found.items():
            gradient = self.stack.parts[place.part].grad
            if gradient is not None and range(count)[rows.of(place.concept)]:
                height, width = gradient.shape[1:]  # (N, G, h, r times its blocks) -> (N G, h, blocks, r)
                for of_place in found.view(-1, height, len(place.ranks), width).unbind(2):
                    gradient.add_(of_place)
