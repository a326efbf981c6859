"""What several nodes share in their faces: the types of B4M's wires, and the mark of a widget for the curious."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.v0_0_2 import io

from ..b4m_core import Adapter, B4MError
from ..b4m_core.pictures import PictureSet
from ..b4m_core.presets import BY_PRESET, rate
from .host.asking import ask

CATEGORY = "B4M"
Pictures = io.Custom("B4M_PICTURES")
Auxiliary = io.Custom("B4M_AUXILIARY")
AdapterWire = io.Custom("B4M_ADAPTER")


_TRAINING = ["lora", "train lora", "training", "finetune", "fine-tune", "dreambooth", "personalization", "b4m"]
ALIASES = {
    "B4MTrain": [*_TRAINING, "subject", "style", "content and style", "character"],
    "B4MTrainContent": [*_TRAINING, "subject", "character", "object", "content lora"],
    "B4MTrainStyle": [*_TRAINING, "style", "art style", "look", "style lora"],
    "B4MTrainTogether": [*_TRAINING, "joint training", "subject and style"],
    "B4MPictures": ["dataset", "training images", "subject", "style", "captions", "lora dataset", "dreambooth"],
    "B4MAuxiliaryPictures": ["regularization images", "class images", "prior preservation", "dreambooth"],
    "B4MPaint": ["generate", "sample", "lora", "text to image", "style transfer"],
    "B4MSaveAdapter": ["save lora", "export lora"],
    "B4MLoadAdapter": ["load lora", "lora loader"],
    "B4MApplyAdapter": ["apply lora", "lora strength", "content strength", "style strength", "style transfer"],
    "B4MMergeAdapters": ["merge lora", "combine lora", "mix lora", "style transfer"],
    "B4MContactSheet": ["xy plot", "grid", "compare", "lora test"],
    "B4MStrengthTable": ["xy plot", "grid", "lora strength", "strength table"],
    "B4MCompareAdapters": ["xy plot", "grid", "compare lora"],
    "B4MAdapterFacts": ["lora info", "lora metadata", "trigger words"],
    "B4MPrompt": ["prompt", "trigger words", "text"],
    "B4MJudge": ["clip score", "similarity", "likeness", "evaluate", "dino"],
    "B4MMiniModel": ["demo model", "small sdxl", "load model", "checkpoint"],
}
"""What else people look for, by node; hosts before 2026 search names alone."""


def schema(*, speaks: bool = False, **facts: Any) -> io.Schema:
    """A node's face, with what only newer hosts take: older ones end at a field that they do not know.

    Those are the search words, and for a node that is no output and `speaks` (ui.text) that its words are sent again where the host
    answers from its cache.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    newer = {"search_aliases": ALIASES[facts["node_id"]], "has_intermediate_output": speaks}
    return io.Schema(**facts, **{name: value for name, value in newer.items() if name in known})


def advanced(widget: Any) -> Any:
    """Mark a widget as advanced: newer pages fold it away. Set afterwards, since ComfyUI 0.3.52 takes no such argument everywhere."""
    widget.extra_dict = {**(ask(widget, "extra_dict") or {}), "advanced": True}
    return widget


def optional(widget: Any) -> Any:
    """Mark a widget as one that graphs of earlier versions may lack."""
    widget.optional = True
    return widget


RATES = [f"{digit}e-{power}" for power in (6, 5, 4, 3, 2) for digit in (1, 2, 3, 5, 7)]
"""What is offered as a rate. In words, since pages round small numbers: one shows 1e-4 as 0."""


def rate_widget(name: str, tooltip: str, default: str = BY_PRESET) -> Any:
    """A list of rates, folded away; with the default BY_PRESET the preset may decide. Scripts may give any number (`rates_accepted`)."""
    options = [BY_PRESET, *RATES] if default == BY_PRESET else RATES
    return advanced(io.Combo.Input(name, options=options, default=default, tooltip=tooltip))


def whole_number(name: str, tooltip: str, *, most: int, least: int = 0, default: int = 0, **more: Any) -> Any:
    """A whole number from `least` to `most`, folded away."""
    return advanced(io.Int.Input(name, default=default, min=least, max=most, tooltip=tooltip, **more))


_GUIDANCE = "How closely the prompt is followed. Lower it when colours burn out; a distilled model wants 1."


def guidance(name: str, tooltip: str = _GUIDANCE) -> io.Float.Input:
    """A sampler's cfg."""
    return io.Float.Input(name, default=5.0, min=0.0, max=30.0, step=0.5, tooltip=tooltip)


def rates_accepted(**rates: Any) -> bool | str:
    """For a node's validate_inputs: whether what came for its rates are numbers, else a sentence. None is a wire, known only later."""
    try:
        for name, value in rates.items():
            if value is not None and value != BY_PRESET:
                rate(value, name)
    except B4MError as error:
        return str(error)
    return True


def strength(name: str, tooltip: str) -> io.Float.Input:
    """A slider for a strength, -2 to 3; below 0 it takes away."""
    return io.Float.Input(name, default=1.0, min=-2.0, max=3.0, step=0.05, display_mode=io.NumberDisplay.slider, tooltip=tooltip)


def content_and_style() -> list[Any]:
    """The two sliders."""
    return [
        strength("content", "How much of the subject: raise it when the likeness is weak, up to 1.5."),
        strength("style", "How much of the style: lower it when the subject drowns in it, down to 0.6."),
    ]


def model_clip_vae() -> list[Any]:
    """The three wires of a checkpoint."""
    return [
        io.Model.Input("model", tooltip="An SDXL model. LoRAs patched in before it count. It is left exactly as it is."),
        io.Clip.Input("clip", tooltip="The model's text encoders."),
        io.Vae.Input("vae", tooltip="The model's picture encoder."),
    ]


def sampling_widgets() -> list[Any]:
    """How sample pictures are painted: the same values in a KSampler give the same pixels."""
    return [
        whole_number(
            "sample_steps",
            "Sampler steps of a sample picture (Euler, normal). 15 are enough to judge; a distilled model wants 4 to 8.",
            default=25,
            least=1,
            most=200,
        ),
        advanced(guidance("sample_cfg", "Guidance of a sample picture. Lower it when colours burn out; a distilled model wants 1.")),
    ]


def require_adapter(value: Any, name: str) -> None:
    """Raise B4MError unless an adapter came on the input `name`."""
    if not isinstance(value, Adapter):
        raise B4MError(f"The input {name} got {_what(value)}: connect the adapter of a B4M training or of B4M Load LoRA.")


def require_pictures(value: Any, name: str) -> None:
    """Raise B4MError unless a set of pictures came on the input `name`."""
    if not isinstance(value, PictureSet):
        raise B4MError(f"The input {name} got {_what(value)}: connect B4M Pictures.")


def alone_note(adapter: Adapter, switched_off: str) -> list[str]:
    """A sentence where an adapter has the content or the style alone; `switched_off` says which node before it is bypassed."""
    role = adapter.facts.role
    if role not in ("content", "style"):
        return []
    other = "style" if role == "content" else "content"
    reason = f"{switched_off}, so this" if switched_off else "This"
    return [
        f"{reason} is the {role} alone: what is said of the {other} changes nothing. To have both, connect B4M Train Together LoRA, or "
        "B4M Merge LoRAs, which trains nothing."
    ]


def auxiliary_sets(value: Any, name: str) -> tuple[PictureSet, ...]:
    """The auxiliary sets that came on the optional input `name`, none where nothing did. Raises B4MError for anything else."""
    sets = () if value is None else value
    if not isinstance(sets, tuple) or not all(isinstance(each, PictureSet) for each in sets):
        raise B4MError(f"The input {name} got {_what(value)}: connect B4M Auxiliary Pictures, or nothing.")
    return sets


def _what(value: Any) -> str:
    return "nothing" if value is None else f"something else ({type(value).__name__})"
