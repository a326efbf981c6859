"""Node: an adapter as files that every LoRA loader reads, with what other tools show beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..b4m_core import Adapter, B4MError, thumbnail
from ..b4m_core.saving import Choices, ending_of, pieces, save_numbered
from . import adapter as listing
from . import host
from .widgets import CATEGORY, AdapterWire, advanced, alone_note, require_adapter, schema, whole_number

ONE_FILE, APART = "nothing", "content and style apart"
Key = tuple[Any, ...]
_saved: dict[Key, dict[Path, tuple[int, int]]] = {}
"""What saved files looked like afterwards, by the widgets of B4M Save LoRA; a name that comes by wire is asked for as None."""
_lost: dict[Key, int] = {}
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
        return schema(
            node_id="B4MSaveAdapter",
            display_name="B4M Save LoRA",
            category=CATEGORY,
            description="Saves an adapter into the loras folder, where every LoRA loader sees it at once.",
            inputs=[
                AdapterWire.Input("adapter", tooltip="What is saved: from a training, a merge or a loader."),
                io.String.Input("filename", default="my_adapter", tooltip="A plain name, without folders."),
                advanced(
                    io.Boolean.Input(
                        "replace", default=False, tooltip="Off: another file of this name is kept and the new one gets a number."
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "compact",
                        default=False,
                        optional=True,
                        tooltip="Only what was taught, smaller where split is full or halves: name.b4m, which only B4M lists and reads.",
                    )
                ),
                io.Image.Input(
                    "thumbnail", optional=True, tooltip="The picture that LoRA browsers show; without one the training's last sample."
                ),
                advanced(
                    io.Combo.Input(
                        "also_save",
                        options=[ONE_FILE, APART],
                        optional=True,
                        tooltip="Apart: also name_content and name_style, for two sliders in other tools; one LoRA loader for each.",
                    )
                ),
                whole_number(
                    "reduce_rank",
                    "A smaller file: this rank for content and for style, and how far that is off. 0 keeps the rank.",
                    most=512,
                    optional=True,
                ),
            ],
            outputs=[
                AdapterWire.Output(display_name="adapter", tooltip="The adapter as it came, for the nodes after this one."),
                io.String.Output(display_name="filename", tooltip="The name that the file got."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(
        cls, filename: str | None, replace: bool, compact: bool = False, also_save: str = ONE_FILE, reduce_rank: int = 0, **_: Any
    ) -> str:
        """Changes when what was saved is gone or another's, so that the host saves it again."""
        key = (filename, replace, compact, also_save, reduce_rank)
        if any(_look(path) != seen for path, seen in _saved.get(key, {}).items()):
            _lost[key] = _lost.get(key, 0) + 1
            del _saved[key]
        return str(_lost.get(key, 0))

    @classmethod
    def execute(
        cls,
        adapter: Adapter,
        filename: str,
        replace: bool,
        compact: bool = False,
        thumbnail: Tensor | None = None,
        also_save: str = ONE_FILE,
        reduce_rank: int = 0,
    ) -> io.NodeOutput:
        require_adapter(adapter, "adapter")
        made = pieces(_shown(adapter, thumbnail), Choices(reduce_rank, compact, also_save == APART))
        stem = host.safe_new_lora_path(filename).stem
        paths = [
            save_numbered(one, _path_of(one), stem + ending, replace=replace, new_picture=thumbnail is not None)
            for ending, one in made.adapters.items()
        ]
        host.refresh_lora_list()
        listing.forget_list()
        _watch(paths, filename, (replace, compact, also_save, reduce_rank))
        names = ", ".join(path.name for path in paths)
        off = host.switched_off(cls.hidden, "adapter")
        notes = [f"Saved as {names} in the loras folder.", *made.notes, *(alone_note(adapter, off) if off else [])]
        return io.NodeOutput(adapter, paths[0].name, ui=ui.PreviewText("\n".join(notes)))


def _path_of(adapter: Adapter) -> Callable[[str], Path]:
    """Where the adapter goes, by the stem of its name."""
    return lambda stem: host.safe_new_lora_path(stem + ending_of(adapter))


def _shown(adapter: Adapter, picture: Any) -> Adapter:
    """The adapter with the picture that came on the wire, if one did. Raises B4MError for what is none."""
    if picture is None:
        return adapter
    if not isinstance(picture, Tensor) or picture.ndim != 4 or not len(picture) or picture.shape[-1] not in (3, 4):
        raise B4MError("The input thumbnail got no picture: connect an IMAGE, or nothing.")
    return adapter.shown_by(thumbnail.data_url(picture[0, ..., :3]))


def _watch(paths: list[Path], filename: str, widgets: Key) -> None:
    """Remember how the files look now."""
    seen = {path: status for path in paths if (status := _look(path))}
    for name in (filename, None):
        _saved.setdefault((name, *widgets), {}).update(seen)
