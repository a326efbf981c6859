"""Which weights a run was trained on: a fingerprint of all for the run key, one of the network for its adapter, a name for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import comfy.utils

from ...b4m_core.fingerprint import network_fingerprint as fingerprint_of
from ...b4m_core.fingerprint import sampled_layers
from ...b4m_core.models.sdxl import is_adapted
from .model_support import noise_schedule
from .stored import stored_weights
from .weights import real_weights, weights_digest


def fingerprint(model: Any, clip: Any, vae: Any) -> str:
    """sha256 (hex) over the weights really used of UNet, text encoders and VAE, the noise schedule and the clip-skip setting.

    Seconds for SDXL the first time, instant for the same unchanged objects after that.
    """
    schedule = noise_schedule(model)
    whole = hashlib.sha256()
    for part in (weights_digest(model), weights_digest(clip.patcher), weights_digest(vae.patcher)):
        whole.update(part.encode())
    whole.update(schedule.alphas_cumprod.numpy().tobytes())
    whole.update(f"{schedule.prediction} {clip.layer_idx}".encode())
    return whole.hexdigest()


def network_fingerprint(model: Any) -> str:
    """b4m_core's fingerprint of the network, upstream LoRAs patched in: what the same model in diffusers' layout has. Under a second."""
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    layers = {name.removesuffix(".weight"): f"diffusion_model.{key}" for name, key in names.items() if name.endswith(".weight")}
    layers = {name: key for name, key in layers.items() if is_adapted(name)}
    shapes = {stored.key: stored.shape for stored in stored_weights(model)}
    keys = {layers[name]: name for name in sampled_layers(layers)}
    weights = {keys[key]: weight for key, weight in real_weights(model, device="cpu", only=keys, fresh=False)}
    return fingerprint_of({name: shapes[key] for name, key in layers.items()}, weights)


def checkpoint_name(prompt: Mapping[str, Any] | None, node_id: str | None, link: str = "model") -> str | None:
    """File name of the checkpoint that feeds a node's `model` input, found by walking up the hidden PROMPT; None when unknown."""
    seen: set[str] = set()
    node = (prompt or {}).get(str(node_id))
    while node is not None:
        inputs = node.get("inputs", {})
        for widget in ("ckpt_name", "unet_name"):
            if isinstance(inputs.get(widget), str):
                return inputs[widget]
        source = inputs.get(link)
        if not isinstance(source, (list, tuple)) or str(source[0]) in seen:
            return None
        seen.add(str(source[0]))
        node = (prompt or {}).get(str(source[0]))
    return None
