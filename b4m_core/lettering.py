"""Letters on sheets: fonts that the computer has, for whatever script a prompt is written in.

Pillow brings one font, for Latin letters. For others the fonts that systems come with are tried by name, and each letter is drawn by the
first that has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

from PIL import Image, ImageDraw, ImageFont

SYSTEM_FONTS = (
    *("NotoSans-Regular.ttf", "DejaVuSans.ttf", "segoeui.ttf", "Arial Unicode.ttf", "arial.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf"),
    *("msyh.ttc", "YuGothR.ttc", "meiryo.ttc", "msgothic.ttc", "malgun.ttf", "simsun.ttc"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "STHeiti Light.ttc", "GeezaPro.ttc"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansThai-Regular.ttf", "NotoSansDevanagari-Regular.ttf"),
    *("tahoma.ttf", "Nirmala.ttf", "LeelawUI.ttf", "seguiemj.ttf", "NotoColorEmoji.ttf"),
)
"""Fonts of Linux, Windows and macOS; Pillow looks for them where the system keeps its fonts."""

_NO_LETTER = "\U0010ffff"  # what a font draws for a letter that it lacks
_LOOKED_AT = 32  # px: the size at which a letter is compared with that

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def _font(name: str, size: int) -> Font | None:
    """A font of the system, Pillow's own for ""; None where the computer has none of that name."""
    if not name:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ValueError):
        return None


@cache
def _has(name: str, letter: str) -> bool:
    font = _font(name, _LOOKED_AT)
    if font is None:
        return False
    try:
        drawn, missing = font.getmask(letter), font.getmask(_NO_LETTER)
    except (OSError, ValueError):
        return False
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@lru_cache(maxsize=4096)
def _name_for(letter: str) -> str | None:
    """The first font that has a letter, None where none has it."""
    return next((name for name in ("", *SYSTEM_FONTS) if _has(name, letter)), None)


def runs(text: str, size: int) -> list[tuple[Font, str]]:
    """A text in pieces that one font each can draw; letters that no font has go with the piece before them."""
    pieces: list[tuple[str, str]] = []
    for letter in text:
        name = _name_for(letter) if letter.isprintable() and not letter.isspace() else None
        if name is None and pieces:
            name = pieces[-1][0]
        if pieces and pieces[-1][0] == (name or ""):
            pieces[-1] = (name or "", pieces[-1][1] + letter)
        else:
            pieces.append((name or "", letter))
    return [(_font(name, size) or ImageFont.load_default(size=size), piece) for name, piece in pieces]


def cannot_be_drawn(texts: Iterable[str]) -> str:
    """The letters that no font of this computer has, each once; empty where all can be drawn."""
    letters = dict.fromkeys(letter for text in texts for letter in text if letter.isprintable() and not letter.isspace())
    return "".join(letter for letter in letters if _name_for(letter) is None)


def width(text: str, size: int) -> float:
    """How wide a line is, in pixels."""
    return sum(font.getlength(piece) for font, piece in runs(text, size))


def wrapped(text: str, size: int, most: float) -> list[str]:
    """A text in lines of at most `most` pixels, broken at spaces and, where a word alone is wider, within it."""
    lines = [""]
    for word in text.split():
        for piece in (word,) if width(word, size) <= most else tuple(word):
            joint = " " if lines[-1] and piece is word else ""
            if lines[-1] and width(lines[-1] + joint + piece, size) > most:
                lines.append(piece)
            else:
                lines[-1] += joint + piece
    return lines


def write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: tuple[int, int, int]) -> None:
    """Draw one line; `place` is its left end on the baseline's ascent, as Pillow's text() takes it with the anchor "ls"."""
    left, baseline = place
    for font, piece in runs(text, size):
        draw.text((left, baseline), piece, colour, font, anchor="ls" if isinstance(font, ImageFont.FreeTypeFont) else None)
        left += font.getlength(piece)


def blank(width: int, height: int, colour: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A sheet of paper and what draws on it."""
    sheet = Image.new("RGB", (width, height), colour)
    return sheet, ImageDraw.Draw(sheet)
