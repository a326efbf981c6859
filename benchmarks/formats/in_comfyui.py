"""What the pack's nodes and ComfyUI's own LoraLoader add to the embedded model's weights. A host must be importable."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import comfy.utils
import torch

from .loaders import FULL, Added


class Host:
    """MODEL and CLIP of the embedded model, and the names of their weights here."""

    def __init__(self) -> None:
        self.host = importlib.import_module("b4m_pack.nodes.host")
        self.core = importlib.import_module("b4m_pack.b4m_core")
        self.model, self.clip, _ = self.host.mini_model()
        layer_key = importlib.import_module("b4m_pack.b4m_core.models.sdxl.modules").layer_key
        names = comfy.lora.model_lora_keys_clip(self.clip.cond_stage_model, comfy.lora.model_lora_keys_unet(self.model.model, {}))
        self.names = {key: layer_key(name) for name, key in names.items() if name.startswith(("lora_unet_", "lora_te1_", "lora_te2_"))}

    def by_node(self, file: Path, use_as: str) -> Added:
        """By B4M Load LoRA and B4M Apply LoRA."""
        adapter = self.core.load_adapter(file, use_as)
        return self._added(*self.host.apply_adapter(self.model, self.clip, adapter, FULL))

    def by_lora_loader(self, file: Path) -> Added:
        """By ComfyUI's LoraLoader at full strength."""
        state = comfy.utils.load_torch_file(str(file), safe_load=True)
        return self._added(*self._quietly(lambda: comfy.sd.load_lora_for_models(self.model, self.clip, state, 1.0, 1.0)))

    def _quietly(self, do: Callable[[], Any]) -> Any:
        logging.disable(logging.CRITICAL)
        try:
            return do()
        finally:
            logging.disable(logging.WARNING)

    def _added(self, model: Any, clip: Any) -> Added:
        added: Added = {}
        for patcher in (model, clip.patcher):
            weights = patcher.model.state_dict()
            for key, patches in patcher.patches.items():
                weight = weights[key].double()
                with torch.no_grad():
                    patched = comfy.lora.calculate_weight(patches, weight.clone(), key, torch.float64)
                layer = self.names.get(f"{key.rpartition('.')[0]}.weight")
                added[f"{layer}.{key.rpartition('.')[2]}"] = patched - weight
        return added
