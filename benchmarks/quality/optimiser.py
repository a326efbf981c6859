"""AdamW for many adapters at once, each with its own rate."""

from collections.abc import Iterable

import torch
from torch import Tensor

BETAS, EPS, WEIGHT_DECAY, CLIP = (0.9, 0.999), 1e-8, 1e-2, 1.0


class ManyAdamW:
    """``tensors`` are (L, G, ...), with gradients in ``.grad``; ``rates[i]`` (G,) is the rate of tensor i in every adapter."""

    def __init__(self, tensors: list[Tensor], rates: list[Tensor]) -> None:
        self.tensors = tensors
        self.rates = [rate.view(1, -1, *[1] * (tensor.ndim - 2)) for tensor, rate in zip(tensors, rates, strict=True)]
        self.moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in tensors]
        self.count = 0

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """One step at ``share`` of the rates."""
        self.count += 1
        (beta1, beta2), count = BETAS, self.count
        for tensor, rate, (first, second) in zip(self.tensors, self.rates, self.moments, strict=True):
            gradient = tensor.grad
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            denominator = (second / (1 - beta2**count)).sqrt_().add_(EPS)
            tensor.mul_(1 - share * WEIGHT_DECAY * rate)
            tensor.sub_(first / denominator * (share / (1 - beta1**count) * rate))


@torch.no_grad()
def clip_each(gradients: Iterable[Tensor]) -> None:
    """Bound the norm over all of ``gradients`` (L, G, ...), one adapter at a time."""
    gradients = list(gradients)
    norm = torch.stack([each.square().sum([axis for axis in range(each.ndim) if axis != 1]) for each in gradients]).sum(0).sqrt()
    factor = (CLIP / (norm + 1e-6)).clamp(max=1.0)
    for each in gradients:
        each.mul_(factor.view(1, -1, *[1] * (each.ndim - 2)))
