"""Pictures in rows and columns with their titles, as one picture whose letters grow with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from . import lettering

LEAST_CELL = 192
_PAPER, _INK, _FAINT = (250, 249, 246), (40, 40, 46), (120, 120, 128)
_GAP = 6
_LETTERS_ACROSS = 70  # a letter's size is this part of the sheet's width: it is read when the sheet fills a screen
_LEAST_LETTERS = 15
_MOST_LINES = 3


@dataclass(frozen=True)
class Cell:
    """One picture, (H, W, 3) uint8, and what stands under it."""

    pixels: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """Pictures side by side, with a title over them."""

    title: str
    cells: Sequence[Cell]


def draw(rows: Sequence[Row], cell: int) -> np.ndarray:
    """The sheet (H, W, 3) uint8 of rows whose pictures fit into `cell` x `cell` pixels."""
    cell = max(cell, LEAST_CELL)
    columns = max(len(row.cells) for row in rows)
    wide = columns * (cell + _GAP) + _GAP
    size = max(_LEAST_LETTERS, round(wide / _LETTERS_ACROSS))
    line = round(size * 1.4)
    titles = [_lines(row.title, size, wide - 2 * _GAP) for row in rows]
    captions = [[_lines(each.caption, size, cell) for each in row.cells] for row in rows]
    under = [max((len(lines) for lines in below), default=0) for below in captions]
    heights = [len(title) * line + cell + count * line + _GAP for title, count in zip(titles, under, strict=True)]
    sheet, pen = lettering.blank(wide, sum(heights) + _GAP, _PAPER)
    top = _GAP
    for row, title, below, height in zip(rows, titles, captions, heights, strict=True):
        _write_lines(pen, title, _GAP, top, size, _INK)
        first = top + len(title) * line
        for column, each in enumerate(row.cells):
            left = _GAP + column * (cell + _GAP)
            picture = _fitted(each.pixels, cell)
            sheet.paste(picture, (left + (cell - picture.width) // 2, first + (cell - picture.height) // 2))
            _write_lines(pen, below[column], left, first + cell, size, _FAINT)
        top += height
    return np.asarray(sheet)


def _lines(text: str, size: int, most: int) -> list[str]:
    """At most three lines; what does not fit is cut, with three dots."""
    lines = lettering.wrapped(text, size, most) if text else []
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1].rstrip()[:-1] + "…"]
    return lines


def _write_lines(pen: ImageDraw.ImageDraw, lines: Sequence[str], left: int, top: int, size: int, colour: tuple[int, int, int]) -> None:
    for number, text in enumerate(lines):
        lettering.write(pen, (left, top + round(size * (1.05 + 1.4 * number))), text, size, colour)


def _fitted(pixels: np.ndarray, cell: int) -> Image.Image:
    picture = Image.fromarray(pixels)
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
