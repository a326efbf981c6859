"""SDXL's network at its real size with random weights, and what goes through it: speed does not depend on the numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from b4m_core import Adapter, Facts
from b4m_core.layers import ATTENTION

SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TINY = SDXL | {
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 1, 1),
    "cross_attention_dim": 32,
    "projection_class_embeddings_input_dim": 1536 + 16,
}
"""The same topology for trying the benchmark itself."""
EMBEDDED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "mini" / "unet" / "config.json").read_text(encoding="utf-8"))
"""The model that comes with the pack: what a processor trains."""
TERAFLOPS = {512: 13.07, 1024: 59.46}
"""The useful arithmetic of a step of one own and three auxiliary pictures at real size."""


def random_network(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """The network, frozen."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**config)
    unet.to(dtype)
    return unet.eval().requires_grad_(False)


def as_others_have_it(unet: torch.nn.Module) -> None:
    """The weights in torch's own layout again, whatever ours made of them."""
    for module in unet.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.weight.data = module.weight.data.contiguous()


def new_adapter(unet: UNet2DConditionModel, rank: int, split: str = "halves", layers: str = ATTENTION) -> Adapter:
    """A fresh adapter with random learned parts; in the free split content's alone, as a first training has it."""
    adapter = Adapter.for_unet(unet, Facts(role="content", rank=rank, base="n1-" + "0" * 64, split=split, layers=layers))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in adapter.layers.values():
            for part in ("A", "D") if split == "free" else ("B", "D"):
                getattr(layer, part).normal_(std=0.02, generator=generator)
    return adapter


def inputs_of(unet: UNet2DConditionModel, size: int, rows: int, device: torch.device | str = "cpu", seed: int = 0) -> dict[str, Tensor]:
    """The inputs of one micro-step of ``rows`` pictures of ``size`` pixels (micro_step.py)."""
    generator, side, config = torch.Generator().manual_seed(seed), size // 8, unet.config
    shapes = {
        "noisy": (rows, 4, side, side),
        "target": (rows, 4, side, side),
        "context": (rows, 77, config["cross_attention_dim"]),
        "pooled": (rows, config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]),
    }
    drawn = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    fixed = {
        "mask": torch.ones(rows, 1, side, side),
        "timesteps": torch.full((rows,), 500),
        "size_ids": torch.tensor([[float(size), size, 0, 0, size, size]] * rows),
    }
    return {name: value.to(device) for name, value in (drawn | fixed).items()}
