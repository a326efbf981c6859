"""Nodes: sheets that compare. What an adapter does beside the pictures that it learned from, at which strengths, and beside others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.v0_0_2 import io

from ..b4m_core import Adapter, B4MError, grid
from ..b4m_core.grid import Cell, Row
from ..b4m_core.lettering import cannot_be_drawn
from ..b4m_core.painted import as_bytes
from ..b4m_core.pictures import PictureSet
from ..b4m_core.set_words import DEFAULT, fill_prompt, words_of
from . import host
from .widgets import CATEGORY, AdapterWire, Pictures, alone_note, guidance, model_clip_vae, require_adapter, require_pictures, schema

COLUMNS = {"base": None, "content only": (1.0, 0.0), "style only": (0.0, 1.0), "both": (1.0, 1.0)}
_MOST_STRENGTHS, _MOST_ADAPTERS, _HIGHEST_STRENGTH, _MOST_LINES = 8, 4, 4.0, 64


def _painting_widgets(size: int) -> list[Any]:
    """How the pictures of a sheet are painted."""
    return [
        io.Int.Input("size", default=size, min=64, max=2048, step=32, tooltip="Side of each picture; lowered to the model's own."),
        io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=False, tooltip="One noise for all."),
        io.Int.Input("steps", default=25, min=1, max=200, tooltip="Sampler steps of each picture (Euler, normal)."),
        guidance("cfg"),
    ]


def _schema(node_id: str, name: str, description: str, inputs: list[Any]) -> io.Schema:
    return schema(
        node_id=node_id,
        display_name=name,
        category=CATEGORY,
        description=description,
        inputs=[*model_clip_vae(), *inputs],
        outputs=[io.Image.Output(display_name="sheet", tooltip="The whole sheet as one picture.")],
        hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        speaks=True,
    )


class _Painter:
    """Paints the pictures of one sheet, tells how far it is and what was noticed."""

    def __init__(self, node: type[io.ComfyNode], wires: tuple[Any, Any, Any], total: int, widgets: dict[str, Any]) -> None:
        self._hidden, self._seed = node.hidden, widgets["seed"]
        self._sampling = host.Sampling(steps=widgets["steps"], guidance=widgets["cfg"])
        self._base = host.HostBaseModel(*wires, sampling=self._sampling)
        self.side: int = min(widgets["size"], self._base.native_size)
        self._progress, self._done = host.Progress(total, node.hidden.unique_id), 0

    def column(self, prompts: list[str], adapter: Adapter | None = None, content: float = 1.0, style: float = 1.0) -> list[np.ndarray]:
        """The prompts painted, with an adapter or not, (H, W, 3) uint8 each; the host patches the model once for all of them."""
        painter = self._base if adapter is None else self._base.with_all_of(adapter, content, style)
        found = []
        for prompt in prompts:
            picture = painter.sample(prompt, width=self.side, height=self.side, seed=self._seed)
            found.append(as_bytes(picture))
            self._done += 1
            self._progress.update(self._done)
        host.end_passes()
        return found

    def sheet(self, rows: list[Row], notes: Sequence[str] = ()) -> io.NodeOutput:
        """The finished sheet, and what its node says."""
        drawn = torch.from_numpy(grid.draw(rows, self.side).astype(np.float32) / 255)[None]
        notes = [*host.painting_note(self._hidden, self._sampling), *notes]
        if missing := cannot_be_drawn(text for row in rows for text in (row.title, *(cell.caption for cell in row.cells))):
            notes.append(f"No font on this computer has the letters {missing[:20]}: they stand as boxes on the sheet.")
        said = [f"{self._done} pictures of {self.side} x {self.side} pixels.", *notes]
        return io.NodeOutput(drawn, ui={"text": ("\n".join(said),)})


def _prompts(text: str, what: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise B4MError(f"The {what} has no prompt: write at least one line.")
    if len(lines) > _MOST_LINES:
        raise B4MError(f"The {what} has {len(lines)} prompts, and each is a row of pictures: write at most {_MOST_LINES} lines.")
    return lines


class B4MContactSheet(io.ComfyNode):
    """Base, content only, style only and both, for a few prompts and one seed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "B4MContactSheet",
            "B4M Contact Sheet",
            "Paints each prompt with the base model, the content alone, the style alone and both, beside the pictures "
            "that were learned from. One seed for all, so that only the adapter differs.",
            [
                AdapterWire.Input("adapter", tooltip="The adapter to compare with and without."),
                Pictures.Input("content_pictures", tooltip="The pictures of the subject, shown beside what came of them."),
                Pictures.Input("style_pictures", tooltip="The pictures of the style, shown beside what came of them."),
                io.String.Input(
                    "prompts", multiline=True, default=DEFAULT, tooltip="One prompt a line; {content} and {style} follow the pictures."
                ),
                *_painting_widgets(1024),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        adapter: Adapter,
        content_pictures: PictureSet,
        style_pictures: PictureSet,
        prompts: str,
        **widgets: Any,
    ) -> io.NodeOutput:
        lines = _prompts(prompts, "contact sheet")
        require_adapter(adapter, "adapter")
        for value, name in ((content_pictures, "content_pictures"), (style_pictures, "style_pictures")):
            require_pictures(value, name)
        words = words_of(content_pictures.concept(), style_pictures.concept())
        lines = [fill_prompt(line, words, "the prompts of the contact sheet") for line in lines]
        painter = _Painter(cls, (model, clip, vae), len(lines) * len(COLUMNS), widgets)
        columns = [
            [Cell(pixels, name) for pixels in painter.column(lines, *(strengths and (adapter, *strengths) or ()))]
            for name, strengths in COLUMNS.items()
        ]
        learned_from = [
            Row(title, [Cell(picture.pixels) for picture in pictures.pictures[: len(COLUMNS)]])
            for title, pictures in (("content pictures", content_pictures), ("style pictures", style_pictures))
        ]
        rows = [*learned_from, *(Row(line, list(cells)) for line, cells in zip(lines, zip(*columns, strict=True), strict=True))]
        return painter.sheet(rows, alone_note(adapter, host.switched_off(cls.hidden, "adapter")))


class B4MStrengthTable(io.ComfyNode):
    """One prompt at every pair of strengths."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "B4MStrengthTable",
            "B4M Strength Table",
            "Paints one prompt with content and style at several strengths each, in rows and columns with one seed: find the pair that "
            "you like and set it on B4M Paint or B4M Apply LoRA. Too weak: go right or down; overcooked: go left or up.",
            [
                AdapterWire.Input("adapter", tooltip="An adapter with a content and a style: merged, or trained together."),
                io.String.Input(
                    "prompt", multiline=True, default=DEFAULT, tooltip="One prompt; {content} and {style} are the words that were trained."
                ),
                io.String.Input(
                    "content_strengths", default="0, 0.5, 1, 1.5", tooltip="Strengths of the content, one a column: numbers with commas."
                ),
                io.String.Input(
                    "style_strengths", default="0, 0.5, 1, 1.5", tooltip="Strengths of the style, one a row: numbers with commas."
                ),
                *_painting_widgets(512),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, adapter: Adapter, prompt: str, content_strengths: str, style_strengths: str, **widgets: Any
    ) -> io.NodeOutput:
        require_adapter(adapter, "adapter")
        line = _filled(" ".join(_prompts(prompt, "strength table")), adapter, "the prompt of the strength table")
        contents, styles = _strengths(content_strengths, "content_strengths"), _strengths(style_strengths, "style_strengths")
        painter = _Painter(cls, (model, clip, vae), len(contents) * len(styles), widgets)
        rows = []
        for number, style in enumerate(styles):
            cells = [
                Cell(painter.column([line], adapter, content, style)[0], f"content {content:g}, style {style:g}")
                for content in contents
            ]
            rows.append(Row(line if number == 0 else "", cells))
        return painter.sheet(rows)


def _filled(line: str, adapter: Adapter, where: str) -> str:
    """A prompt in the words that the adapter was taught."""
    return fill_prompt(line, words_of(adapter.facts.content, adapter.facts.style), where)


def _strengths(text: str, name: str) -> list[float]:
    """Numbers with commas, each once, in the order in which they stand. Raises B4MError for anything else."""
    words = [word for word in text.replace(";", ",").split(",") if word.strip()]
    try:
        found = list(dict.fromkeys(float(word) for word in words))
    except ValueError as error:
        raise B4MError(f"{name} has something else than numbers: write for example 0, 0.5, 1.") from error
    if not 0 < len(found) <= _MOST_STRENGTHS or not all(0 <= value <= _HIGHEST_STRENGTH for value in found):
        raise B4MError(f"{name} needs one to {_MOST_STRENGTHS} numbers from 0 to {_HIGHEST_STRENGTH:g}: write for example 0, 0.5, 1.")
    return found


class B4MCompareAdapters(io.ComfyNode):
    """The same prompts and seed with several adapters."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first, *others = [f"adapter_{number}" for number in range(1, _MOST_ADAPTERS + 1)]
        return _schema(
            "B4MCompareAdapters",
            "B4M Compare LoRAs",
            "Paints each prompt with up to four adapters side by side, one seed for all: steps of one training, "
            "other settings, other pictures.",
            [
                AdapterWire.Input(first, tooltip="The first adapter."),
                *(AdapterWire.Input(name, optional=True, tooltip="One more adapter to compare.") for name in others),
                io.String.Input(
                    "prompts", multiline=True, default=DEFAULT, tooltip="One prompt a line; {content} and {style} are the first one's."
                ),
                *_painting_widgets(512),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, prompts: str, **inputs: Any) -> io.NodeOutput:
        names = [f"adapter_{number}" for number in range(1, _MOST_ADAPTERS + 1)]
        given = [name for name in names if name == "adapter_1" or inputs.get(name) is not None]
        for name in given:
            require_adapter(inputs.get(name), name)
        lines = [_filled(line, inputs["adapter_1"], "the prompts of the comparison") for line in _prompts(prompts, "comparison")]
        painter = _Painter(cls, (model, clip, vae), len(lines) * len(given), inputs)
        columns = [
            [Cell(pixels, f"{number}: {_label(inputs[name])}") for pixels in painter.column(lines, inputs[name])]
            for number, name in enumerate(given, start=1)
        ]
        return painter.sheet([Row(line, cells) for line, cells in zip(lines, zip(*columns, strict=True), strict=True)])


def _label(adapter: Adapter) -> str:
    """What tells an adapter from others on a sheet: "content, snq bird, 500 steps"."""
    facts = adapter.facts
    words = [concept.words() for concept in (facts.content, facts.style) if concept is not None and concept.words()]
    return ", ".join([facts.role, *words, f"{facts.steps} steps"])
