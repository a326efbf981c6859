"""The projections of one group as one function: y_i = x W_i' + (x down_i') up_i', forward and backward written out.

The base weights get no gradient. Some rows of the batch move content and others style (row_split.py has the reason);
the gradient that flows on through x is whole for every row. Gradients of the parts are written into the family's
buffers, not returned, and computed aside: the chain of the backward pass does not wait for them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..row_split import Rows
from .attention import lie_side_by_side
from .fused_projection import FusedProjection
from .side_stream import SideStream


class GroupProducts(torch.autograd.Function):
    """x (R, T, n) to G tensors (R, T, m). ``anchor`` is any leaf that requires grad: it makes the backward pass come
    by.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, family: FusedProjection, group: int, rows: Rows, aside: SideStream
    ) -> tuple[Tensor, ...]:  # noqa: D102
        layout, members, m, k = family.layout, family.members, family.m, family.layout.width
        wide = family.wide[group]  # (G m + G k, n)
        flat = x.reshape(-1, x.shape[-1])  # (R, T, n) -> (R T, n)
        y = linear(flat, wide, None if family.bias is None else family.bias[group])  # (R T, G m + G k)
        base, low = y[:, : members * m], y[:, members * m :]  # (R T, G m), (R T, G k)
        if members == 1:
            base.addmm_(low, family.up[group, 0].T)  # (R T, k) @ (k, m)
        else:
            by_member = base.view(-1, members, m).transpose(0, 1)  # (G, R T, m), plus (G, R T, k) @ (G, k, m)
            by_member.baddbmm_(low.view(-1, members, k).transpose(0, 1), family.up[group].mT)
        seen = []  # (tokens of the rows that move it, G, r times its blocks) for every part of up that moves
        for place in family.found:
            if place.up:
                seen.append(layout.seen(place, _of_rows(low, rows.of(place.concept), len(x)).view(-1, members, k)))
        if not family.kept:  # then copies, so that the rest of y may be freed
            copies = [torch.empty_like(mine, memory_format=torch.contiguous_format) for mine in seen]
            with aside.rows_beside(low, *copies):
                for mine, copy in zip(seen, copies, strict=True):
                    copy.copy_(mine)
            seen = copies
        ctx.save_for_backward(x, *seen)
        ctx.family, ctx.group, ctx.rows, ctx.aside = family, group, rows, aside
        return _by_member(base, x, members)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, *seen = ctx.saved_tensors
        family, group, aside = ctx.family, ctx.group, ctx.aside
        members, m, k = family.members, family.m, family.layout.width
        into_x = None
        if members == 1:
            through = gradients[0].reshape(-1, m)  # (R T, m)
            inner = through.new_empty(len(through), k)  # (R T, k) = through @ up
            with aside.rows_beside(x, *seen, through, inner):
                torch.mm(through, family.up[group, 0], out=inner)
                done = aside.mark()
                _learn(family, group, ctx.rows, x, seen, through, inner)
            if ctx.needs_input_grad[0]:
                into_x = through @ family.wide[group, :m]  # (R T, m) @ (m, n), plus (R T, k) @ (k, n)
                aside.wait(done)
                into_x.addmm_(inner, family.low[group, 0])
        else:
            both = _side_by_side(gradients, members * (m + k), family.kernels)  # (R T, G m + G k)
            through, inner = both[:, : members * m], both[:, members * m :]  # (R T, G m), (R T, G k)
            torch.bmm(
                through.view(-1, members, m).transpose(0, 1),
                family.up[group],
                out=inner.view(-1, members, k).transpose(0, 1),
            )
            with aside.rows_beside(x, *seen, both):
                _learn(family, group, ctx.rows, x, seen, through, inner)
            if ctx.needs_input_grad[0]:
                into_x = both @ family.wide[group]  # (R T, G m + G k) @ (G m + G k, n)
        return None if into_x is None else into_x.view(x.shape), None, None, None, None, None


def _side_by_side(gradients: Sequence[Tensor], width: int, kernels: Any) -> Tensor:
    """G tensors (R, T, m) as the first columns of one (R T, width), the others left as they are; the one that they are
    in, if so.
    """
    first = gradients[0]
    count, m = first.shape[0] * first.shape[1], first.shape[2]
    if first.stride(1) == width and first.stride(0) == first.shape[1] * width and lie_side_by_side(gradients):
        return first.as_strided((count, width), (width, 1))
    both = first.new_empty(count, width)
    through = both[:, : len(gradients) * m]  # (R T, G m)
    if kernels is None or len(gradients) != 3:
        torch.cat(
            [gradient.reshape(-1, 1, m) for gradient in gradients], dim=1, out=through.view(-1, len(gradients), m)
        )
    else:
        kernels.side_by_side(gradients, through)
    return both


def without_update(x: Tensor, family: FusedProjection, group: int) -> tuple[Tensor, ...]:
    """The group's answer as the base model gives it."""
    count = family.members * family.m
    bias = None if family.bias is None else family.bias[group, :count]
    return _by_member(linear(x.reshape(-1, x.shape[-1]), family.wide[group, :count], bias), x, family.members)


def _by_member(y: Tensor, x: Tensor, members: int) -> tuple[Tensor, ...]:
    """(R T, G m), in rows of any stride, as G tensors (R, T, m)."""
    outputs = y.view(*x.shape[:-1], members, -1)  # (R, T, G, m)
    return tuple(outputs[..., member, :] for member in range(members))


def _of_rows(flat: Tensor, which: slice, rows: int) -> Tensor:
    """Those rows of ``flat`` (rows T, width), flat again."""
    first, last, _ = which.indices(rows)
    tokens = len(flat) // rows
    return flat[first * tokens : last * tokens]


def _learn(
    family: FusedProjection, group: int, rows: Rows, x: Tensor, seen: Sequence[Tensor], through: Tensor, inner: Tensor
) -> None:
    """The gradients of the parts of one group that move, each from its own rows."""
    rest, members, rank = list(seen), family.members, family.layout.rank
    for place, found in family.found.items():
        which, height = rows.of(place.concept), found.shape[-2]
        if place.up:
            left = _of_rows(through, which, len(x)).view(-1, members, family.m)[
                ..., place.offset : place.offset + height
            ]
            right = rest.pop(0)  # left (R' T, G, h), right (R' T, G, r times its blocks)
        else:
            left = _of_rows(inner, which, len(x)).view(-1, members, family.layout.width)[
                ..., place.ranks[0] : place.ranks[0] + rank
            ]
            read = x[which].reshape(-1, family.n)[:, place.offset : place.offset + found.shape[-1]]
            right = read[:, None].expand(-1, members, -1)  # left (R' T, G, r), right (R' T, G, w)
        if len(left):
            torch.bmm(left.permute(1, 2, 0), right.transpose(0, 1), out=found[group])  # summed over R' T
