"""The frozen parts of the network as functions that keep only what their backward pass needs.

No base weight gets a gradient, so a convolution or a feed-forward layer need not keep its input. That halves what a
step keeps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from .streamed import Resident


class FrozenConv(torch.autograd.Function):
    """A convolution whose weight and bias are constants: only the weight is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: nn.Conv2d, bias: Tensor | None) -> Tensor:  # noqa: D102
        ctx.conv, ctx.shape = conv, x.shape
        return torch.conv2d(x, conv.weight, bias, conv.stride, conv.padding)  # (R, C, h, w) -> (R, C', h', w')

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        return into_input(gradients[0], ctx.conv.weight, ctx.conv, ctx.shape), None, None


def into_input(gradient: Tensor, weight: Tensor, conv: Any, shape: torch.Size) -> Tensor:
    """The gradient of the input, of that ``shape`` (R, C, h, w), of a convolution by ``weight`` with the stride and padding
    of ``conv``.
    """
    lost = [  # pixels at the edge that a stride of 2 does not reach
        size - ((out - 1) * stride - 2 * padding + kernel)
        for size, out, stride, padding, kernel in zip(
            shape[2:], gradient.shape[2:], conv.stride, conv.padding, conv.kernel_size, strict=True
        )
    ]
    return torch.conv_transpose2d(gradient, weight, None, conv.stride, conv.padding, lost)


class FrozenFeedForward(torch.autograd.Function):
    """W_2 (h gelu(g)) + b_2 with [h, g] = W_1 x + b_1: keeps [h, g] and nothing else. ``weights``: where they are
    (streamed.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: nn.Linear, second: nn.Linear, kernels: Any, weights: Resident) -> Tensor:  # noqa: D102
        weights.ensure_resident(first)
        both = linear(x, first.weight, first.bias)  # (R, T, C) -> (R, T, 8 C)
        ctx.save_for_backward(both)
        ctx.first, ctx.second, ctx.kernels, ctx.weights = first, second, kernels, weights
        product = geglu(both) if kernels is None else kernels.geglu(both)  # (R, T, 4 C)
        return linear(product, second.weight, second.bias)  # (R, T, C)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (both,) = ctx.saved_tensors
        ctx.weights.ensure_resident(ctx.first)
        product = gradients[0] @ ctx.second.weight  # (R, T, C) @ (C, 4 C)
        into = geglu_backward(both, product) if ctx.kernels is None else ctx.kernels.geglu_backward(both, product)
        return into @ ctx.first.weight, None, None, None, None  # (R, T, 8 C) @ (8 C, C)


def geglu(both: Tensor) -> Tensor:
    """h gelu(g) of [h, g] (..., 2 w)."""
    h, g = both.chunk(2, dim=-1)  # (..., w) each
    return gelu(g).mul_(h)


def geglu_backward(both: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of [h, g]; ``gradient`` is spent."""
    h, g = both.chunk(2, dim=-1)
    into = torch.empty_like(both)
    into_h, into_g = into.chunk(2, dim=-1)
    torch.mul(gradient, gelu(g), out=into_h)
    torch.ops.aten.gelu_backward.grad_input(gradient.mul_(h), g, grad_input=into_g)
    return into


def convolve(x: Tensor, conv: nn.Conv2d, *, biased: bool = True) -> Tensor:
    """The convolution, without its bias unless ``biased``: the bias of some is added later, with something else."""
    return FrozenConv.apply(x, conv, conv.bias if biased else None)  # type: ignore[no-any-return]
