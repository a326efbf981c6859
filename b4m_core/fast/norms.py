"""Norms of the frozen network, each with what stands beside it: the residual sum before a layer norm, the shift before
and the silu after a group norm. Where there are kernels for it (triton_kernels.py) these are one pass over memory each
way; otherwise they are torch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu


class AddNorm(torch.autograd.Function):
    """x + out and its layer norm, for x and out (R, T, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor | None, norm: nn.LayerNorm, kernels: Any) -> tuple[Tensor, Tensor]:  # noqa: D102
        total, y, mean, rstd = kernels.add_norm(x, out, norm.weight, norm.bias, norm.eps)
        ctx.save_for_backward(total, mean, rstd)
        ctx.norm, ctx.kernels, ctx.both = norm, kernels, out is not None
        ctx.set_materialize_grads(False)
        return total if ctx.both else x.view_as(x), y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        total, mean, rstd = ctx.saved_tensors
        through, gradient = gradients
        if gradient is None:
            return through, through if ctx.both else None, None, None
        into = ctx.kernels.add_norm_backward(total, gradient, through, ctx.norm.weight, mean, rstd)
        return into, into if ctx.both else None, None, None


def add_norm(x: Tensor, out: Tensor | None, norm: nn.LayerNorm, kernels: Any) -> tuple[Tensor, Tensor]:
    """x + out, and its layer norm."""
    if kernels is not None:
        return AddNorm.apply(x, out, norm, kernels)  # type: ignore[no-any-return]
    total = x if out is None else x + out
    return total, layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class GroupNorm(torch.autograd.Function):
    """x itself and act(group norm(x + shift)): keeps x and the sums."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor | None, norm: nn.GroupNorm, act: bool, kernels: Any
    ) -> tuple[Tensor, Tensor]:  # noqa: D102
        y, stats = kernels.group_norm(x, shift, norm.weight, norm.bias, norm.num_groups, norm.eps, act)
        ctx.save_for_backward(x, shift, stats)
        ctx.norm, ctx.act, ctx.kernels = norm, act, kernels
        ctx.set_materialize_grads(False)
        return x.view_as(x), y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, shift, stats = ctx.saved_tensors
        through, gradient = gradients
        if gradient is None:
            return through, None, None, None, None
        norm = ctx.norm
        into = ctx.kernels.group_norm_backward(
            x, shift, stats, norm.weight, norm.bias, norm.num_groups, norm.eps, ctx.act, gradient, through
        )
        return into, None, None, None, None


def shifted_norm(
    x: Tensor, shift: Tensor | None, norm: nn.GroupNorm, kernels: Any, *, act: bool = True
) -> tuple[Tensor, Tensor]:
    """x for what passes by the norm, and act(group norm(x + shift)); x (R, C, h, w), shift (R, C), act is silu or
    nothing.
    """
    if kernels is not None:
        return GroupNorm.apply(x.contiguous(memory_format=torch.channels_last), shift, norm, act, kernels)  # type: ignore[no-any-return]
    total = x if shift is None else x + shift[:, :, None, None]  # (R, C, h, w) + (R, C, 1, 1)
    y = torch.nn.functional.group_norm(total, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return x, silu(y) if act else y


class Residual(torch.autograd.Function):
    """x + y + bias for a bias that is a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bias: Tensor, kernels: Any) -> Tensor:  # noqa: D102
        return kernels.add_residual(x, y, bias)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        return gradients[0], gradients[0], None, None
