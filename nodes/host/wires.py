"""What a node got on its MODEL, CLIP and VAE inputs, looked at before anything runs: told by what the network needs, not by class names."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ...b4m_core import B4MError
from .asking import ask
from .folders import shown
from .sampler import Sampling

_SIZE_NUMBERS = 6 * 256  # of adm_in_channels; the rest is the pooled text vector
_TEXT_FAMILIES = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner", 4096: "Stable Diffusion 3 or Flux"}
_MODEL_FILE = re.compile(r"\.(safetensors|sft|ckpt|gguf|pt|pth|bin)$", re.IGNORECASE)
_DISTILLED = {
    "Turbo": (r"turbo", "1 to 4", "1"),
    "Lightning": (r"lightning", "2 to 8", "1"),
    "Hyper": (r"hyper[-_ ]?sd|(?<![a-z])hyper(?![a-z])", "1 to 8", "1"),
    "LCM": (r"(?<![a-z])lcm(?![a-z])|(?-i:LCM)", "4 to 8", "1 to 2"),
    "DMD2": (r"(?<![a-z])dmd2?(?![a-z])", "4 to 8", "1"),
    "PCM": (r"(?<![a-z])pcm(?![a-z])", "2 to 16", "1"),
    "TCD": (r"(?<![a-z])tcd(?![a-z])", "4 to 8", "1"),
    "Flash": (r"flash[-_ ]?sd", "4", "1"),
}
"""How few-step models are called in file names, and the steps and guidance that their makers give."""
_OLDER_VAE = re.compile(r"vae-ft-(mse|ema)|kl-f8-anime|orangemix|clearvae|blessed2|nai\.vae|sd[-_ ]?v?1[-_.]?[45](?!\d)", re.IGNORECASE)
"""VAE files of Stable Diffusion 1.5: of the same shape as SDXL's, so that only the name tells."""

_text_widths: weakref.WeakKeyDictionary[torch.nn.Module, tuple[int, int]] = weakref.WeakKeyDictionary()


def require_model(model: Any) -> None:
    """Raise B4MError unless a MODEL came."""
    if ask(model, "get_model_object") is None:
        raise B4MError(f"The model input got {_what(model)}: connect the MODEL of a Load Checkpoint node with an SDXL model.")


def require_clip(model: Any, clip: Any) -> None:
    """Raise B4MError unless CLIP gives what the network of an SDXL MODEL takes. Encodes one empty prompt, once for each text encoder."""
    if ask(clip, "encode_from_tokens_scheduled") is None:
        raise B4MError(
            f"The clip input got {_what(clip)} (a file with the network alone has no text encoders): connect Load Checkpoint with a whole "
            "SDXL checkpoint, or DualCLIPLoader with SDXL's two text encoders and type sdxl."
        )
    config = model.model.model_config.unet_config
    wanted = config["context_dim"], config["adm_in_channels"] - _SIZE_NUMBERS
    found = _widths(clip)
    if found == wanted:
        return
    family = _TEXT_FAMILIES.get(found[0], "another model")
    raise B4MError(
        f"The CLIP connected here is that of {family}: it gives {found[0]} numbers a token and {found[1]} for the whole prompt, and this "
        f"model takes {wanted[0]} and {wanted[1]}. Connect the CLIP of the same SDXL checkpoint."
    )


def require_vae(model: Any, vae: Any) -> None:
    """Raise B4MError unless VAE gives the latents that the network of an SDXL MODEL takes."""
    if ask(vae, "decode") is None or ask(vae, "first_stage_model", vae) is None:
        raise B4MError(
            f"The vae input got {_what(vae)} (a file with the network alone has no VAE): connect Load Checkpoint with a whole SDXL "
            "checkpoint, or Load VAE with SDXL's."
        )
    latents = model.get_model_object("latent_format")
    wanted, channels = latents.latent_channels, ask(vae, "latent_channels", latents.latent_channels)
    dimensions, shrinks = ask(vae, "latent_dim", 2), ask(vae, "downscale_ratio", 8)
    if channels != wanted or dimensions != 2 or shrinks != 8:
        kind = "a video or sound model" if dimensions != 2 else "Stable Diffusion 3 or Flux" if channels == 16 else "another model"
        raise B4MError(
            f"The VAE connected here is that of {kind}: its latents have {channels} channels, and this model takes pictures in {wanted}, "
            "8 times smaller. Connect the VAE of the same SDXL checkpoint."
        )
    scale = _own_scale(vae)
    if scale is not None and abs(scale - latents.scale_factor) > 1e-3:
        raise B4MError(
            f"The VAE connected here is a TAESD of another model (scale {scale:.5f}, this model's is {latents.scale_factor:.5f}): "
            "choose taesdxl, or connect the VAE of the same SDXL checkpoint."
        )


def training_note(hidden: Any, sampling: Sampling) -> list[str]:
    """A note for a training whose model is a distilled SDXL by a file name upstream: what that means for it and for its samples.

    `hidden`: the node's hidden inputs (unique_id and prompt); `sampling`: how samples are painted now.
    """
    notes = _older_vae(hidden)
    found = _distilled(hidden)
    if found is None:
        return notes
    beginning, few, low = found
    return [
        *notes,
        f"{beginning} Trained further it may lose that: better train on the SDXL model it was made from, and use the adapter with this "
        f"one. Samples want sample_steps {few} and sample_cfg {low}, or they look burnt (here {sampling.steps} and {sampling.guidance:g}).",
    ]


def painting_note(hidden: Any, sampling: Sampling) -> list[str]:
    """The same for a node that only paints."""
    found = _distilled(hidden)
    if found is None:
        return []
    beginning, few, low = found
    return [
        f"{beginning} Pictures painted otherwise look burnt (here {sampling.steps} steps, cfg {sampling.guidance:g}); for auxiliary "
        "pictures connect the SDXL model it was made from."
    ]


def _distilled(hidden: Any) -> tuple[str, str, str] | None:
    """The beginning of the note, the steps and the cfg for the first distilled model named upstream."""
    for name in _files_upstream(hidden.prompt or {}, str(hidden.unique_id)):
        stem = _stem(name)
        for kind, (pattern, few, low) in _DISTILLED.items():
            if re.search(pattern, stem, re.IGNORECASE):
                beginning = f"By its name {shown(stem)} makes this a distilled SDXL ({kind}), which paints in {few} steps at cfg {low}."
                return beginning, few, low
    return None


def _older_vae(hidden: Any) -> list[str]:
    for name in _files_upstream(hidden.prompt or {}, str(hidden.unique_id), "vae"):
        stem = _stem(name)
        if _OLDER_VAE.search(stem):
            return [
                f"By its name {shown(stem)} is the VAE of Stable Diffusion 1.5, whose latents mean other colours and sizes than SDXL's: "
                "what is learned through it is wrong. Connect the VAE of the SDXL checkpoint."
            ]
        return []  # the nearest file is the VAE's own
    return []


def _stem(file: str) -> str:
    return _MODEL_FILE.sub("", re.split(r"[\\/]", file)[-1])


def _widths(clip: Any) -> tuple[int, int]:
    """Numbers a token and numbers in the pooled vector (0 where there is none)."""
    module = ask(clip, "cond_stage_model")
    known = _text_widths.get(module) if isinstance(module, torch.nn.Module) else None
    if known is None:
        with torch.inference_mode():
            states, extra = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]
        pooled = extra.get("pooled_output")
        known = int(states.shape[-1]), 0 if pooled is None else int(pooled.shape[-1])
        if isinstance(module, torch.nn.Module):
            _text_widths[module] = known
    return known


def _own_scale(vae: Any) -> float | None:
    """The scale that a TAESD undoes by itself; None for other VAEs."""
    module = ask(vae, "first_stage_model")
    own = dict(module.named_parameters(recurse=False)) if isinstance(module, torch.nn.Module) else {}
    return float(own["vae_scale"].detach()) if "vae_scale" in own else None


def _files_upstream(prompt: Mapping[str, Any], node_id: str, link: str = "model") -> Iterator[str]:
    """Model files named in the widgets of all nodes from which a node's input comes, the nearest first."""
    waiting = [(prompt.get(node_id) or {}).get("inputs", {}).get(link)]
    seen: set[str] = set()
    while waiting:
        source = waiting.pop(0)
        if not isinstance(source, (list, tuple)) or not source or str(source[0]) in seen:
            continue
        seen.add(str(source[0]))
        inputs = (prompt.get(str(source[0])) or {}).get("inputs", {})
        yield from _files_of(inputs)
        waiting += inputs.values()


def _files_of(inputs: Mapping[str, Any]) -> Iterator[str]:
    """Model files in the widgets of a node, those of stacked LoRAs too ({"on": true, "lora": ...}); none where it is switched off."""
    if inputs.get("on") is False or 0 in (inputs.get("strength_model", 1), inputs.get("strength", 1)):
        return
    for value in inputs.values():
        if isinstance(value, str) and _MODEL_FILE.search(value):
            yield value
        elif isinstance(value, dict):
            yield from _files_of(value)


def _what(thing: Any) -> str:
    """What came instead, for people."""
    if thing is None or ask(thing, "first_stage_model", thing) is None:
        return "nothing"
    return f"something else ({type(thing).__name__})"
