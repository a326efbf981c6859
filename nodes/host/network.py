"""The network that is trained: diffusers' UNet with the weights that the host's MODEL really has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
import torch

from ...b4m_core import B4MError
from ...b4m_core.models.sdxl import is_adapted
from . import runtime
from .model_support import describe_model, level_depths, native_size, require_sdxl
from .stored import require_readable, stored_weights
from .weights import real_weights

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

version("diffusers")  # where it is missing the pack says so at the start, and not at the first training
_PREFIX = "diffusion_model."
_HEAD_WIDTH = 64  # the host's SDXL has 64-wide heads whatever else the configuration says


def training_dtype(model: Any, device: torch.device) -> torch.dtype:
    """float32 and bfloat16 models keep their dtype; float16 and fp8 become bfloat16, or float32 where bfloat16 is slow (CPU, old GPUs)."""
    own = model.model.get_dtype()
    if device.type == "cpu" or own == torch.float32 or not comfy.model_management.should_use_bf16(device):
        return torch.float32
    return torch.bfloat16


def network_config(unet_config: Mapping[str, Any], native: int) -> dict[str, Any]:
    """diffusers' configuration of the host's SDXL UNet (same layers, same names up to the host's own renaming table)."""
    channels = [unet_config["model_channels"] * factor for factor in unet_config["channel_mult"]]
    depths = level_depths(unet_config)
    return {
        "sample_size": native // 8,
        "in_channels": unet_config["in_channels"],
        "out_channels": unet_config["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "attention_head_dim": [max(width // _HEAD_WIDTH, 1) for width in channels],  # diffusers' name for the number of heads
        "cross_attention_dim": unet_config["context_dim"],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": unet_config["adm_in_channels"],
    }


def require_trainable(model: Any) -> None:
    """Raise B4MError, naming what stands in the way, unless MODEL is an SDXL whose every weight can be read. Takes no time."""
    require_sdxl(model)
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    found = {stored.key: stored for stored in stored_weights(model, _PREFIX)}
    for name, key in names.items():
        if _PREFIX + key in found:
            require_readable(found[_PREFIX + key])
        elif is_adapted(name.removesuffix(".weight")):  # the table names more than every SDXL has, but of these all
            network = type(model.get_model_object("diffusion_model")).__name__
            raise B4MError(
                f"The network of the model connected here ({describe_model(model)}) is a {network} without {key}, which B4M cannot read: "
                "connect the SDXL model as Load Checkpoint or Load Diffusion Model gives it."
            )


def network_bytes(model: Any, dtype: torch.dtype) -> int:
    """What the training network takes in `dtype`, however much less MODEL's own weights take."""
    return sum(math.prod(stored.shape) for stored in stored_weights(model, _PREFIX)) * dtype.itemsize


def training_network(
    model: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None, *, beside: int = 0
) -> UNet2DConditionModel:
    """A frozen diffusers UNet with the MODEL's weights, upstream LoRAs patched in; the MODEL itself is left as it is.

    Args:
        model: the host's MODEL (ModelPatcher), loaded in full, in part or not at all.
        dtype: default `training_dtype`. device: default the host's.
        beside: the bytes that must be free beside it; on a card that has less, the Linears of its transformer blocks are
            in main memory, and may be the MODEL's own.
    Raises:
        B4MError: the model is not SDXL, or its weights cannot be read.
    """
    require_trainable(model)
    target = runtime.device() if device is None else torch.device(device)
    kind = training_dtype(model, target) if dtype is None else dtype
    unet_config = model.model.model_config.unet_config
    with torch.inference_mode(False):
        with torch.device("meta"):
            from diffusers import UNet2DConditionModel  # half a second, and only who trains waits for it

            unet = UNet2DConditionModel(**network_config(unet_config, native_size(model))).requires_grad_(False)  # before it has weights
        names = comfy.utils.unet_to_diffusers(unet_config)
        needed = {name: _PREFIX + names[name] for name in unet.state_dict()}
        apart = _of_blocks(unet) if _is_too_large(unet, kind, target, beside) else set()
        weights: dict[str, torch.Tensor] = {}
        only = {needed[name] for name in apart}
        # no second copy in main memory, which may be small too
        weights |= real_weights(model, _PREFIX, "cpu", only=only, fresh=False, at=target, opened_as=kind)
        found = real_weights(model, _PREFIX, target, only=set(needed.values()) - only, opened_as=kind)
        weights |= {key: weight.to(kind) for key, weight in found}
        unet.load_state_dict({name: weights[key] for name, key in needed.items()}, assign=True)
        return unet.eval()


def _is_too_large(unet: UNet2DConditionModel, dtype: torch.dtype, device: torch.device, beside: int) -> bool:
    """Whether a card has no room for the network and ``beside`` bytes."""
    size = sum(weight.numel() for weight in unet.parameters()) * dtype.itemsize
    return device.type == "cuda" and bool(beside) and runtime.free_bytes() < size + beside


def _of_blocks(unet: UNet2DConditionModel) -> set[str]:
    """The weights of the Linears of the transformer blocks, by name: most of the network."""
    return {name for name, weight in unet.state_dict().items() if ".transformer_blocks." in name and weight.ndim == 2}
