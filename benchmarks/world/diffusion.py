"""SDXL's noise schedule and an Euler sampler with guidance, for labels by the hundred."""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

STEPS = 1000
HOST_SIZES = (768, 1024, 512, 256)  # sizes that other programs may name instead of the true one


def alphas_cumprod(device: torch.device) -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float().to(device)


def add_noise(latents: Tensor, noise: Tensor, times: Tensor, alphas: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x + sqrt(1 - a_t) n (Ho 2020, eq. 4)."""
    alpha = alphas[times].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def size_ids(size: int, device: torch.device) -> Tensor:
    """SDXL's six numbers, (1, 6): original size, crop, target size."""
    return torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32, device=device)


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    positive: tuple[Tensor, Tensor],
    negative: tuple[Tensor, Tensor],
    *,
    steps: int,
    guidance: float,
    named_size: int,
    seed: int,
) -> Tensor:
    """Latents float32 (N, 4, h, h) by Euler steps on t = 999 ... 0, linear, like the host's "normal"; texts are (context, pooled)."""
    n, device, dtype, side = len(positive[0]), unet.device, unet.dtype, unet.config.sample_size
    alphas = alphas_cumprod(device)
    times = torch.linspace(STEPS - 1, 0, steps, device=device).round().long()
    sigmas = torch.cat([((1 - alphas[times]) / alphas[times]).sqrt(), alphas.new_zeros(1)])
    x = torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device) * sigmas[0]
    context, pooled = (torch.cat([p, q.expand(n, *q.shape[1:])]).to(dtype) for p, q in zip(positive, negative, strict=True))
    conditions = {"text_embeds": pooled, "time_ids": size_ids(named_size, device).repeat(2 * n, 1)}
    for k, time in enumerate(times):
        scaled = (x / (sigmas[k] ** 2 + 1).sqrt()).to(dtype).repeat(2, 1, 1, 1)
        with_text, without = unet(scaled, time, encoder_hidden_states=context, added_cond_kwargs=conditions).sample.float().chunk(2)
        x = x + (sigmas[k + 1] - sigmas[k]) * (without + guidance * (with_text - without))
    return x
