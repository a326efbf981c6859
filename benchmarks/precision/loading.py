"""Files of a small SDXL in every way of storing, loaded by the host's own loader nodes. A host must be importable."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import comfy.supported_models
import folder_paths
import torch

import nodes

from .kinds import FILES, GGUF, Weights

DETECTED_BY = (
    "model_channels",
    "use_linear_in_transformer",
    "transformer_depth",
    "context_dim",
    "adm_in_channels",
    "use_temporal_attention",
)


def let_the_host_recognise(model: Any) -> None:
    """Add the SDXL of MODEL's size to those that the host's loaders know by their shapes; they know the real one alone."""
    like = model.model.model_config
    changes = {"unet_config": {name: like.unet_config[name] for name in DETECTED_BY}, "b4m_native_size": like.b4m_native_size}
    small = type("SmallSDXL", (comfy.supported_models.SDXL,), changes)
    known = comfy.supported_models.models
    if all(each.unet_config != small.unet_config for each in known):  # type: ignore[attr-defined]
        known.insert(0, small)


def weights_of(model: Any) -> Weights:
    """MODEL's network by the names of a checkpoint, float32."""
    return {name: weight.detach().float().clone() for name, weight in model.model.diffusion_model.state_dict().items()}


def write(kind: str, weights: Weights) -> str:
    """The name of a new file of this kind among the host's diffusion models."""
    folder = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind.replace(' ', '_').replace(',', '')}.{'gguf' if kind in GGUF else 'safetensors'}"
    if kind in GGUF:
        GGUF[kind](weights, path)
    else:
        FILES[kind](weights).save(path)
    folder_paths.filename_list_cache.clear()
    return path.name


def load(name: str, weight_dtype: str = "default") -> Any:
    """MODEL as the host's node for such a file gives it, in inference mode as the host runs its nodes."""
    with torch.inference_mode():
        if name.endswith(".gguf"):
            return sys.modules["gguf_pack"].NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]().load_unet(name)[0]
        return nodes.UNETLoader().load_unet(name, weight_dtype)[0]


def load_gguf_pack(folder: Path) -> None:
    """Import city96's node pack from its folder, as the host does."""
    spec: Any = importlib.util.spec_from_file_location("gguf_pack", folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules["gguf_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["gguf_pack"])
