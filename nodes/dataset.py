"""Nodes: pictures of a content or a style, and auxiliary pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..b4m_core import B4MError
from ..b4m_core.auxiliary import MOST_SETS, OWN_CAPTIONS, own_auxiliary, paint_auxiliary
from ..b4m_core.pictures import PictureSet, from_arrays, load_folder
from . import host
from .widgets import CATEGORY, Auxiliary, Pictures, model_clip_vae

FROM_GRAPH, PAINTED = "(pictures from the graph)", "(painted by the model)"
_SHIPPED = Path(__file__).resolve().parents[1] / "workflows" / "pictures"
DEMO = {"(demo content)": _SHIPPED / "demo_content", "(demo style)": _SHIPPED / "demo_style"}
KINDS = {"other styles (for a content)": "styles", "other contents (for a style)": "contents"}


def folder_fingerprint(folder: str) -> str:
    """Changes when a file in the folder does, so that the host runs the node again."""
    if folder in (FROM_GRAPH, PAINTED):
        return folder
    files = sorted(entry for entry in _path(folder).rglob("*") if entry.is_file())
    facts = [f"{entry.name}|{entry.stat().st_size}|{entry.stat().st_mtime_ns}" for entry in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _path(folder: str) -> Path:
    """A folder from a list: one of the two that come with B4M, or one below the host's input folder."""
    return DEMO.get(folder) or host.safe_input_folder(folder)


def notes_text(notes: tuple[str, ...], count: int) -> str:
    """What was read and what was left out, for the node's face."""
    return "\n".join([f"{count} picture{'s' if count != 1 else ''}", *notes])


class B4MPictures(io.ComfyNode):
    """A few pictures of one subject or one style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MPictures",
            display_name="B4M Pictures",
            category=CATEGORY,
            description="A few pictures of one subject (content) or of one style, and the new word for it. Three to ten are enough.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[FROM_GRAPH, *DEMO, *host.input_subfolders()],
                    tooltip="A folder below ComfyUI's input folder. Press R after adding one. Captions: name.txt; masks: name_mask.png.",
                ),
                io.String.Input("trigger", default="snq", tooltip="A new word for this content or style that the model does not know yet."),
                io.String.Input("class_word", default="", tooltip="What it is, in a word the model knows: penguin, house, painting."),
                io.String.Input(
                    "caption",
                    default="a photo of a {trigger} {class}",
                    tooltip="Used where a picture has no .txt file; {trigger}, {class} and {name} (of the file) are filled in. "
                    "For a style say what is in the picture: a {name} in {trigger} style.",
                ),
                io.Boolean.Input(
                    "use_masks", default=True, tooltip="Train only inside the masks: name_mask.png, transparency, or the MASK input."
                ),
                io.Image.Input("images", optional=True, tooltip="Pictures from the graph, when the folder says so."),
                io.Mask.Input("masks", optional=True, tooltip="Masks for those pictures: one for all, or one for each."),
            ],
            outputs=[Pictures.Output(display_name="pictures")],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        return folder_fingerprint(folder)

    @classmethod
    def execute(
        cls,
        folder: str,
        trigger: str,
        class_word: str,
        caption: str,
        use_masks: bool,
        images: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> io.NodeOutput:
        words = {"trigger": trigger.strip(), "class_word": class_word.strip(), "pattern": caption}
        if folder == FROM_GRAPH:
            if images is None:
                raise B4MError("B4M Pictures has no pictures: choose a folder, or connect images.")
            given = None if masks is None or not use_masks else [mask.cpu().float().numpy() for mask in masks]
            pictures = from_arrays((image.cpu().float().numpy() for image in images), masks=given, **words)
        else:
            pictures = load_folder(_path(folder), use_masks=use_masks, **words)
        return io.NodeOutput(pictures, ui={"text": (notes_text(pictures.notes, len(pictures.pictures)),)})


class B4MAuxiliaryPictures(io.ComfyNode):
    """Partners for a training, so that a half does not overfit to one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MAuxiliaryPictures",
            display_name="B4M Auxiliary Pictures",
            category=CATEGORY,
            description="Partners against overfitting: a content learns beside other styles, a style beside other contents. "
            "The model paints them once by itself and keeps them; a folder of your own takes their place.",
            inputs=[
                *model_clip_vae(),
                io.Combo.Input(
                    "kind", options=list(KINDS), tooltip="Other styles when you train a content, other contents when you train a style."
                ),
                io.Combo.Input(
                    "folder",
                    options=[PAINTED, *host.input_subfolders()],
                    tooltip="Painted by the model, or your own: each subfolder is one set, named after what it shows.",
                ),
                io.Int.Input(
                    "sets",
                    default=4,
                    min=0,
                    max=MOST_SETS,
                    tooltip="How many sets the model paints. For correspondence = partner each adds a row to every training step.",
                ),
                io.Int.Input("pictures", default=4, min=1, max=32, tooltip="How many pictures it paints for each set."),
                io.Int.Input("resolution", default=512, min=64, max=2048, step=32, tooltip="Their size; lowered to the model's own."),
            ],
            outputs=[Auxiliary.Output(display_name="auxiliary")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        return folder_fingerprint(folder)

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, kind: str, folder: str, sets: int, pictures: int, resolution: int) -> io.NodeOutput:
        return io.NodeOutput(cls._pictures(model, clip, vae, KINDS[kind], folder, sets, pictures, resolution))

    @classmethod
    def _pictures(
        cls, model: Any, clip: Any, vae: Any, kind: str, folder: str, sets: int, pictures: int, resolution: int
    ) -> tuple[PictureSet, ...]:
        if folder != PAINTED:
            return own_auxiliary(host.safe_input_folder(folder), OWN_CAPTIONS[kind])
        base = host.HostBaseModel(model, clip, vae)
        progress = host.Progress(max(sets * pictures, 1), cls.hidden.unique_id)
        return paint_auxiliary(
            base,
            kind,
            sets=sets,
            pictures=pictures,
            resolution=min(resolution, base.native_size),
            cache=host.run_store_folder(),
            watch=lambda done, total: progress.update(done),
        )
