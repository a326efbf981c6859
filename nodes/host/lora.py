"""Patching a MODEL with an adapter as the host's LoraLoader does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.sd
from torch import Tensor

from ...b4m_core import B4MError
from .model_support import describe_model
from .stored import stored_weights


def apply_lora(model: Any, state_dict: Mapping[str, Tensor], strength: float = 1.0) -> Any:
    """A clone of MODEL with the LoRA patched in at `strength`, exactly as LoraLoader would from the saved file.

    Raises B4MError when a key finds no layer, or a layer of another size (the host would only log that and paint without it).
    """
    if strength == 0:
        return model
    missing = keys_not_loaded(model, state_dict)
    if missing:
        raise B4MError(
            f"{len(missing)} of {len(state_dict)} weights of the adapter do not fit the model connected here ({describe_model(model)}), "
            f"for example {missing[0]}; connect the model that the adapter was trained on, or a fine-tune of it."
        )
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(state_dict), strength, 0)
    return patched


def keys_not_loaded(model: Any, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Keys of a kohya LoRA that the host's loader would leave out or fail on, in the order of the file."""
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    shapes = {stored.key: stored.shape for stored in stored_weights(model)}
    return [key for key in state_dict if not _fits(key, state_dict, key_map, shapes)]


def _fits(key: str, state_dict: Mapping[str, Tensor], key_map: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    layer, _, part = key.partition(".")
    up, down = state_dict.get(f"{layer}.lora_up.weight"), state_dict.get(f"{layer}.lora_down.weight")
    if part not in ("lora_up.weight", "lora_down.weight", "alpha") or up is None or down is None or layer not in key_map:
        return False
    shape = shapes[key_map[layer]]
    return up.shape[0] == shape[0] and down[0].numel() == math.prod(shape[1:]) and up.shape[1] == down.shape[0]
