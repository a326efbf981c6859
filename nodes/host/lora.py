"""Patching a MODEL and a CLIP with an adapter as the host's LoraLoader does it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import comfy.lora
import comfy.sd
import torch
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...b4m_core import Adapter, B4MError, split_state_dict
from ...b4m_core.carried import Carried, in_words
from ...b4m_core.layouts import ALPHA, DOWN, UP
from ...b4m_core.models.sdxl.modules import FIRST_TEXT, SECOND_TEXT, TOKEN_EMBEDDINGS
from .model_support import describe_model
from .stored import stored_weights

_OF_OUR_OWN = ("oft", "oft_r")
"""What the host's own classes do not read, or do not scale as a slider should (0.3.75: OFT by the square of its strength)."""
_NOT_BY_THE_HOST = {"lora_magnitude_vector", "lokr_t2"}
"""Parts that the host's own classes do not know, or stop at with no more than a line in the log (0.3.75: a LoKr's core)."""
_IN_THE_CLIP = "text_encoders."
"""What the host's generic names of the text encoders' layers begin with."""
Strengths = Mapping[str, float]


def apply_adapter(model: Any, clip: Any, adapter: Adapter, strengths: Strengths) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP (or None) with all that an adapter is: its split, and what it carries along.

    Whatever does not fit is found before anything is patched. Raises B4MError for a model that the adapter is not for; text encoders'
    updates without a CLIP are left out (see `without_clip`).
    """
    patched, clip = apply_carried(model, clip, adapter.carried, strengths)
    split = split_state_dict(adapter, strengths["content"], strengths["style"]) if adapter.layers else {}
    off = not any(strengths[concept] for concept in ("content", "style"))
    return (patched if off or not split else apply_lora(patched, split)), clip


def without_clip(adapter: Adapter, strengths: Strengths, clip: Any) -> list[str]:
    """A sentence for people about updates of text encoders that need a CLIP which is not connected; else nothing."""
    left = [piece for piece in adapter.carried if piece.of_text_encoder and strengths.get(piece.concept, 1.0)]
    if clip is not None or not left:
        return []
    words = [piece for piece in left if piece.key in TOKEN_EMBEDDINGS]
    heard = ["The trigger word was learned too and is not heard: connect clip here, and its output to the prompts."] if words else []
    others = len(left) - len(words)
    return heard + [
        f"Not applied: {others} updates of the text encoders. Connect clip here, and its output to the prompts, for them."
    ] * bool(others)


def apply_carried(model: Any, clip: Any, carried: Sequence[Carried], strengths: Strengths) -> tuple[Any, Any]:
    """The same with pieces of any concept, each with the strength of its own; each as if it were alone on the layer."""
    wanted = [piece for piece in carried if strengths.get(piece.concept, 1.0) * piece.strength]
    for_model = [piece for piece in wanted if not piece.of_text_encoder]
    for_clip = [piece for piece in wanted if piece.of_text_encoder]
    if for_model:
        keys = comfy.lora.model_lora_keys_unet(model.model, {})
        model = _with_pieces(model, for_model, keys, strengths, f"the model connected here ({describe_model(model)})")
    if for_clip and clip is not None:
        keys = _text_layers(clip)
        clip = clip.clone()
        clip.patcher = _with_pieces(clip.patcher, for_clip, keys, strengths, "the CLIP connected here")
    return model, clip


def _text_layers(clip: Any) -> dict[str, Any]:
    """CLIP's weights by the names of their layers: those that the host's loader knows, and ours for all layers of SDXL's two."""
    keys: dict[str, Any] = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    for encoder, ours in (("clip_l", FIRST_TEXT), ("clip_g", SECOND_TEXT)):
        start = f"{_IN_THE_CLIP}{encoder}.transformer."
        keys |= {ours + name.removeprefix(start).replace(".", "_"): key for name, key in keys.items() if name.startswith(start)}
    return keys


def _with_pieces(patcher: Any, pieces: Sequence[Carried], keys: Mapping[str, Any], strengths: Strengths, what: str) -> Any:
    """A clone of `patcher` with all pieces patched in; `keys` are its weights by the names of layers. Raises B4MError unless all fit."""
    shapes = {stored.key: stored.shape for stored in stored_weights(patcher)}
    by_weight: dict[str, list[Carried]] = {}
    unfit = []
    for piece in pieces:
        key = _weight_key(piece, keys)
        if key is None or key not in shapes or not piece.fits(shapes[key]):
            unfit.append(piece.key)
        else:
            by_weight.setdefault(key, []).append(piece)
    if unfit:
        raise B4MError(
            f"{len(unfit)} of {len(pieces)} updates of the adapter do not fit {what}, for example {unfit[0]}; "
            "connect the model that the adapter was trained on, or a fine-tune of it."
        )
    at_once: dict[tuple[int, float], dict[str, Any]] = {}  # by a patch's number on its weight, and its strength
    for key, own in by_weight.items():
        alone = [(_patch(piece), strengths.get(piece.concept, 1.0) * piece.strength) for piece in own]
        if len(own) > 1 and any(piece.depends_on_the_weight for piece in own):
            alone = [(_Sum(set(), tuple(alone)), 1.0)]
        for number, (patch, strength) in enumerate(alone):
            at_once.setdefault((number, strength), {})[key] = patch
    clone = patcher.clone()
    for (_, strength), patches in sorted(at_once.items(), key=lambda each: each[0][0]):
        clone.add_patches(patches, strength)  # lists all weights of the model at every call
    return clone


def _weight_key(piece: Carried, keys: Mapping[str, Any]) -> str | None:
    key = keys.get(piece.key)
    if isinstance(key, tuple):
        return None
    if key is not None and piece.kind == "diff_b":
        return f"{key.removesuffix('.weight')}.bias"
    return key


def _patch(piece: Carried) -> Any:
    """The host's own patch of the piece at full strength, or ours where the host has none that does the same."""
    if piece.kind == "diff_b":
        return ("diff", (piece.tensors["diff_b"],))
    if piece.kind in _OF_OUR_OWN or _NOT_BY_THE_HOST & piece.tensors.keys():
        return _Own(set(), (tuple(piece.tensors), tuple(piece.tensors.values())))
    tensors = {f"{piece.key}.{name}": tensor for name, tensor in piece.tensors.items()}
    return comfy.lora.load_lora(tensors, {piece.key: piece.key}, log_missing=False)[piece.key]


class _Patch(WeightAdapterBase):
    """A patch of ours; newer hosts make it anew from `loaded_keys` and `weights`, moved to a device."""

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """`weight` with what the patch adds at `strength`, in place as the host's own classes do."""
        weight += self._added(weight, key, strength, function, intermediate_dtype).to(weight.dtype)
        return weight

    def _added(self, weight: Tensor, key: str, strength: float, function: Any, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError


class _Own(_Patch):
    """A piece by the method's own arithmetic, as a patch of the host's. `weights`: the names of its tensors, and the tensors."""

    name = "b4m"

    def _added(self, weight: Tensor, key: str, strength: float, function: Any, dtype: torch.dtype) -> Tensor:
        piece = Carried("", key, dict(zip(*self.weights, strict=True)))
        added: Tensor = function((strength * piece.added(weight.to(dtype))).to(weight.dtype))
        return added


class _Sum(_Patch):
    """Patches of one weight, each as if it were alone on it. `weights`: (patch, strength) of each."""

    name = "b4m_sum"

    def _added(self, weight: Tensor, key: str, strength: float, function: Any, dtype: torch.dtype) -> Tensor:
        total = torch.zeros_like(weight, dtype=dtype)
        for patch, own in self.weights:
            entry = (strength * own, patch, 1.0, None, function)
            total += comfy.lora.calculate_weight([entry], weight.clone(), key, dtype).to(dtype) - weight
        return total


def apply_lora(model: Any, state_dict: Mapping[str, Tensor], strength: float = 1.0) -> Any:
    """A clone of MODEL with the LoRA patched in at `strength`, exactly as LoraLoader would from the saved file.

    Raises B4MError when a key finds no layer, or a layer of another size (the host would only log that and paint without it).
    """
    if strength == 0:
        return model
    _require_all(keys_not_loaded(model, state_dict), state_dict, f"the model connected here ({describe_model(model)})")
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(state_dict), strength, 0)
    return patched


def apply_file(model: Any, clip: Any, state_dict: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP with a LoRA file that has learned words too, exactly as LoraLoader would give them from it.

    CLIP is returned itself where the file has nothing for it. Raises B4MError as `apply_lora` does.
    """
    words = {key: tensor for key, tensor in state_dict.items() if key.startswith(_IN_THE_CLIP)}
    model = apply_lora(model, {key: tensor for key, tensor in state_dict.items() if key not in words})
    if words:
        _require_all(_not_fitting(words, _text_layers(clip), clip.patcher), words, "the CLIP connected here")
        _, clip = comfy.sd.load_lora_for_models(None, clip, words, 0, 1.0)
    return model, clip


def _require_all(missing: Sequence[str], state_dict: Mapping[str, Tensor], what: str) -> None:
    if missing:
        raise B4MError(
            f"{len(missing)} of {len(state_dict)} weights of the adapter do not fit {what}, "
            f"for example {missing[0]}; connect the model that the adapter was trained on, or a fine-tune of it."
        )


def keys_not_loaded(model: Any, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Keys of a kohya LoRA that the host's loader would leave out or fail on, in the order of the file."""
    return _not_fitting(state_dict, comfy.lora.model_lora_keys_unet(model.model, {}), model)


def _not_fitting(state_dict: Mapping[str, Tensor], key_map: Mapping[str, str], patcher: Any) -> list[str]:
    shapes = {stored.key: stored.shape for stored in stored_weights(patcher)}
    return [key for key in state_dict if not _fits(key, state_dict, key_map, shapes)]


def _fits(key: str, state_dict: Mapping[str, Tensor], key_map: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    layer = next((key.removesuffix(part) for part in (UP, DOWN, ALPHA) if key.endswith(part)), "")
    up, down = state_dict.get(layer + UP), state_dict.get(layer + DOWN)
    if up is None or down is None or layer not in key_map:
        return False
    shape = shapes[key_map[layer]]
    return up.shape[0] == shape[0] and down[0].numel() == math.prod(shape[1:]) and up.shape[1] == down.shape[0]


def carried_note(pieces: Iterable[Carried]) -> list[str]:
    """A sentence for people about what is worn while an adapter is trained on; else nothing."""
    words = in_words(tuple(pieces))
    return [f"Worn during the training, and not trained: {words}."] if words else []
