"""One batch, two owners: content rows move D alone and auxiliary rows move B alone, in a single forward and a single backward pass.

The value of the update is the same for every row; only its gradient is not. A row that may not move a half sees that half as a constant, so
dropping the row from that half's weight gradient gives exactly what two separate backward passes would. The gradient that flows on
through the activations is whole for every row. This replaces the published code's four UNet passes and two backward passes a step.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


class Rows(NamedTuple):
    """The rows of a batch that give B (``up``) and D (``down``) their gradient."""

    up: slice
    down: slice


ALL_ROWS = Rows(slice(None), slice(None))


def _weight_gradient(output_gradient: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of W in y = x W', summed over all leading dimensions."""
    return output_gradient.flatten(0, -2).T @ inputs.flatten(0, -2)


class RowSplitBranch(torch.autograd.Function):
    """y = x dW' for dW = [[k A C, A D], [B C, B D]], with B's gradient from some rows and D's from others.

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
