"""The embedded model's CLIP in any dtype, of its own modules, and LoRAs for it."""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType
from typing import Any

import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models_base
import torch
from torch import Tensor

TOKEN_EMBEDDING = "text_encoders.clip_{}.transformer.text_model.embeddings.token_embedding"
"""What the host's own LoRA loader calls the layer, with l or g."""


def clip_in(host: ModuleType, mini: tuple[Any, Any, Any], dtype: torch.dtype = torch.float32) -> Any:
    """A CLIP with the embedded model's weights, cast."""
    loader = importlib.import_module(f"{host.__name__}.mini_model")
    configs = tuple(loader._json(f"{name}/config.json") for name in ("text_encoder", "text_encoder_2"))
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, partial(loader._MiniClip, configs))
    clip = comfy.sd.CLIP(target, model_options={"dtype": dtype, "initial_device": torch.device("cpu")})
    weights = {key: weight.clone() for key, weight in mini[1].cond_stage_model.state_dict().items()}
    with torch.no_grad():
        clip.cond_stage_model.load_state_dict(weights, strict=False)
    return clip


def text_lora(clip: Any, rank: int = 3, seed: int = 5) -> dict[str, Tensor]:
    """A kohya LoRA on the attention of both text encoders, by the host's generic names."""
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for name, module in clip.cond_stage_model.named_modules():
        if name.endswith(("q_proj", "fc1")):
            rows, row = module.weight.shape
            lora[f"text_encoders.{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * 0.3
            lora[f"text_encoders.{name}.lora_down.weight"] = torch.randn(rank, row, generator=generator) / row**0.5
    return lora


def learned_words(clip: Any, prompt: str, seed: int = 6, strength: float = 0.5) -> dict[str, Tensor]:
    """The file's pairs for the tokens of `prompt`: up (vocabulary, t) of one-hot columns, down (t, width), alpha t."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tokens in clip.tokenize(prompt).items():
        ids = [token for token, _ in tokens[0] if token not in (49406, 49407, 0)]
        words, width = getattr(clip.cond_stage_model, f"clip_{name}").transformer.text_model.embeddings.token_embedding.weight.shape
        up = torch.zeros(words, len(ids))
        up[ids, range(len(ids))] = 1.0
        key = TOKEN_EMBEDDING.format(name)
        found[f"{key}.lora_up.weight"] = up.half()
        found[f"{key}.lora_down.weight"] = (torch.randn(len(ids), width, generator=generator) * strength).half()
        found[f"{key}.alpha"] = torch.tensor(float(len(ids)))
    return found


def weight_bytes(clip: Any) -> dict[str, bytes]:
    """What every weight of a CLIP is, to the bit."""
    weights = dict(clip.cond_stage_model.named_parameters()) | dict(clip.cond_stage_model.named_buffers())
    return {key: weight.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for key, weight in weights.items()}
