"""A second family, for the tests: a tiny flow-matching transformer with joint attention, diffusers'
FluxTransformer2DModel.

Everything that B4M must know about it is in this folder: latents of four channels are packed two by two into tokens,
text and picture go through one attention, there is no size conditioning, timesteps are between 0 and 1, and the network
answers the velocity (Lipman et al., arXiv 2210.02747; Esser et al., arXiv 2403.03206).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from einops import rearrange
from torch import Tensor, nn

from b4m_core.bounds import Largest
from b4m_core.errors import B4MError

TEXT_WIDTH, TOKENS, POOLED, CHANNELS = 12, 5, 8, 4
_OWN = "to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|to_add_out|to_out"
_LAYER = re.compile(rf"(single_)?transformer_blocks\.(\d+)\.attn\.({_OWN}\.0|{_OWN})")
_KEY = re.compile(rf"lora_unet_(single_)?transformer_blocks_(\d+)_attn_({_OWN}_0|{_OWN})")


class RectifiedFlow:
    """x_t = (1 - t) x + t noise; the network answers noise - x."""

    prediction = "flow"

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.sigmoid(torch.randn(count, generator=generator))  # the logit-normal distribution

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        t = timesteps.view(-1, 1, 1, 1)
        return (1 - t) * latents + t * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents

    def describe(self) -> list[Any]:
        return ["rectified flow"]


class _Flow:
    name, title = "tiny_flow", "tiny flow"
    largest = Largest(layers=100, features=64, row=64)

    def is_adapted(self, path: str) -> bool:
        return _LAYER.fullmatch(path) is not None

    def kernel(self, path: str) -> int:
        return 0

    def lora_key(self, path: str) -> str:
        if not self.is_adapted(path):
            raise B4MError(f"Layer {path} is not one of a flow transformer.")
        return "lora_unet_" + path.replace(".", "_")

    def module_path(self, key: str) -> str:
        match = _KEY.fullmatch(key)
        if match is None:
            raise B4MError(f"Layer {key[:80]!r} is not one of a flow transformer.")
        single, block, layer = match.groups()
        return f"{single or ''}transformer_blocks.{block}.attn.{layer.replace('_0', '.0')}"

    def header(self, kind: str, shapes: Any) -> dict[str, str]:
        return {"modelspec.architecture": f"tiny-flow/{kind}"}

    def encode_prompt(self, base: Any, prompt: str) -> dict[str, Tensor]:
        return base.encode_text(prompt)  # type: ignore[no-any-return]

    def size_conditioning(self, crop: Any) -> dict[str, Tensor]:
        return {}

    def predict(self, network: nn.Module, given: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        noisy = given["noisy"].to(dtype)
        height, width = (side // 2 for side in noisy.shape[-2:])
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([torch.zeros(height, width), rows, columns], dim=-1).flatten(0, 1)
        output: Any = network(
            hidden_states=rearrange(noisy, "r c (h p) (w q) -> r (h w) (c p q)", p=2, q=2),
            encoder_hidden_states=given["text"].to(dtype),
            pooled_projections=given["meaning"].to(dtype),
            timestep=given["timesteps"].to(dtype),
            img_ids=places,
            txt_ids=torch.zeros(given["text"].shape[1], 3),
        )
        answer = rearrange(output.sample, "r (h w) (c p q) -> r c (h p) (w q)", h=height, w=width, p=2, q=2)
        return answer if dtype == torch.float64 else answer.float()

    def fused_step(self, network: nn.Module) -> None:
        return None


FLOW = _Flow()


def network(dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """Frozen, random, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FluxTransformer2DModel(
            patch_size=1, in_channels=4 * CHANNELS, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=POOLED, guidance_embeds=False, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
    return made.to(dtype).eval().requires_grad_(False)


class FlowBase:
    """A base model of the family, with encoders that are hashes."""

    family, schedule, device, name = FLOW, RectifiedFlow(), torch.device("cpu"), "tiny flow"
    fingerprint, network_fingerprint = "e" * 64, "n1-" + "e" * 64

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.unet, self.dtype = network(dtype), dtype

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        mix = torch.randn(CHANNELS, 3, generator=torch.Generator().manual_seed(5))
        return torch.einsum("ck,nkhw->nchw", mix, nn.functional.avg_pool2d(pixels, 8) * 2 - 1)

    def encode_text(self, prompt: str) -> dict[str, Tensor]:
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big")
        generator = torch.Generator().manual_seed(seed)
        return {
            "text": torch.randn(TOKENS, TEXT_WIDTH, generator=generator),
            "meaning": torch.randn(POOLED, generator=generator),
        }

    def sample(self, prompt: str, *, width: int, height: int, seed: int) -> Tensor:
        return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(len(prompt) + seed))
