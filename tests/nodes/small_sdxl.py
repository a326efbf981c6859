"""A random SDXL of the smallest size on the host's own classes, and LoRA files for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

POOLED, TEXT_WIDTH = 32, 48


def small_config(**changes: Any) -> dict[str, Any]:
    """The host's configuration of an SDXL with 64 channels."""
    config: dict[str, Any] = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "channel_mult": [1, 2, 2], "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2, "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "context_dim": TEXT_WIDTH, "adm_in_channels": POOLED + 6 * 256, "num_classes": "sequential", "use_spatial_transformer": True,
        "use_linear_in_transformer": True, "legacy": False, "use_checkpoint": False, "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }  # fmt: skip
    return {**config, **changes}


def small_model(dtype: torch.dtype = torch.float32, state_dict: dict[str, Tensor] | None = None, kind: Any = None, **changes: Any) -> Any:
    """A MODEL with random weights; `state_dict` keys such as "v_pred" choose the prediction as in a checkpoint."""
    config = (kind or comfy.supported_models.SDXL)(small_config(**changes))
    config.set_inference_dtype(dtype, None)
    model = config.get_model(state_dict or {}, "", torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for weight in model.diffusion_model.parameters():
        weight.requires_grad_(False)
        spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    return comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def random_lora(model: Any, rank: int = 4, seed: int = 2, strength: float = 0.3) -> dict[str, Tensor]:
    """A kohya LoRA, with the names of the original SDXL network, on every attention projection of MODEL."""
    generator = torch.Generator().manual_seed(seed)
    lora: dict[str, Tensor] = {}
    for name, module in model.model.diffusion_model.named_modules():
        if "attn" in name and "in_features" in vars(module):
            layer = "lora_unet_" + name.replace(".", "_")
            lora[f"{layer}.lora_up.weight"] = torch.randn(module.out_features, rank, generator=generator) * strength / rank**0.5
            lora[f"{layer}.lora_down.weight"] = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
            lora[f"{layer}.alpha"] = torch.tensor(float(rank))
    return lora


def inputs(seed: int = 3, size: int = 8, text_width: int = TEXT_WIDTH, pooled: int = POOLED) -> dict[str, Tensor]:
    """Two rows of everything the UNet takes: latents, timesteps, text, pooled text, and the six numbers of the size conditioning."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(2, 4, size, size, generator=generator),
        "timesteps": torch.tensor([17, 801]),
        "text": torch.randn(2, 77, text_width, generator=generator),
        "pooled": torch.randn(2, pooled, generator=generator),
        "sizes": torch.tensor([[96.0, 64.0, 0.0, 8.0, 64.0, 64.0], [512.0, 768.0, 16.0, 0.0, 128.0, 96.0]]),
    }


def host_output(model: Any, rows: dict[str, Tensor], once_loaded: Callable[[], None] = lambda: None) -> Tensor:
    """The host's own network, loaded by its memory manager with all patches, called with the same numbers as the sampler would."""
    import comfy.model_management

    with torch.inference_mode():  # as the host runs its nodes
        comfy.model_management.load_models_gpu([model], force_full_load=True)
    once_loaded()
    outputs = []
    for row in range(2):
        height, width, top, left, target_height, target_width = rows["sizes"][row].tolist()
        adm = model.model.encode_adm(
            pooled_output=rows["pooled"][row : row + 1], width=width, height=height, crop_w=left, crop_h=top,
            target_width=target_width, target_height=target_height, device=torch.device("cpu"),
        )  # fmt: skip
        one = slice(row, row + 1)
        with torch.inference_mode():
            outputs.append(model.model.diffusion_model(rows["latents"][one], rows["timesteps"][one], context=rows["text"][one], y=adm))
    return torch.cat([output.clone() for output in outputs])


def network_output(unet: Any, rows: dict[str, Tensor]) -> Tensor:
    """The training network with the same numbers."""
    added = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
    with torch.no_grad():
        return unet(rows["latents"], rows["timesteps"], encoder_hidden_states=rows["text"], added_cond_kwargs=added).sample


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of the second."""
    return float((a - b).norm() / b.norm())
