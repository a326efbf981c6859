"""Nodes: save, load, apply and merge adapters, and read their facts."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io, ui

from ..b4m_core import Adapter, B4MError, load_adapter, lora_state_dict, merge, read_facts, save_adapter
from ..b4m_core.atomic import NameTaken
from ..b4m_core.compose import base_note
from . import host
from .widgets import CATEGORY, AdapterWire, advanced, require_adapter, strength

NONE_YET = "(no B4M adapter saved yet)"
_SHIPPED = Path(__file__).resolve().parents[1] / "adapters"
EXAMPLES = {
    f"(example {role}) {path.stem.replace('_', ' ')}": path
    for role in ("content", "style")
    for path in sorted((_SHIPPED / role).glob("*.safetensors"))
}
"""The adapters that come with B4M. They fit the embedded model alone, so no other LoRA loader lists them."""


_listed: dict[tuple[object, ...], list[str]] = {}
"""The last list, by what it was made of."""


def adapter_files() -> list[str]:
    """The LoRA files that B4M wrote, told by their headers, and the examples."""
    key = (host.lora_folder_times(), *host.lora_files())
    if key not in _listed:
        ours = [name for name, path, changed, size in host.lora_stamps() if _has_facts(path, changed, size)]
        _listed.clear()
        _listed[key] = ours
    return [*_listed[key], *EXAMPLES] or [NONE_YET]


def _path(name: str) -> Path:
    """A file from the list: an example, or one in the loras folder."""
    return EXAMPLES.get(name) or host.safe_lora_path(name)


@cache
def _has_facts(path: str, changed: int, size: int) -> bool:
    try:
        return bool(read_facts(path))
    except B4MError:
        return False


_saved: dict[tuple[str | None, bool, bool], dict[Path, tuple[int, int]]] = {}
"""What saved files looked like afterwards, by the widgets of B4M Save Adapter; a name that comes by wire is asked for as None."""
_lost: dict[tuple[str | None, bool, bool], int] = {}
"""How often one of them was found gone or changed."""


def _look(path: Path) -> tuple[int, int] | None:
    """Size and time of a file, None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class B4MSaveAdapter(io.ComfyNode):
    """An adapter as an ordinary LoRA file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MSaveAdapter",
            display_name="B4M Save Adapter",
            category=CATEGORY,
            description="Saves an adapter into the loras folder, where every LoRA loader sees it at once.",
            inputs=[
                AdapterWire.Input("adapter", tooltip="What is saved: from a training, a merge or a loader."),
                io.String.Input("filename", default="my_adapter", tooltip="A plain name, without folders."),
                io.Boolean.Input("replace", default=False, tooltip="Off: another file of this name is kept and the new one gets a number."),
                advanced(
                    io.Boolean.Input(
                        "compact",
                        default=False,
                        optional=True,
                        tooltip="Only what was taught, smaller where split is full or halves; for B4M only, other loaders cannot read it.",
                    )
                ),
            ],
            outputs=[
                AdapterWire.Output(display_name="adapter", tooltip="The adapter as it came, for the nodes after this one."),
                io.String.Output(display_name="filename", tooltip="The name that the file got."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, filename: str | None, replace: bool, compact: bool = False, **_: Any) -> str:
        """Changes when what was saved is gone or another's, so that the host saves it again."""
        key = (filename, replace, compact)
        if any(_look(path) != seen for path, seen in _saved.get(key, {}).items()):
            _lost[key] = _lost.get(key, 0) + 1
            del _saved[key]
        return str(_lost.get(key, 0))

    @classmethod
    def execute(cls, adapter: Adapter, filename: str, replace: bool, compact: bool = False) -> io.NodeOutput:
        require_adapter(adapter, "adapter")
        path = _save(adapter.compacted() if compact else adapter.with_facts(compact=False), filename, replace)
        host.refresh_lora_list()
        _listed.clear()
        if seen := _look(path):
            for name in (filename, None):
                _saved.setdefault((name, replace, compact), {})[path] = seen
        return io.NodeOutput(adapter, path.name, ui=ui.PreviewText(f"Saved as {path.name} in the loras folder."))


def _save(adapter: Adapter, filename: str, replace: bool) -> Path:
    """Under the name asked for, or the first numbered one that is free; the same adapter saved before is left as it is."""
    first = host.safe_new_lora_path(filename)
    number, path = 1, first
    while True:
        if replace or not path.exists():
            with suppress(NameTaken):  # another ComfyUI may save under this name at the same moment
                return save_adapter(adapter, path, over=replace)
        if _holds(path, adapter):
            return path
        number += 1
        path = host.safe_new_lora_path(f"{first.stem}_{number}")


def _holds(path: Path, adapter: Adapter) -> bool:
    try:
        held = load_adapter(path)
    except B4MError:
        return False
    return held.digest() == adapter.digest() and held.facts == adapter.facts


class B4MLoadAdapter(io.ComfyNode):
    """A saved adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MLoadAdapter",
            display_name="B4M Load Adapter",
            category=CATEGORY,
            description="Loads an adapter that B4M saved. (Any LoRA loader can use the file too, without the two sliders.)",
            inputs=[
                io.Combo.Input(
                    "filename",
                    options=adapter_files(),
                    tooltip="Adapters in the loras folder, then the examples for B4M Mini Model. Press R after adding one.",
                )
            ],
            outputs=[AdapterWire.Output(display_name="adapter", tooltip="The adapter in that file.")],
        )

    @classmethod
    def fingerprint_inputs(cls, filename: str) -> str:
        if filename == NONE_YET:
            return filename
        status = _path(filename).stat()
        return f"{filename}|{status.st_size}|{status.st_mtime_ns}"

    @classmethod
    def execute(cls, filename: str) -> io.NodeOutput:
        if filename == NONE_YET:
            raise B4MError("There is no B4M adapter in the loras folder yet: train one and save it, or put a file there and press R.")
        return io.NodeOutput(load_adapter(_path(filename)))


class B4MApplyAdapter(io.ComfyNode):
    """An adapter on a model, with a slider for content and one for style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MApplyAdapter",
            display_name="B4M Apply Adapter",
            category=CATEGORY,
            description="Puts an adapter on a model, with one slider for the content and one for the style. Nothing is trained again.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapter was trained on, or one that is near to it."),
                AdapterWire.Input("adapter", tooltip="From a training, a merge or a loader."),
                strength("content", "How much of the subject."),
                strength("style", "How much of the style."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the adapter on it; yours stays as it is.")],
        )

    @classmethod
    def execute(cls, model: Any, adapter: Adapter, content: float, style: float) -> io.NodeOutput:
        host.require_model(model)
        require_adapter(adapter, "adapter")
        return io.NodeOutput(host.apply_lora(model, lora_state_dict(adapter, content, style)))


class B4MMergeAdapters(io.ComfyNode):
    """Any content with any style of the same basis."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MMergeAdapters",
            display_name="B4M Merge Adapters",
            category=CATEGORY,
            description="The content of one adapter with the style of another, trained apart on the same model; no training.",
            inputs=[
                AdapterWire.Input("content", tooltip="The adapter whose content is taken."),
                AdapterWire.Input("style", tooltip="The adapter whose style is taken."),
            ],
            outputs=[AdapterWire.Output(display_name="adapter", tooltip="Both in one, with a slider for each.")],
        )

    @classmethod
    def execute(cls, content: Adapter, style: Adapter) -> io.NodeOutput:
        require_adapter(content, "content")
        require_adapter(style, "style")
        notes = base_note(style, content.facts.base, content.facts.base_name)
        return io.NodeOutput(merge(content, style), ui=ui.PreviewText(notes[0]) if notes else None)


class B4MAdapterFacts(io.ComfyNode):
    """What an adapter says about itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MAdapterFacts",
            display_name="B4M Adapter Facts",
            category=CATEGORY,
            description="Shows an adapter's facts: trigger words, prompts, base model, settings, losses.",
            inputs=[AdapterWire.Input("adapter", tooltip="The adapter to read; nothing in it is changed.")],
            outputs=[io.String.Output(display_name="facts", tooltip="The same as text, for a node that shows or saves text.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, adapter: Adapter) -> io.NodeOutput:
        require_adapter(adapter, "adapter")
        text = adapter.facts.summary()
        return io.NodeOutput(text, ui=ui.PreviewText(text))
