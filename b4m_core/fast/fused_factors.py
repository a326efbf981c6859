"""The low-rank factors of all groups of layers of one kind, in the dtype to compute with, and what a pass finds for them."""

from torch import Tensor

from ..row_split import Rows
from ..splits import Layout, Place
from ..stacks import Stack


class FusedFactors:
    """The factors of N groups of G layers of one shape (m, n) and one layout, in the compute dtype.

    ``low`` (N, G, k, n) are `down`, ``up`` (N, G, m, k). ``found`` holds, for every part that moves, (N, G, ...) what a
    backward pass finds, that of each of its places beside the other. ``stack`` holds the parts themselves, layers in the
    order of the groups.
    """

    def __init__(self, layout: Layout, stack: Stack, up: Tensor, low: Tensor) -> None:
        self.layout, self.stack, self.up, self.low = layout, stack, up, low
        self.groups, self.members = up.shape[:2]
        self.m, self.n = up.shape[2], low.shape[3]
        self.found: dict[Place, Tensor] = {}
        for place in layout.places:
            part = stack.parts[place.part]
            if part.grad is not None:
                shape = (*part.shape[1:-1], part.shape[-1] * len(place.ranks))  # (h, r times its blocks) or (r, w)
                self.found[place] = up.new_zeros(self.groups, self.members, *shape)
            self._put(place)

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
