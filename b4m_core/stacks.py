"""All layers of one shape as one tensor, so that an optimiser takes four steps instead of 560.

A layer's parts and their gradients become views into the stack: the network trains the layers, the optimiser steps the
stacks, and nothing is copied between the two.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .projection import PartlyLearnableProjection
from .splits import PARTS


class Stack:
    """L layers of one shape and ``split``. ``parts`` are their A, B, C and D: parameters with a gradient where they are
    learned, else plain tensors.

    (L, m//2, r), (L, m - m//2, r), (L, r, n//2) and (L, r, n - n//2) of a split that is cut, else (L, m, r) and (L, r,
    n).
    """

    def __init__(self, layers: Sequence[PartlyLearnableProjection], device: torch.device | str) -> None:
        self.layers, self.split = list(layers), layers[0].split
        self.parts: dict[str, Tensor] = {}
        for part in PARTS:
            stacked = torch.stack([getattr(layer, part).detach() for layer in layers]).to(device)
            if part in self.split.learned:
                self._learn(part, stacked, torch.zeros_like(stacked))
            else:
                self.parts[part] = stacked
                for layer, value in zip(layers, stacked, strict=True):
                    setattr(layer, part, value)

    def _learn(self, part: str, value: Tensor, gradient: Tensor) -> None:
        """Let the stack and its layers hold ``part`` in ``value`` and its gradient in ``gradient``, both (L, ...)."""
        self.parts[part] = nn.Parameter(value)
        self.parts[part].grad = gradient
        for index, layer in enumerate(self.layers):
            parameter = getattr(layer, part)
            parameter.data, parameter.grad = value[index], gradient[index]

    @property
    def up(self) -> Tensor:
        """B of all layers."""
        return self.parts["B"]

    @property
    def down(self) -> Tensor:
        """D of all layers."""
        return self.parts["D"]

    @property
    def frozen(self) -> tuple[Tensor, Tensor]:
        """A and C of all layers; frozen in the published split and in full reach."""
        return self.parts["A"], self.parts["C"]

    def freeze(self, part: str) -> None:
        """Nobody teaches ``part``: no gradient is taken of it, so not even weight decay may touch it."""
        self.parts[part].grad = None
        for layer in self.layers:
            getattr(layer, part).requires_grad_(False)

    def products(self) -> list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]]:
        """The low-rank products of these layers for a preconditioned optimiser: (up, down), and what is frozen beside
        them.

        A split that is cut is one product, [A; B] [C, D], frozen in part. One that freezes nothing is one product, [A,
        B] [D; C], learned whole: the parts become views into it. Otherwise every block is a product by itself: with a
        frozen factor in each, the metric of the whole is block diagonal on what is learned. In full reach D is
        preconditioned by (A'A)^-1 alone and B by (CC')^-1. Both are constant and, on the orthogonal basis, nearly a
        multiple of the identity, which Adam's normalisation takes out again: with full reach the training together is
        close to plain AdamW.
        """
        if self.split.cut:
            return [((self.up, self.down), self.frozen)]
        if not self.split.frozen:
            return [(self._whole(), None)]
        return [((self.parts[up], self.parts[down]), None) for up, down in self.split.blocks["zero_start"]]

    def _whole(self) -> tuple[Tensor, Tensor]:
        """[A, B] (L, m, 2r) and [D; C] (L, 2r, n) as parameters whose values and gradients the parts share from now on.

        [A, B] lies transposed in memory, so that A and B are dense in every layer.
        """
        a, b, c, d = (self.parts[part].detach() for part in PARTS)
        up, down = nn.Parameter(torch.cat([a.mT, b.mT], -2).mT), nn.Parameter(torch.cat([d, c], -2))
        for whole, names, axis in ((up, ("A", "B"), -1), (down, ("D", "C"), -2)):
            whole.grad = torch.zeros_like(whole)
            for part, value, gradient in zip(names, whole.data.chunk(2, axis), whole.grad.chunk(2, axis), strict=True):
                self._learn(part, value, gradient)
        return up, down


def stack_layers(layers: Mapping[str, PartlyLearnableProjection], device: torch.device | str) -> list[Stack]:
    """Move ``layers`` to ``device``, into one stack for each shape."""
    by_shape: dict[tuple[int, int], list[PartlyLearnableProjection]] = defaultdict(list)
    for projection in layers.values():
        by_shape[projection.shape].append(projection)
    return [Stack(some, device) for _, some in sorted(by_shape.items())]
