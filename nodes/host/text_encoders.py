"""The text encoders that the words of a training go through: transformers' CLIP with the weights that the host's CLIP really has."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import TYPE_CHECKING, Any

import comfy.clip_model
import torch
from torch import Tensor

from ...b4m_core import B4MError
from .asking import ask
from .stored import Stored, require_readable, stored_weights
from .weights import real_weights

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

_NAMES = {"l": "clip_l", "g": "clip_g"}
"""SDXL's text encoders: by what the host's tokens are called, and by what its modules are."""
TextEncoders = tuple["CLIPTextModel", "CLIPTextModelWithProjection"]


def require_teachable(clip: Any) -> None:
    """Raise B4MError, naming what stands in the way, unless gradients can go through CLIP's text encoders. Takes no time."""
    for name in _NAMES.values():
        encoder = _part(clip.cond_stage_model, name)
        if not isinstance(_part(encoder, "transformer"), comfy.clip_model.CLIPTextModel):
            raise B4MError(
                f"The CLIP connected here has no {name.replace('_', '-').upper()} as Load Checkpoint gives it, so no word can be "
                "learned in it: connect the checkpoint's own CLIP, or switch learning the trigger word off."
            )
        for stored in stored_weights(clip.patcher, f"{name}.transformer."):
            require_readable(stored)
    if ask(clip.patcher, "forced_hooks") is not None:
        raise B4MError(
            "The CLIP connected here changes with the sampler's steps (hooks), so no word can be learned in it: connect it without Set "
            "CLIP Hooks, or switch learning the trigger word off."
        )
    hidden_layer(clip)


def _part(module: Any, name: str) -> Any:
    """A submodule, None where it has none of this name."""
    return module._modules.get(name) if isinstance(module, torch.nn.Module) else None


def text_encoders_bytes(clip: Any, dtype: torch.dtype) -> int:
    """What both take in `dtype`, however much less CLIP's own weights take."""
    return sum(math.prod(stored.shape) for stored in stored_weights(clip.patcher)) * dtype.itemsize


def training_text_encoders(clip: Any, device: torch.device, dtype: torch.dtype) -> TextEncoders:
    """CLIP-L and CLIP-G, frozen, with CLIP's weights, patches on it put in; CLIP itself is left as it is.

    Their hidden states at `hidden_layer` and the second one's projection are what the host makes of a prompt's `token_ids`.
    Raises B4MError when they are others, or cannot be read (`require_teachable`).
    """
    require_teachable(clip)
    from transformers import CLIPTextModel, CLIPTextModelWithProjection  # seconds, and only who learns words waits for it

    first, second = (
        _built(clip, name, kind, device, dtype)
        for name, kind in zip(_NAMES.values(), (CLIPTextModel, CLIPTextModelWithProjection), strict=True)
    )
    return first, second


def _built(clip: Any, name: str, kind: Callable[[Any], Any], device: torch.device, dtype: torch.dtype) -> Any:
    """One of them."""
    prefix = f"{name}.transformer."
    stored = {each.key.removeprefix(prefix): each for each in stored_weights(clip.patcher, prefix)}
    with torch.inference_mode(False):
        with torch.device("meta"):
            module = kind(_configuration(_part(clip.cond_stage_model, name), stored)).requires_grad_(False)
        needed = {key: prefix + _host_name(key) for key in module.state_dict()}
        found = real_weights(clip.patcher, prefix, device, only=set(needed.values()), opened_as=dtype)
        weights = {key: weight.to(dtype) for key, weight in found}
        module.load_state_dict({key: weights[host_key] for key, host_key in needed.items()}, assign=True)
        for part in module.modules():
            for buffer in part._non_persistent_buffers_set & {"position_ids"}:
                part.register_buffer(buffer, torch.arange(part.position_ids.shape[-1], device=device)[None], persistent=False)
        return module.eval()


def _host_name(key: str) -> str:
    """The host's name of a weight. Newer versions of transformers leave out the first part where there is no projection."""
    return key if key.startswith("text_") else f"text_model.{key}"


def _configuration(encoder: Any, stored: dict[str, Stored]) -> Any:
    """transformers' configuration of one of the host's CLIP text encoders, of whatever size."""
    from transformers import CLIPTextConfig

    text_model = encoder.transformer.text_model
    layer = text_model.encoder.layers[0]
    words, width = stored["text_model.embeddings.token_embedding.weight"].shape
    activations = comfy.clip_model.ACTIVATIONS
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        projection_dim=stored["text_projection.weight"].shape[0],
        intermediate_size=stored["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len(text_model.encoder.layers),
        num_attention_heads=layer.self_attn.heads,
        max_position_embeddings=stored["text_model.embeddings.position_embedding.weight"].shape[0],
        hidden_act=next(name for name, function in activations.items() if function is layer.mlp.activation),
        layer_norm_eps=text_model.final_layer_norm.eps,
        bos_token_id=encoder.special_tokens["start"],
        eos_token_id=encoder.special_tokens["end"],
        pad_token_id=encoder.special_tokens["pad"],
    )


def hidden_layer(clip: Any) -> int:
    """Which of the encoders' hidden states the network gets, counted from the end: -2, or what CLIP Set Last Layer says upstream.

    Raises B4MError where that node asks for more layers than an encoder has: the host then takes something else.
    """
    if clip.layer_idx is None:
        return -2
    least = min(len(clip.cond_stage_model._modules[name].transformer.text_model.encoder.layers) for name in _NAMES.values())
    if not 1 <= -clip.layer_idx <= least:
        raise B4MError(
            f"CLIP Set Last Layer stands at {clip.layer_idx} and the smaller text encoder has {least} layers, so no word can be learned: "
            "set it to -2, which is SDXL's own, or switch learning the trigger word off."
        )
    return int(clip.layer_idx)


def token_ids(clip: Any, prompt: str) -> tuple[Tensor, Tensor] | None:
    """What the host feeds CLIP-L and CLIP-G for a prompt: token ids (k, 77) each, int64 on the CPU, k pieces of a long prompt.

    None where a prompt is more than its words, with weights as in (cat:1.2) or an `embedding:`; only the host can encode that.
    """
    tokens = clip.tokenize(prompt)
    pieces = [tokens[name] for name in _NAMES]
    if not all(isinstance(token, Integral) and weight == 1.0 for each in pieces for piece in each for token, weight, *_ in piece):
        return None
    first, second = (torch.tensor([[int(token) for token, *_ in piece] for piece in each]) for each in pieces)
    return first, second
