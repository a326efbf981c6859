"""Node: a prompt in the words of the sets, for any node that takes text."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io, ui

from ..b4m_core.metadata import Concept
from ..b4m_core.pictures import PictureSet
from ..b4m_core.set_words import DEFAULT, fill_prompt, words_of
from .widgets import CATEGORY, AdapterWire, Pictures, require_adapter, require_pictures, schema


class B4MPrompt(io.ComfyNode):
    """Text with {content} and {style} in it, which follow what is written on B4M Pictures or in an adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MPrompt",
            display_name="B4M Prompt",
            category=CATEGORY,
            description="A prompt that follows your words: {content} and {style} become the trigger and class word of the connected "
            "pictures or adapter. Connect it to the text of CLIP Text Encode.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default=DEFAULT,
                    tooltip='{content} becomes "snq bird", {style} becomes "w@z style", in the words of what is connected.',
                ),
                AdapterWire.Input("adapter", optional=True, tooltip="The adapter whose words are used."),
                Pictures.Input("content_pictures", optional=True, tooltip="The pictures of the subject; their words go before the others."),
                Pictures.Input("style_pictures", optional=True, tooltip="The pictures of the style; their words go before the others."),
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="The text with the words filled in.")],
            speaks=True,
        )

    @classmethod
    def execute(cls, text: str, adapter: Any = None, content_pictures: Any = None, style_pictures: Any = None) -> io.NodeOutput:
        content, style = None, None
        if adapter is not None:
            require_adapter(adapter, "adapter")
            content, style = adapter.facts.content, adapter.facts.style
        content = _concept(content_pictures, "content_pictures") or content
        style = _concept(style_pictures, "style_pictures") or style
        prompt = fill_prompt(text, words_of(content, style), "the prompt")
        return io.NodeOutput(prompt, ui=ui.PreviewText(prompt))


def _concept(pictures: PictureSet | None, name: str) -> Concept | None:
    """The words of a set that may not be connected."""
    if pictures is None:
        return None
    require_pictures(pictures, name)
    return pictures.concept()
