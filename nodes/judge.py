"""Node: how near painted pictures are to the content's and the style's pictures and to the prompt, in numbers."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..b4m_core import B4MError
from ..b4m_core.likeness import Likeness, likeness, told
from . import host
from .widgets import CATEGORY, Pictures, require_pictures, schema


class B4MJudge(io.ComfyNode):
    """Cosines in the space of a vision model that the host loads."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MJudge",
            display_name="B4M Judge",
            category=CATEGORY,
            description="Says in numbers how near pictures are to the subject's pictures, to the style's, and to a prompt, "
            "as a vision model from Load CLIP Vision sees them. To compare two trainings, judge as many pictures of each.",
            inputs=[
                io.Image.Input("images", tooltip="What was painted: as many as possible, with several seeds."),
                io.ClipVision.Input("clip_vision", tooltip="From Load CLIP Vision: CLIP-ViT-bigG-14 for SDXL's prompts, or DINOv2."),
                Pictures.Input("content_pictures", optional=True, tooltip="The pictures of the subject."),
                Pictures.Input("style_pictures", optional=True, tooltip="The pictures of the style."),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP of the checkpoint, for the prompt; needs CLIP-ViT-bigG-14."),
                io.String.Input("prompt", multiline=True, default="", optional=True, tooltip="What was asked for, without trigger words."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All numbers, and the pictures from the nearest to the farthest."),
                io.Float.Output(display_name="content", tooltip="Mean cosine to the subject's pictures; 0 where none are connected."),
                io.Float.Output(display_name="style", tooltip="Mean cosine to the style's pictures; 0 where none are connected."),
                io.Float.Output(display_name="prompt", tooltip="Mean cosine to the prompt; 0 where none was given."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        clip_vision: Any,
        content_pictures: Any = None,
        style_pictures: Any = None,
        clip: Any = None,
        prompt: str = "",
    ) -> io.NodeOutput:
        given = {"content": content_pictures, "style": style_pictures}
        for name, pictures in given.items():
            if pictures is not None:
                require_pictures(pictures, f"{name}_pictures")
        wanted = prompt.strip()
        if clip is not None and not wanted:
            raise B4MError("A CLIP is connected and the prompt is empty: write what the pictures should show, without trigger words.")
        if clip is None and all(pictures is None for pictures in given.values()):
            raise B4MError("There is nothing to judge by: connect the content's pictures, the style's, or a CLIP with a prompt.")
        ours = host.embed_pictures(clip_vision, images)
        theirs = {
            name: host.embed_pictures(clip_vision, (picture.pixels for picture in pictures.pictures))
            for name, pictures in given.items()
            if pictures is not None
        }
        other = {"content": "style", "style": "content"}
        found = {name: likeness(ours, vectors, theirs.get(other[name])) for name, vectors in theirs.items()}
        if clip is not None:
            found["prompt"] = likeness(ours, host.embed_prompt(clip, wanted, ours.shape[-1]))
        report = told(list(found.items()))
        nothing = Likeness((0.0,))
        return io.NodeOutput(
            report, *(found.get(name, nothing).mean for name in ("content", "style", "prompt")), ui=ui.PreviewText(report)
        )
