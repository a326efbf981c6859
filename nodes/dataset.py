"""Nodes: pictures of a content or a style, and auxiliary pictures."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..b4m_core import B4MError
from ..b4m_core.auxiliary import MOST_SETS, described, own_auxiliary, sample_auxiliary
from ..b4m_core.concepts import trigger_notes
from ..b4m_core.masks import SENSES
from ..b4m_core.picture_kinds import entries
from ..b4m_core.pictures import PictureSet, from_arrays, load_folder
from ..b4m_core.text_files import clean
from ..b4m_core.wired import single
from . import host
from .widgets import CATEGORY, Auxiliary, Pictures, advanced, model_clip_vae, schema

FROM_GRAPH, PAINTED = "(pictures from the graph)", "(painted by the model)"
_SHIPPED = Path(__file__).resolve().parents[1] / "workflows" / "pictures"
DEMO = {"(demo content)": _SHIPPED / "demo_content", "(demo style)": _SHIPPED / "demo_style"}
KINDS = {"other styles (for a content)": "styles", "other contents (for a style)": "contents"}


def folder_fingerprint(folder: str) -> str:
    """Changes when a file in the folder does, so that the host runs the node again."""
    if folder in (FROM_GRAPH, PAINTED):
        return folder
    root = path_of(folder)
    inner = [root, *entries(root, folders=True)]  # sets of auxiliary pictures, masks, captions; links are followed
    facts = [fact for place in inner for entry in entries(place) if (fact := _stamp(entry, root))]
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()


def _stamp(file: Path, root: Path) -> str:
    """What a file is known by; nothing for one that has just gone, or is none."""
    try:
        status = file.stat()
    except OSError:
        return ""
    return f"{file.relative_to(root)}|{status.st_size}|{status.st_mtime_ns}" if file.is_file() else ""


def path_of(folder: str) -> Path:
    """A folder from a list: one of the two that come with B4M, or one below the host's input folder."""
    return DEMO.get(folder) or host.safe_input_folder(folder)


class B4MPictures(io.ComfyNode):
    """A few pictures of one subject or one style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MPictures",
            display_name="B4M Pictures",
            category=CATEGORY,
            description="A few pictures of one subject (content) or of one style, and the new word for it. Three to ten are enough.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[FROM_GRAPH, *DEMO, *host.input_subfolders()],
                    tooltip="A folder below ComfyUI's input folder; pictures dropped on this node get one. Beside name.png: its caption "
                    "name.txt, its mask name_mask.png.",
                ),
                io.String.Input("trigger", default="snq", tooltip="A new word for this content or style that the model does not know yet."),
                io.String.Input("class_word", default="", tooltip="What it is, in a word the model knows: penguin, house, painting."),
                io.String.Input(
                    "caption",
                    default="a photo of a {trigger} {class}",
                    tooltip="Used where a picture has no .txt file; {trigger}, {class} and {name} (of the file) are filled in. "
                    "For a style say what is in the picture: a {name} in {trigger} style.",
                ),
                advanced(
                    io.Boolean.Input(
                        "use_masks", default=True, tooltip="Train only inside the masks: name_mask.png, transparency, or the MASK input."
                    )
                ),
                io.Image.Input("images", optional=True, tooltip="Pictures from the graph, when the folder says so."),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Masks for those pictures: one for all, or one for each. As everywhere in ComfyUI a mask marks what is "
                    "transparent and left out; one that plainly marks the subject is taken so. mask_sense decides.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="Captions for those pictures: one for all, or a list with one for each, filled in as caption is.",
                ),
                advanced(
                    io.Combo.Input(
                        "mask_sense",
                        options=list(SENSES),
                        default=SENSES[0],
                        optional=True,
                        tooltip="What 1 in the MASK input means. detect: left out, as in ComfyUI, unless it plainly marks a subject. "
                        "Mask files are always white where to train.",
                    )
                ),
            ],
            outputs=[Pictures.Output(display_name="pictures", tooltip="The pictures, with captions and masks.")],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder: Any, **_: Any) -> str:
        return folder_fingerprint(_one(folder, "folder"))

    @classmethod
    def execute(
        cls,
        folder: Any,
        trigger: Any,
        class_word: Any,
        caption: Any,
        use_masks: Any,
        images: Any = None,
        masks: Any = None,
        captions: Any = None,
        mask_sense: Any = SENSES[0],
    ) -> io.NodeOutput:
        """Every input comes as a list, a widget as one of a single value; pictures, masks and captions of all entries are one set."""
        place, use = _one(folder, "folder"), _one(use_masks, "use_masks")
        patterns = _list(caption)
        given = _list(captions) if any(_list(captions)) else (patterns if len(patterns) > 1 else [])
        pattern = _text(patterns[:1], "caption")
        words: dict[str, Any] = {"trigger": _text(trigger, "trigger"), "class_word": _text(class_word, "class_word"), "pattern": pattern}
        wires = [name for name, wire in (("images", images), ("masks", masks), ("captions", given)) if _list(wire)]
        if place == FROM_GRAPH:
            pictures = _from_graph(images, masks if use else None, given, _one(mask_sense, "mask_sense"), {**words, "use_masks": use})
        else:
            pictures = load_folder(path_of(place), use_masks=use, **words)
        notes = pictures.notes if place == FROM_GRAPH or not wires else (_unused(wires), *pictures.notes)
        pictures = replace(pictures, notes=(*notes, *trigger_notes(words["trigger"], words["class_word"], host.vocabulary())))
        return io.NodeOutput(pictures, ui={"text": ("\n".join((pictures.told, *pictures.notes)),)})


def _from_graph(images: Any, masks: Any, captions: list[Any], sense: str, words: dict[str, Any]) -> PictureSet:
    """One set of all batches that came."""
    if not any(batch is not None for batch in _list(images)):
        raise B4MError("B4M Pictures has no pictures: choose a folder, or connect images.")
    if not all(isinstance(text, str) for text in captions):
        raise B4MError("The input captions got something else than text: connect strings, one for all pictures or one for each.")
    found = single(_arrays(images, "images"), "image")
    given = single(_arrays(masks, "masks"), "mask")
    return from_arrays(found, masks=given, mask_sense=sense, captions=captions, **words)


def _unused(wires: list[str]) -> str:
    return f"What came on {' and '.join(wires)} was not used, since a folder is chosen: choose {FROM_GRAPH} to use it."


def _list(values: Any) -> list[Any]:
    """What came on an input: the host's list, or the one value of a script."""
    return list(values) if isinstance(values, (list, tuple)) else [] if values is None else [values]


def _one(values: Any, name: str) -> Any:
    """The value of a widget. Raises B4MError where a list of different ones is connected to it."""
    found = _list(values)
    if not found or found[0] is None:
        raise B4MError(f"The input {name} got nothing: connect a value, or take the wire away.")
    if any(value != found[0] for value in found):
        raise B4MError(f"The input {name} got {len(found)} different values, and a set has one: use a B4M Pictures node for each.")
    return found[0]


def _text(values: Any, name: str) -> str:
    """The text of a widget, without spaces around it. Raises B4MError for what is no text."""
    value = _one(values, name)
    if not isinstance(value, str):
        raise B4MError(f"The input {name} got something else than text ({type(value).__name__}): connect a string.")
    return clean(value)


def _arrays(wire: Any, name: str) -> list[np.ndarray]:
    """The batches of a wire as they came. Raises B4MError for what is no batch."""
    batches = [batch for batch in _list(wire) if batch is not None]
    odd = next((batch for batch in batches if not isinstance(batch, Tensor)), None)
    if odd is not None:
        raise B4MError(f"The input {name} got something else than pictures ({type(odd).__name__}): connect the right output.")
    return [(batch.float() if batch.is_floating_point() else batch).detach().cpu().numpy() for batch in batches]


class B4MAuxiliaryPictures(io.ComfyNode):
    """Other pictures, on which a training leaves the model as it is, or which train the other half."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MAuxiliaryPictures",
            display_name="B4M Auxiliary Pictures",
            category=CATEGORY,
            description="Against overfitting: a content learns beside other styles, a style beside other contents. "
            "The model paints them once by itself and keeps them; a folder of your own takes their place.",
            inputs=[
                *model_clip_vae(),
                io.Combo.Input(
                    "kind", options=list(KINDS), tooltip="Other styles when you train a content, other contents when you train a style."
                ),
                io.Combo.Input(
                    "folder",
                    options=[PAINTED, *host.input_subfolders(parents=True)],
                    tooltip="Painted by the model, or your own: choose the folder that holds the sets. Each subfolder is one set, named "
                    "after what it shows.",
                ),
                io.Int.Input(
                    "sets",
                    default=4,
                    min=0,
                    max=MOST_SETS,
                    tooltip="How many sets the model paints. With multi_correspondence each adds a row to every training step.",
                ),
                io.Int.Input("pictures", default=4, min=1, max=32, tooltip="How many pictures it paints for each set."),
                io.Int.Input("resolution", default=512, min=64, max=2048, step=32, tooltip="Their size; lowered to the model's own."),
            ],
            outputs=[
                Auxiliary.Output(display_name="auxiliary", tooltip="For the auxiliary input of a training."),
                io.Image.Output(display_name="images", is_output_list=True, tooltip="The pictures themselves, to be looked at or saved."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            speaks=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        return folder_fingerprint(folder)

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, kind: str, folder: str, sets: int, pictures: int, resolution: int) -> io.NodeOutput:
        painted = cls._pictures(model, clip, vae, KINDS[kind], folder, sets, pictures, resolution)
        notes = host.painting_note(cls.hidden, host.Sampling()) if folder == PAINTED else []
        images = [torch.from_numpy(picture.pixels.astype(np.float32) / 255)[None] for each in painted for picture in each.pictures]
        return io.NodeOutput(painted, images, ui={"text": ("\n".join((described(painted), *notes)),)})

    @classmethod
    def _pictures(
        cls, model: Any, clip: Any, vae: Any, kind: str, folder: str, sets: int, pictures: int, resolution: int
    ) -> tuple[PictureSet, ...]:
        if folder != PAINTED:
            return own_auxiliary(host.safe_input_folder(folder), kind)
        base = host.HostBaseModel(model, clip, vae)
        progress = host.Progress(max(sets * pictures, 1), cls.hidden.unique_id)
        return sample_auxiliary(
            base,
            kind,
            sets=sets,
            pictures=pictures,
            resolution=min(resolution, base.native_size),
            cache=host.run_store_folder(),
            watch=lambda done, total: progress.update(done),
        )
