"""Cut the world's contents out of Noto Color Emoji into one atlas: python -m benchmarks.world.build_sprites NotoColorEmoji.ttf

Needed only to make `sprites.png` again; Debian has the font in the package fonts-noto-color-emoji (SIL Open Font License 1.1, see OFL.txt).
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .contents import COLUMNS, SPRITE_SIZE, load_contents

STRIKE = 109  # the font's only bitmap size, in pixels per em


def glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """The character's bitmap, cut to its ink and set into a transparent square."""
    canvas = Image.new("RGBA", (150, 150))
    ImageDraw.Draw(canvas).text((0, 0), character, font=font, embedded_color=True)
    ink = canvas.crop(canvas.getbbox())
    side = max(ink.size)
    square = Image.new("RGBA", (side, side))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square


def shrink(square: Image.Image) -> Image.Image:
    """Resize to SPRITE_SIZE with colours premultiplied by alpha, so that no dark fringe comes in from transparent pixels."""
    rgba = np.asarray(square, dtype=np.float32) / 255
    alpha = rgba[..., 3:]
    planes = np.concatenate([rgba[..., :3] * alpha, alpha], -1)
    small = [np.asarray(Image.fromarray(planes[..., k]).resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)) for k in range(4)]
    resized = np.stack(small, -1).clip(0, 1)
    resized[..., :3] = (resized[..., :3] / np.maximum(resized[..., 3:], 1e-3)).clip(0, 1)
    return Image.fromarray((resized * 255).round().astype(np.uint8))


def main(font_file: str) -> None:
    font = ImageFont.truetype(font_file, STRIKE)
    contents = load_contents()
    rows = -(-len(contents) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * SPRITE_SIZE, rows * SPRITE_SIZE))
    for index, content in enumerate(contents):
        corner = (index % COLUMNS * SPRITE_SIZE, index // COLUMNS * SPRITE_SIZE)
        atlas.paste(shrink(glyph(font, chr(content.code_point))), corner)
    atlas.save(pathlib.Path(__file__).parent / "sprites.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
