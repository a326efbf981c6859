"""What several nodes share in their faces: the types of B4M's wires, and the mark of a widget for the curious."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..b4m_core import Adapter, B4MError
from ..b4m_core.pictures import PictureSet
from .host.asking import ask

CATEGORY = "B4M"
Pictures = io.Custom("B4M_PICTURES")
Auxiliary = io.Custom("B4M_AUXILIARY")
AdapterWire = io.Custom("B4M_ADAPTER")


def advanced(widget: Any) -> Any:
    """Mark a widget as advanced: newer pages fold it away. Set afterwards, since ComfyUI 0.3.52 takes no such argument everywhere."""
    widget.extra_dict = {**(ask(widget, "extra_dict") or {}), "advanced": True}
    return widget


def optional(widget: Any) -> Any:
    """Mark a widget as one that graphs of earlier versions may lack."""
    widget.optional = True
    return widget


def strength(name: str, tooltip: str) -> io.Float.Input:
    """A slider for a strength, -2 to 3; below 0 it takes away."""
    return io.Float.Input(name, default=1.0, min=-2.0, max=3.0, step=0.05, display_mode=io.NumberDisplay.slider, tooltip=tooltip)


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
        advanced(io.Int.Input("sample_steps", default=25, min=1, max=200, tooltip="Sampler steps of a sample picture (Euler, normal).")),
        advanced(io.Float.Input("sample_cfg", default=5.0, min=0.0, max=30.0, step=0.5, tooltip="Guidance of a sample picture.")),
    ]


def require_adapter(value: Any, name: str) -> None:
    """Raise B4MError unless an adapter came on the input `name`."""
    if not isinstance(value, Adapter):
        raise B4MError(f"The input {name} got {_what(value)}: connect the adapter of a B4M training or of B4M Load Adapter.")


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
        f"{reason} is the {role} alone: what is said of the {other} changes nothing. To have both, connect B4M Train Together, or "
        "B4M Merge Adapters, which trains nothing."
    ]


def auxiliary_sets(value: Any, name: str) -> tuple[PictureSet, ...]:
    """The auxiliary sets that came on the optional input `name`, none where nothing did. Raises B4MError for anything else."""
    sets = () if value is None else value
    if not isinstance(sets, tuple) or not all(isinstance(each, PictureSet) for each in sets):
        raise B4MError(f"The input {name} got {_what(value)}: connect B4M Auxiliary Pictures, or nothing.")
    return sets


def _what(value: Any) -> str:
    return "nothing" if value is None else f"something else ({type(value).__name__})"
