"""Contact sheets: every content in every style, a sheet for each prompt and seed, beside a picture that each learned from."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .. import grid
from ..atomic import write_whole
from ..grid import Cell, Row
from ..picture_files import NotRead, open_picture, to_rgb
from ..picture_folder import look_through
from .pair_task import picture_file
from .plan_file import Entry, StudioPlan

MOST_CELL, MOST_COLUMNS, MOST_ROWS = 256, 16, 24
"""Pixels of a picture on a sheet; styles and contents of one sheet, beyond which there is a further one."""
_MOST_PIXELS = 4 << 20
_BLANK = np.full((8, 8, 3), 236, dtype=np.uint8)
_MISSING = Cell(_BLANK, "not painted")


def draw_sheets(plan: StudioPlan, side: int) -> list[Path]:
    """Draw and write all sheets of pictures of ``side`` pixels; their files. What is not painted is said so on them."""
    contents = [entry for entry in plan.of("content") if entry.name in plan.sheets.contents]
    styles = [entry for entry in plan.of("style") if entry.name in plan.sheets.styles]
    if not contents or not styles:
        return []
    learned = {entry.folder: _first_picture(entry) for entry in (*contents, *styles)}
    written = []
    for number, prompt in enumerate(plan.sheets.prompts, start=1):
        for seed in plan.sheets.seeds:
            parts = [(some, looks) for some in _in_parts(contents, MOST_ROWS) for looks in _in_parts(styles, MOST_COLUMNS)]
            for part, (some, looks) in enumerate(parts, start=1):
                head = Row(prompt, [Cell(_BLANK), *(Cell(learned[style.folder], style.name) for style in looks)])
                rows = [head, *(_row(plan, content, looks, number, seed, learned[content.folder]) for content in some)]
                name = f"prompt_{number}_seed_{seed}{f'_part_{part}' if len(parts) > 1 else ''}.jpg"
                written.append(_write(plan.output / "sheets" / name, grid.draw(rows, min(side, MOST_CELL))))
    return written


def _row(plan: StudioPlan, content: Entry, styles: Sequence[Entry], number: int, seed: int, learned: np.ndarray) -> Row:
    files = [picture_file(plan.output, content, style, number, seed) for style in styles]
    return Row("", [Cell(learned, content.name), *(_painted(file) for file in files)])


def _painted(file: Path) -> Cell:
    try:
        return Cell(to_rgb(open_picture(file, _MOST_PIXELS))[0])
    except NotRead:
        return _MISSING


def _first_picture(entry: Entry) -> np.ndarray:
    """The first picture of a folder that can be read, (H, W, 3) uint8."""
    for file in look_through(entry.folder).pictures:
        try:
            return to_rgb(open_picture(file, _MOST_PIXELS))[0]
        except NotRead:
            continue
    return _BLANK


def _in_parts(entries: Sequence[Entry], most: int) -> list[Sequence[Entry]]:
    return [entries[start : start + most] for start in range(0, len(entries), most)]


def _write(file: Path, pixels: np.ndarray) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return write_whole(file, buffer.getvalue())
