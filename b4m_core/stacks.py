"""All layers of one shape as one tensor, so that an optimiser takes four steps instead of 560.

A layer's halves and their gradients become views into the stack: the network trains the layers, the optimiser steps the stacks, and nothing
is copied between the two.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .projection import PartlyLearnableProjection


class Stack:
    """L layers of one shape: ``up`` (L, m - m//2, r) and ``down`` (L, r, n - n//2) learned, ``frozen`` = A (L, m//2, r), C (L, r, n//2)."""

    def __init__(self, layers: Sequence[PartlyLearnableProjection], device: torch.device | str) -> None:
        def gather(half: Callable[[PartlyLearnableProjection], Tensor]) -> Tensor:
            return torch.stack([half(layer).detach() for layer in layers]).to(device)

        self.up, self.down = nn.Parameter(gather(lambda layer: layer.B)), nn.Parameter(gather(lambda layer: layer.D))
        self.frozen = gather(lambda layer: layer.A), gather(lambda layer: layer.C)
        self.up.grad, self.down.grad = torch.zeros_like(self.up), torch.zeros_like(self.down)
        for index, layer in enumerate(layers):
            layer.A, layer.C = self.frozen[0][index], self.frozen[1][index]
            for parameter, stack in ((layer.B, self.up), (layer.D, self.down)):
                parameter.data = stack.data[index]
                parameter.grad = stack.grad[index]  # type: ignore[index]


def stack_layers(adapter: Adapter, device: torch.device | str) -> list[Stack]:
    """Move the layers of ``adapter`` to ``device``, into one stack for each shape."""
    by_shape: dict[tuple[int, int], list[PartlyLearnableProjection]] = defaultdict(list)
    for projection in adapter.layers.values():
        by_shape[projection.shape].append(projection)
    return [Stack(layers, device) for _, layers in sorted(by_shape.items())]
