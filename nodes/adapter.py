"""Nodes: load, apply and merge adapters, and read their facts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io, ui

from ..b4m_core import Adapter, B4MError, load_adapter, merge, read_facts
from ..b4m_core.block_weights import ATTENTION_BLOCKS, BlockWeights
from ..b4m_core.compose import Share, base_note, sum_note
from ..b4m_core.concepts import same_trigger_note
from ..b4m_core.foreign import USES
from ..b4m_core.learned_words import shared_words_note
from ..b4m_core.metadata import Facts
from ..b4m_core.set_words import DEFAULT, fill_prompt, words_of
from . import host
from .widgets import CATEGORY, AdapterWire, advanced, alone_note, content_and_style, optional, require_adapter, schema, strength

NONE_YET = "(no adapter in the loras folder yet)"
_SHIPPED = Path(__file__).resolve().parents[1] / "adapters"
EXAMPLES = {
    f"(example {role}) {path.stem.replace('_', ' ')}": path
    for role in ("content", "style")
    for path in sorted((_SHIPPED / role).glob("*.safetensors"))
}
"""The adapters that come with B4M. They fit the embedded model alone, so no other LoRA loader lists them."""


_listed: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
"""The last list, by what it was made of: ours, and the others."""


def adapter_files() -> list[str]:
    """The LoRA files that B4M wrote, told by their headers, then the examples, then everybody else's."""
    key = (host.lora_folder_times(), *host.lora_files())
    if key not in _listed:
        groups: tuple[list[str], list[str]] = ([], [])
        for name, path, changed, size in host.lora_stamps():
            groups[not _has_facts(path, changed, size)].append(name)
        _listed.clear()
        _listed[key] = groups
    ours, others = _listed[key]
    return [*ours, *EXAMPLES, *others] or [NONE_YET]


def forget_list() -> None:
    """A file was saved: the list is made anew."""
    _listed.clear()


def path_of(name: str) -> Path:
    """A file from the list: an example, or one in the loras folder."""
    return EXAMPLES.get(name) or host.safe_lora_path(name)


@cache
def _has_facts(path: str, changed: int, size: int) -> bool:
    try:
        return bool(read_facts(path))
    except B4MError:
        return False


class B4MLoadAdapter(io.ComfyNode):
    """A saved adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MLoadAdapter",
            display_name="B4M Load LoRA",
            category=CATEGORY,
            description="Loads an adapter that B4M saved, or anybody's LoRA for SDXL, as a content or as a style.",
            inputs=[
                io.Combo.Input(
                    "filename",
                    options=adapter_files(),
                    tooltip="B4M's adapters in the loras folder, then the examples for B4M Mini Model, then all other LoRAs there.",
                ),
                io.Combo.Input(
                    "use_as",
                    options=list(USES),
                    default=USES[0],
                    optional=True,
                    tooltip="What another tool's LoRA is taken for. both: a B-LoRA's two blocks or the paper's two halves, else half each. "
                    "B4M's own files say it themselves.",
                ),
            ],
            outputs=[AdapterWire.Output(display_name="adapter", tooltip="The adapter in that file.")],
            speaks=True,
        )

    @classmethod
    def fingerprint_inputs(cls, filename: str, use_as: str = USES[0]) -> str:
        if filename == NONE_YET:
            return filename
        status = path_of(filename).stat()
        return f"{filename}|{status.st_size}|{status.st_mtime_ns}"

    @classmethod
    def execute(cls, filename: str, use_as: str = USES[0]) -> io.NodeOutput:
        if filename == NONE_YET:
            raise B4MError("There is no adapter in the loras folder yet: train one and save it, or put a LoRA there and press R.")
        adapter = load_adapter(path_of(filename), use_as)
        known = adapter.facts
        said = [f"{known.origin}, taken as {use_as}.", *adapter.notes] if known.origin else []
        return io.NodeOutput(adapter, ui=ui.PreviewText("\n".join(said)) if said else None)


class B4MApplyAdapter(io.ComfyNode):
    """An adapter on a model, with a slider for content and one for style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MApplyAdapter",
            display_name="B4M Apply LoRA",
            category=CATEGORY,
            description="Puts an adapter on a model, with one slider for the content and one for the style. Nothing is trained again.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapter was trained on, or one that is near to it."),
                AdapterWire.Input("adapter", tooltip="From a training, a merge or a loader."),
                *content_and_style(),
                io.Clip.Input(
                    "clip", optional=True, tooltip="For adapters that change the text encoders: learned trigger words, other tools' LoRAs."
                ),
                advanced(optional(strength("detail", "How much of what a merge took in besides content and style."))),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the adapter on it; yours stays as it is."),
                io.Clip.Output(display_name="clip", tooltip="The CLIP with the adapter on it, for the prompts, where one is connected."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            speaks=True,
        )

    @classmethod
    def execute(cls, model: Any, adapter: Adapter, content: float, style: float, clip: Any = None, detail: float = 1.0) -> io.NodeOutput:
        host.require_model(model)
        require_adapter(adapter, "adapter")
        strengths = {"content": content, "style": style, "detail": detail}
        patched, clip_patched = host.apply_adapter(model, clip, adapter, strengths)
        notes = [*alone_note(adapter, host.switched_off(cls.hidden, "adapter")), *host.without_clip(adapter, strengths, clip)]
        return io.NodeOutput(patched, clip_patched, ui=ui.PreviewText("\n".join(notes)) if notes else None)


_BLOCKS = f"A factor for each block, as the field writes them: {', '.join(ATTENTION_BLOCKS)}. Empty: all of it."


def _share(name: str, what: str) -> list[Any]:
    """The widgets that say how much of an input is taken."""
    return [
        advanced(optional(strength(f"{name}_strength", f"How much of {what} goes in, for good."))),
        advanced(io.String.Input(f"{name}_blocks", default="", optional=True, tooltip=_BLOCKS)),
    ]


class B4MMergeAdapters(io.ComfyNode):
    """Any content with any style, and a detail."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MMergeAdapters",
            display_name="B4M Merge LoRAs",
            category=CATEGORY,
            description="The content of one adapter with the style of another, yours or anybody's, and a third as detail; no training.",
            inputs=[
                AdapterWire.Input("content", tooltip="The adapter whose content is taken."),
                AdapterWire.Input("style", tooltip="The adapter whose style is taken."),
                AdapterWire.Input("detail", optional=True, tooltip="All of a third adapter, beside the two. For more, merge again."),
                *_share("content", "the content"),
                *_share("style", "the style"),
                *_share("detail", "the detail"),
            ],
            outputs=[AdapterWire.Output(display_name="adapter", tooltip="Both in one, with a slider for each.")],
            is_output_node=True,  # what the host has in its cache it sends again for outputs alone, and the words are half of the use
        )

    @classmethod
    def execute(cls, content: Adapter, style: Adapter, detail: Adapter | None = None, **widgets: Any) -> io.NodeOutput:
        inputs = {"content": content, "style": style, "detail": detail}
        for name, adapter in inputs.items():
            if name != "detail" or adapter is not None:
                require_adapter(adapter, name)
        shares = {
            f"{name}_share": Share(widgets.get(f"{name}_strength", 1.0), BlockWeights.parsed(widgets.get(f"{name}_blocks", "")))
            for name in inputs
        }
        notes = [*base_note(style, content.facts.base, content.facts.base_name), *sum_note(content, style)]
        notes += [*same_trigger_note(content.facts.content, style.facts.style), *shared_words_note(content, style)]
        merged = merge(content, style, detail, **shares)
        sides = (("the content", merged.facts.content), ("the style", merged.facts.style))
        words = " with ".join((concept and concept.words()) or side for side, concept in sides)
        return io.NodeOutput(merged, ui=ui.PreviewText("\n".join([f"Merged: {words}.", *notes])))


class B4MAdapterFacts(io.ComfyNode):
    """What an adapter says about itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MAdapterFacts",
            display_name="B4M LoRA Facts",
            category=CATEGORY,
            description="Shows an adapter's facts: trigger words, prompts, base model, settings, losses.",
            inputs=[AdapterWire.Input("adapter", tooltip="The adapter to read; nothing in it is changed.")],
            outputs=[io.String.Output(display_name="facts", tooltip="The same as text, for a node that shows or saves text.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, adapter: Adapter) -> io.NodeOutput:
        require_adapter(adapter, "adapter")
        text = adapter.summary()
        return io.NodeOutput(text, ui={"text": (text,), "b4m_copy": to_copy(adapter.facts)})


def to_copy(facts: Facts) -> list[list[str]]:
    """What an artist takes from the facts into a prompt, each with its name: the trigger words, and a prompt that uses them."""
    concepts = [concept for concept in (facts.content, facts.style) if concept is not None]
    words = ", ".join(filter(None, (concept.words() for concept in concepts)))
    prompt = next((prompt for concept in concepts for prompt in concept.prompts), "")
    if all(words_of(facts.content, facts.style).values()):
        prompt = fill_prompt(DEFAULT, words_of(facts.content, facts.style), "the prompt")
    return [[name, text] for name, text in (("Trigger words", words), ("Prompt", prompt)) if text]
