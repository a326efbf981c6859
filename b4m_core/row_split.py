"""One batch, two owners: some rows move content's factors and others style's, in a single forward and a single backward pass.

The value of the update is the same for every row; only its gradient is not. A row that may not move a half sees that half as a constant, so
dropping the row from that half's weight gradient gives exactly what two separate backward passes would. The gradient that flows on
through the activations is whole for every row. This replaces the published code's four UNet passes and two backward passes a step.
One autograd function for the published split and one for the sums of two products, full reach and free (splits.py).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


class Rows(NamedTuple):
    """The rows of a batch that move style (``up``: B, and C where it is learned) and content (``down``: D, and A where it is learned)."""

    up: slice
    down: slice


ALL_ROWS = Rows(slice(None), slice(None))


def _weight_gradient(output_gradient: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of W in y = x W', summed over all leading dimensions."""
    return output_gradient.flatten(0, -2).T @ inputs.flatten(0, -2)


class RowSplitBranch(torch.autograd.Function):
    """The published split: y = x dW' for dW = [[k A C, A D], [B C, B D]], with B's gradient from some rows and D's from others.

    x (rows, ..., n) in any float dtype; the products run in x's dtype, the gradients of B and D come back in theirs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor, d: Tensor, a: Tensor, c: Tensor, keeps_corner: bool, rows: Rows) -> Tensor:  # noqa: D102
        a, b, c, d = (half.to(x.dtype) for half in (a, b, c, d))
        first, second = x[..., : c.shape[1]], x[..., c.shape[1] :]
        content = linear(second, d)
        both = linear(first, c) + content
        ctx.save_for_backward(second[rows.down], both[rows.up], a, b, c, d)
        ctx.keeps_corner, ctx.rows = keeps_corner, rows
        return torch.cat([linear(both if keeps_corner else content, a), linear(both, b)], dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        second, both, a, b, c, d = ctx.saved_tensors
        rows = ctx.rows
        top, bottom = gradient[..., : len(a)], gradient[..., len(a) :]
        through_a, through_b = top @ a, bottom @ b
        down = through_a + through_b
        grad_b = _weight_gradient(bottom[rows.up], both) if ctx.needs_input_grad[1] else None
        grad_d = _weight_gradient(down[rows.down], second) if ctx.needs_input_grad[2] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.cat([(down if ctx.keeps_corner else through_b) @ c, down @ d], dim=-1)
        return grad_x, grad_b, grad_d, None, None, None, None


class FullReachBranch(torch.autograd.Function):
    """y = A (D x) + B (C x), with the gradients of B and C from some rows and those of A and D from others; computed as [A, B] [D; C] x.

    x (rows, ..., n) in any float dtype; the products run in x's dtype, the gradients come back in the dtypes of the parts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor, d: Tensor, a: Tensor, c: Tensor, rows: Rows) -> Tensor:  # noqa: D102
        up = torch.cat([a.to(x.dtype), b.to(x.dtype)], dim=1)
        down = torch.cat([d.to(x.dtype), c.to(x.dtype)], dim=0)
        through = linear(x, down)
        ctx.save_for_backward(x, through, up, down)
        ctx.rows, ctx.rank = rows, len(d)
        return linear(through, up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, through, up, down = ctx.saved_tensors
        rows, rank = ctx.rows, ctx.rank
        back = gradient @ up
        content, style = slice(None, rank), slice(rank, None)

        def of_up(which: slice, half: slice) -> Tensor:
            return _weight_gradient(gradient[which], through[which][..., half])

        def of_down(which: slice, half: slice) -> Tensor:
            return _weight_gradient(back[which][..., half], x[which])

        wanted = ctx.needs_input_grad
        return (
            back @ down if wanted[0] else None,
            of_up(rows.up, style) if wanted[1] else None,
            of_down(rows.down, content) if wanted[2] else None,
            of_up(rows.down, content) if wanted[3] else None,
            of_down(rows.up, style) if wanted[4] else None,
            None,
        )
