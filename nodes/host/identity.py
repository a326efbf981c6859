"""Which weights a run was trained on: a fingerprint for the run key, and a name for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from .family import noise_schedule
from .weights import weights_digest


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
