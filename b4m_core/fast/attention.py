"""Attention: the library's, or over few tokens one kernel each way where there are kernels (triton_attention.py)."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, kernels: Any) -> Tensor:
    """Attention of (R, T, C) over (R, S, C), heads side by side in C."""
    if kernels is not None and kernels.attends(q, k, heads):
        return ShortAttention.apply(q, k, v, heads, kernels)  # type: ignore[no-any-return]
    q, k, v = (rearrange(part, "r t (heads d) -> r heads t d", heads=heads) for part in (q, k, v))
    out: Tensor = rearrange(scaled_dot_product_attention(q, k, v), "r heads t d -> r t (heads d)")
    if out.requires_grad:
        # torch 2.11 keeps cuDNN's backward pass by the shapes and strides of q, k and v alone: a gradient that lies
        # otherwise in memory than that of the first call of its kind is read wrongly, or beyond its end
        out.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return out


class ShortAttention(torch.autograd.Function):
    """The same with the kernels. Gradients of parts that lie side by side lie side by side, as their group needs them
    (products.py).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, kernels: Any) -> Tensor:  # noqa: D102
        out, sums = kernels.attend(q, k, v, heads)
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.heads, ctx.kernels = heads, kernels
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        q, k, v, out, sums = ctx.saved_tensors
        if lie_side_by_side((q, k, v)):
            beside = q.new_empty(*q.shape[:2], q.stride(1))  # (R, T, 3 C and what else stands in a row of the group)
            into = beside[..., : 3 * q.shape[-1]].chunk(3, dim=-1)  # (R, T, C) each
        else:
            into = tuple(torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (q, k, v))
        ctx.kernels.attend_backward(q, k, v, out, sums, gradients[0], ctx.heads, into)
        return *into, None, None


def lie_side_by_side(parts: Sequence[Tensor]) -> bool:
    """Whether tensors (R, T, m) are columns of one tensor, the first of them its first."""
    first, step = parts[0], parts[0].shape[-1] * parts[0].element_size()
    return first.stride(1) >= len(parts) * first.shape[-1] and all(
        part.stride() == first.stride() and part.data_ptr() == first.data_ptr() + index * step
        for index, part in enumerate(parts)
    )
