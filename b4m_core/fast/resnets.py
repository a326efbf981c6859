"""A residual block's convolutions, and what is done once for all blocks: the shifts by the time embedding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .fused_adapter import FusedAdapter
from .norms import Residual, shifted_norm


class Resnets:
    """The residual blocks of a network, with their time embedding layers in one weight; those of the modules become
    views into it.
    """

    def __init__(self, blocks: Sequence[Any], groups: FusedAdapter, kernels: Any) -> None:
        self.groups, self.kernels = groups, kernels
        layers: list[nn.Linear] = [block.time_emb_proj for block in blocks]
        with torch.no_grad():
            self.weight = torch.cat([layer.weight for layer in layers])  # (sum of C, e)
            self.bias = torch.cat([block.time_emb_proj.bias + block.conv1.bias for block in blocks])
            self.last_bias = {id(block): _last_bias(block) for block in blocks}
        self.sizes = [layer.out_features for layer in layers]
        for layer, weight in zip(layers, torch.split(self.weight, self.sizes), strict=True):
            layer.weight.data = weight
        self.order = [id(block) for block in blocks]

    def shifts(self, emb: Tensor) -> dict[int, Tensor]:
        """What each block adds between its convolutions, (R, C) by the block's id, for ``emb`` (R, e)."""
        parts = torch.split(linear(emb, self.weight, self.bias), self.sizes, dim=-1)  # (R, sum of C) -> (R, C) each
        return {block: part.contiguous() for block, part in zip(self.order, parts, strict=True)}

    def __call__(self, x: Tensor, shift: Tensor, block: Any) -> Tensor:
        """The block's answer for x (R, C, h, w)."""
        convolve = self.groups.convolve
        x, y = shifted_norm(x, None, block.norm1, self.kernels)
        y = convolve(y, block.conv1, biased=False)  # (R, C, h, w) -> (R, C', h, w)
        _, y = shifted_norm(y, shift, block.norm2, self.kernels)
        if self.kernels is None:
            return convolve(y, block.conv2) + (x if block.conv_shortcut is None else convolve(x, block.conv_shortcut))
        y = convolve(y, block.conv2, biased=False)
        return Residual.apply(self._shortcut(x, block.conv_shortcut), y, self.last_bias[id(block)], self.kernels)  # type: ignore[no-any-return]

    def _shortcut(self, x: Tensor, conv: nn.Conv2d | None) -> Tensor:
        """x by its shortcut, without a bias: on channels that lie together a 1 x 1 convolution is a matrix product."""
        if conv is None:
            return x
        if self.groups.is_adapted(conv):
            return self.groups.convolve(x, conv, biased=False).contiguous(memory_format=torch.channels_last)
        weight = conv.weight.flatten(1)  # (C', C, 1, 1) -> (C', C)
        return linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)  # (R, h, w, C) -> (R, C', h, w)


def _last_bias(block: Any) -> Tensor:
    """The biases of the last convolution and of the shortcut, together."""
    return block.conv2.bias + (0 if block.conv_shortcut is None else block.conv_shortcut.bias)  # type: ignore[no-any-return]
