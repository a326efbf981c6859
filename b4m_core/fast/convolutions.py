"""Convolutions with a low-rank update beside them: y = W * x + up (down * x), forward and backward written out.

`down` is a convolution of as many channels as the update has ranks, of the stride and padding of the one beside it, and
`up` a product at every place. The base weight gets no gradient; x is kept, since that of `down` needs it. As in
products.py every part's gradient comes of its own rows, is written into the family's buffers, and is computed aside.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from ..layers import matrix_shape, outer_product
from ..row_split import Rows
from ..splits import Layout, Place
from ..stacks import Stack
from .frozen import into_input
from .fused_factors import FusedFactors
from .side_stream import SideStream


class FusedConvolutions(FusedFactors):
    """N convolutions of one shape and one layout, each a group of its own, in the compute ``dtype``."""

    def __init__(self, layout: Layout, stack: Stack, convolutions: Sequence[nn.Conv2d], dtype: torch.dtype) -> None:
        self.convolutions = convolutions
        m, n = matrix_shape(convolutions[0])
        up, low = (
            torch.zeros(len(convolutions), 1, *shape, dtype=dtype, device=stack.up.device)
            for shape in ((m, layout.width), (layout.width, n))
        )
        super().__init__(layout, stack, up, low)

    def kernels_of(self, index: int) -> tuple[Tensor, Tensor]:
        """`up` (m, k) and `down` as a convolution (k, c, kh, kw) of one of them."""
        return self.up[index, 0], self.low[index, 0].view(-1, *self.convolutions[index].weight.shape[1:])


class ConvolutionProducts(torch.autograd.Function):
    """x (R, c, h, w) to (R, m, h', w'), with ``bias`` or without. ``anchor`` is any leaf that requires grad: it makes the
    backward pass come by.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, family: FusedConvolutions, index: int, bias: Tensor | None, rows: Rows, aside: SideStream
    ) -> Tensor:  # noqa: D102
        conv, (up, down) = family.convolutions[index], family.kernels_of(index)
        y = torch.conv2d(x, conv.weight, bias, conv.stride, conv.padding)  # (R, m, h', w')
        low = torch.conv2d(x, down, None, conv.stride, conv.padding)  # (R, k, h', w')
        y.view(*y.shape[:2], -1).baddbmm_(up.expand(len(y), *up.shape), low.flatten(2))  # (R, m, T) += (m, k) @ (R, k, T)
        ctx.save_for_backward(x, low)
        ctx.family, ctx.index, ctx.rows, ctx.aside = family, index, rows, aside
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (x, low), gradient = ctx.saved_tensors, gradients[0]
        family, conv = ctx.family, ctx.family.convolutions[ctx.index]
        up, down = family.kernels_of(ctx.index)
        inner = torch.conv2d(gradient, up.T[:, :, None, None])  # (R, m, h', w') -> (R, k, h', w')
        with ctx.aside.rows_beside(x, low, gradient, inner):
            _learn(family, ctx.index, ctx.rows, x, low, gradient, inner)
        into_x = None
        if ctx.needs_input_grad[0]:
            into_x = into_input(gradient, conv.weight, conv, x.shape)
            into_x += into_input(inner, down, conv, x.shape)
        return into_x, None, None, None, None, None, None


def _learn(family: FusedConvolutions, index: int, rows: Rows, x: Tensor, low: Tensor, through: Tensor, inner: Tensor) -> None:
    """The gradients of the parts of one convolution that move, each from its own rows."""
    for place, found in family.found.items():
        which = rows.of(place.concept)
        if place.up and len(x[which]):
            left = through[which].movedim(1, -1)[..., place.offset : place.offset + place.reach]  # (R', h', w', h)
            found[index, 0] = outer_product(left, family.layout.seen(place, low[which].movedim(1, -1)))
    conv = family.convolutions[index]
    for which, places in _by_rows(family, rows):
        if len(x[which]):
            first, last = min(place.ranks[0] for place in places), max(place.ranks[0] for place in places) + family.layout.rank
            size = (last - first, *conv.weight.shape[1:])
            whole: Tensor = conv2d_weight(x[which], size, inner[which, first:last], conv.stride, conv.padding)  # type: ignore[no-untyped-call]
            for place in places:
                rank, columns = place.ranks[0] - first, slice(place.offset, place.offset + place.reach)
                family.found[place][index, 0] = whole.flatten(1)[rank : rank + family.layout.rank, columns]


def _by_rows(family: FusedConvolutions, rows: Rows) -> Iterator[tuple[slice, list[Place]]]:
    """The parts of down that move, those together that the same rows move: one pass over the pictures for each."""
    down = [place for place in family.found if not place.up]
    for which in dict.fromkeys((each.start, each.stop) for each in rows):
        if places := [place for place in down if (rows.of(place.concept).start, rows.of(place.concept).stop) == which]:
            yield slice(*which), places
