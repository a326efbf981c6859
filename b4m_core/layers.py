"""Which layers of a network get an update, and why the update of a convolution is that of a matrix.

The weight of a convolution (m, c, k, k) is a matrix (m, n), n = c k k: what one place of the picture reads under the
kernel, times that matrix, is what is written there. So a low-rank update is a down (r, n), which is a convolution (r, c,
k, k) of the same stride and padding, and an up (m, r), which is one of single places (m, r, 1, 1). Other tools call
that LoCon or LoRA-C3Lier. The split, the basis, the optimisers and the merge know matrices alone.
"""

from typing import Protocol

from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input, conv2d_weight

ATTENTION, CONVOLUTIONS = "attention", "attention_and_convolutions"
LAYERS = (ATTENTION, CONVOLUTIONS)
"""What a training may adapt: the projections of every attention, or these and the convolutions of every block."""
AdaptedLayer = nn.Linear | nn.Conv2d


def matrix_shape(layer: AdaptedLayer) -> tuple[int, int]:
    """(m, n) of a layer's weight."""
    return len(layer.weight), layer.weight[0].numel()


def as_kernels(up: Tensor, down: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """The factors up (m, r) and down (r, n) as a file has those of a convolution with a ``kernel`` of k x k: (m, r, 1, 1)
    and (r, c, k, k). As they are for a Linear, whose kernel is 0.
    """
    if not kernel:
        return up, down
    return up[..., None, None], down.reshape(*down.shape[:-1], -1, kernel, kernel)


class Reading(Protocol):
    """What a layer reads of its input x, with the places of the picture before the features: (R, ..., k)."""

    def low(self, x: Tensor, down: Tensor) -> Tensor:
        """What down (k, n) makes of x: (R, ..., k)."""

    def places(self, y: Tensor) -> Tensor:
        """An answer of the layer, or its gradient, with the features last: (R, ..., m)."""

    def answer(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`places`."""

    def gradient_of_down(self, back: Tensor, x: Tensor, span: slice) -> Tensor:
        """The gradient (r, w) of the columns ``span`` of down, by that of :meth:`low`, (R, ..., r)."""

    def gradient_of_x(self, back: Tensor, down: Tensor, x: Tensor) -> Tensor:
        """The gradient of x, by that of :meth:`low`, (R, ..., k)."""


class Tokens:
    """A Linear reads every token of x (R, ..., n) by itself."""

    def low(self, x: Tensor, down: Tensor) -> Tensor:  # noqa: D102
        return linear(x, down)

    def places(self, y: Tensor) -> Tensor:  # noqa: D102
        return y

    def answer(self, y: Tensor) -> Tensor:  # noqa: D102
        return y

    def gradient_of_down(self, back: Tensor, x: Tensor, span: slice) -> Tensor:  # noqa: D102
        return outer_product(back, x[..., span])

    def gradient_of_x(self, back: Tensor, down: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        return back @ down


class Patches:
    """A convolution reads what its kernel sees of x (R, c, h, w), for every place of its answer (R, m, h', w')."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.kernel, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding

    def kernels(self, down: Tensor) -> Tensor:
        """down (k, n) as a convolution (k, c, kh, kw)."""
        return down.reshape(*down.shape[:-1], -1, *self.kernel)

    def low(self, x: Tensor, down: Tensor) -> Tensor:  # noqa: D102
        return self.places(conv2d(x, self.kernels(down), None, self.stride, self.padding))

    def places(self, y: Tensor) -> Tensor:  # noqa: D102
        return y.movedim(1, -1)

    def answer(self, y: Tensor) -> Tensor:  # noqa: D102
        return y.movedim(-1, 1)

    def gradient_of_down(self, back: Tensor, x: Tensor, span: slice) -> Tensor:  # noqa: D102
        size = (back.shape[-1], x.shape[1], *self.kernel)
        found: Tensor = conv2d_weight(x, size, self.answer(back), self.stride, self.padding)  # type: ignore[no-untyped-call]
        return found.flatten(1)[:, span]

    def gradient_of_x(self, back: Tensor, down: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        return conv2d_input(x.shape, self.kernels(down), self.answer(back), self.stride, self.padding)  # type: ignore[no-any-return, no-untyped-call]


TOKENS = Tokens()


def reading_of(layer: AdaptedLayer) -> Reading:
    """How a layer reads."""
    return Patches(layer) if isinstance(layer, nn.Conv2d) else TOKENS


def outer_product(left: Tensor, right: Tensor) -> Tensor:
    """left' right summed over all leading dimensions: (..., p), (..., q) -> (p, q)."""
    return left.flatten(0, -2).T @ right.flatten(0, -2)
