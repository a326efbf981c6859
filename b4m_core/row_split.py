"""One batch, two owners: some rows move content's parts and others style's, in a single forward and a single backward
pass.

The value of the update is the same for every row; only its gradient is not. A row that may not move a part sees that
part as a constant, so dropping the row from that part's weight gradient gives exactly what two separate backward passes
would. The gradient that flows on through the activations is whole for every row. This replaces the published code's
four UNet passes and two backward passes a step.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from .layers import Reading, outer_product
from .splits import PARTS, Layout


class Rows(NamedTuple):
    """The rows of a batch that move style's parts (``up``, where the published split has them) and content's
    (``down``).
    """

    up: slice
    down: slice

    def of(self, concept: str) -> slice:
        """Those that move ``concept``."""
        return self.up if concept == "style" else self.down


ALL_ROWS = Rows(slice(None), slice(None))


class LowRankBranch(torch.autograd.Function):
    """y = (x down') up', with the gradient of each part of the factors from its own rows.

    x and y as the layer has them (``reading``, layers.py), in any float dtype; ``parts`` are A, B, C and D, laid out as
    ``layout`` says (splits.py). The products run in x's dtype, the gradients come back in the dtypes of the parts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout, rows: Rows, reading: Reading, *parts: Tensor) -> Tensor:  # noqa: D102
        up, down = layout.factors(
            {part: value.to(x.dtype) for part, value in zip(PARTS, parts, strict=True)}
        )  # (m, k), (k, n)
        low = reading.low(x, down)  # (R, ..., k)
        ctx.save_for_backward(x, low, up, down)
        ctx.layout, ctx.rows, ctx.reading = layout, rows, reading
        return reading.answer(linear(low, up))  # (R, ..., m) as the layer answers

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, low, up, down = ctx.saved_tensors
        reading: Reading = ctx.reading
        gradient = reading.places(gradients[0])
        back = gradient @ up  # (R, ..., m) @ (m, k) -> (R, ..., k)
        found: dict[str, Tensor] = {}
        for place in ctx.layout.places:
            if ctx.needs_input_grad[4 + PARTS.index(place.part)]:
                which, span = ctx.rows.of(place.concept), slice(place.offset, place.offset + place.reach)
                if place.up:  # (R', ..., h) and (R', ..., r) -> (h, r)
                    found[place.part] = outer_product(gradient[which][..., span], ctx.layout.inner(place, low[which]))
                else:  # (R', ..., r) and what was read -> (r, w)
                    found[place.part] = reading.gradient_of_down(ctx.layout.inner(place, back[which]), x[which], span)
        into = reading.gradient_of_x(back, down, x) if ctx.needs_input_grad[0] else None
        return into, None, None, None, *(found.get(part) for part in PARTS)
