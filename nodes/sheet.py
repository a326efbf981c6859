"""Node: a contact sheet of what an adapter does, beside the pictures that it learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui
from PIL import Image, ImageDraw, ImageFont

from ..b4m_core import Adapter, B4MError
from ..b4m_core.pictures import PictureSet
from ..b4m_core.set_words import DEFAULT, fill_prompt, words_of
from . import host
from .widgets import CATEGORY, AdapterWire, Pictures, alone_note, model_clip_vae, require_adapter, require_pictures

COLUMNS = {"base": None, "content only": (1.0, 0.0), "style only": (0.0, 1.0), "both": (1.0, 1.0)}
_GAP, _TITLE, _LEAST_CELL = 6, 22, 192
_PAPER, _INK, _FAINT = (250, 249, 246), (40, 40, 46), (120, 120, 128)


class B4MContactSheet(io.ComfyNode):
    """Base, content only, style only and both, for a few prompts and one seed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MContactSheet",
            display_name="B4M Contact Sheet",
            category=CATEGORY,
            description="Paints each prompt with the base model, the content alone, the style alone and both, beside the pictures "
            "that were learned from. One seed for all, so that only the adapter differs.",
            inputs=[
                *model_clip_vae(),
                AdapterWire.Input("adapter", tooltip="The adapter to compare with and without."),
                Pictures.Input("content_pictures", tooltip="The pictures of the subject, shown beside what came of them."),
                Pictures.Input("style_pictures", tooltip="The pictures of the style, shown beside what came of them."),
                io.String.Input(
                    "prompts", multiline=True, default=DEFAULT, tooltip="One prompt a line; {content} and {style} follow the pictures."
                ),
                io.Int.Input("size", default=1024, min=64, max=2048, step=32, tooltip="Side of each picture; lowered to the model's own."),
                io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=False, tooltip="One noise for all."),
                io.Int.Input("steps", default=25, min=1, max=200, tooltip="Sampler steps of each picture (Euler, normal)."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=30.0, step=0.5, tooltip="Guidance of each picture."),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The whole sheet as one picture.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
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
        size: int,
        seed: int,
        steps: int,
        cfg: float,
    ) -> io.NodeOutput:
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise B4MError("The contact sheet has no prompt: write at least one line.")
        require_adapter(adapter, "adapter")
        for value, name in ((content_pictures, "content_pictures"), (style_pictures, "style_pictures")):
            require_pictures(value, name)
        words = words_of(content_pictures.concept(), style_pictures.concept())
        lines = [fill_prompt(line, words, "the prompts of the contact sheet") for line in lines]
        sampling = host.Sampling(steps=steps, guidance=cfg)
        base = host.HostBaseModel(model, clip, vae, sampling=sampling)
        side = min(size, base.native_size)
        progress = host.Progress(len(lines) * len(COLUMNS), cls.hidden.unique_id)
        rows: list[tuple[str, list[tuple[str, np.ndarray]]]] = [
            ("content pictures", [("", picture.pixels) for picture in content_pictures.pictures[: len(COLUMNS)]]),
            ("style pictures", [("", picture.pixels) for picture in style_pictures.pictures[: len(COLUMNS)]]),
            *((prompt, []) for prompt in lines),
        ]
        for column, (name, strengths) in enumerate(COLUMNS.items()):  # column by column: the host patches the model once for each
            painter = base if strengths is None else base.with_all_of(adapter, *strengths)
            for row, prompt in enumerate(lines):
                picture = painter.sample(prompt, width=side, height=side, seed=seed)
                rows[2 + row][1].append((name, (picture.clamp(0, 1) * 255).round().byte().numpy()))
                progress.update(column * len(lines) + row + 1)
            host.end_passes()
        sheet = torch.from_numpy(_draw(rows, max(side, _LEAST_CELL)).astype(np.float32) / 255)[None]
        notes = host.painting_note(cls.hidden, sampling) + alone_note(adapter, host.switched_off(cls.hidden, "adapter"))
        return io.NodeOutput(sheet, ui=ui.PreviewText("\n".join(notes)) if notes else None)


def _draw(rows: list[tuple[str, list[tuple[str, np.ndarray]]]], cell: int) -> np.ndarray:
    """Rows of (title, cells of (caption, pixels)) as one picture, (H, W, 3) uint8."""
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    heights = [_TITLE + cell + (_TITLE if any(caption for caption, _ in cells) else 0) + _GAP for _, cells in rows]
    sheet = Image.new("RGB", (len(COLUMNS) * (cell + _GAP) + _GAP, sum(heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for (title, cells), height in zip(rows, heights, strict=True):
        draw.text((_GAP, top), title, _INK, font)
        for column, (caption, pixels) in enumerate(cells):
            left = _GAP + column * (cell + _GAP)
            picture = Image.fromarray(pixels)
            picture = picture.resize(_fit(picture.size, cell), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + (cell - picture.width) // 2, top + _TITLE + (cell - picture.height) // 2))
            draw.text((left, top + _TITLE + cell + 2), caption, _FAINT, small)
        top += height
    return np.asarray(sheet)


def _fit(size: tuple[int, int], cell: int) -> tuple[int, int]:
    scale = cell / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
