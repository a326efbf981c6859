"""The Riemannian metric of each family's product, applied to gradients in place (Zhang and Pilanci, arXiv 2402.02347)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from b4m_core.riemannian import gram_inverse

Metric = Callable[[Mapping[str, Tensor], dict[str, Tensor]], None]
DAMPING = 1e-4


@torch.no_grad()
def of_halves(tensors: Mapping[str, Tensor], gradients: dict[str, Tensor]) -> None:
    """U = [A; B], V = [C, D]: frozen rows and columns count in the Grams."""
    up_gram = tensors["B"].mT @ tensors["B"] + tensors["A"].mT @ tensors["A"]
    down_gram = tensors["D"] @ tensors["D"].mT + tensors["C"] @ tensors["C"].mT
    gradients["B"].copy_(gradients["B"] @ gram_inverse(down_gram, DAMPING))
    gradients["D"].copy_(gram_inverse(up_gram, DAMPING) @ gradients["D"])


@torch.no_grad()
def of_two_pairs(tensors: Mapping[str, Tensor], gradients: dict[str, Tensor]) -> None:
    """U = [U_content, U_style], V = [V_content; V_style]: one product of rank 2r."""
    up = torch.cat([tensors["content_up"], tensors["style_up"]], -1)
    down = torch.cat([tensors["content_down"], tensors["style_down"]], -2)
    rank = tensors["content_up"].shape[-1]
    up_gradient = torch.cat([gradients["content_up"], gradients["style_up"]], -1) @ gram_inverse(down @ down.mT, DAMPING)
    down_gradient = gram_inverse(up.mT @ up, DAMPING) @ torch.cat([gradients["content_down"], gradients["style_down"]], -2)
    gradients["content_up"].copy_(up_gradient[..., :rank])
    gradients["style_up"].copy_(up_gradient[..., rank:])
    gradients["content_down"].copy_(down_gradient[..., :rank, :])
    gradients["style_down"].copy_(down_gradient[..., rank:, :])


@torch.no_grad()
def cosine_and_condition(metric: Metric, tensors: Mapping[str, Tensor], gradients: dict[str, Tensor]) -> tuple[float, float]:
    """The mean cosine between raw and preconditioned gradients, and the median condition of the learned ups' Gram (of eight layers)."""
    changed = {name: gradient.clone() for name, gradient in gradients.items()}
    metric(tensors, changed)
    cosines = [torch.cosine_similarity(gradients[name].flatten(2), changed[name].flatten(2), dim=-1).mean() for name in changed]
    ups = [tensors[name][:8, :4].cpu() for name in changed if name.endswith("up") or name == "B"]
    values = torch.linalg.svdvals(torch.cat(ups, -1).float())
    return float(torch.stack(cosines).mean()), float((values[..., 0] / values[..., -1].clamp(min=1e-12)).square().median())
