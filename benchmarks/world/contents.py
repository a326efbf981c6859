"""The contents of the world: 298 things with a name, a class word and sometimes synonyms, drawn by Noto Color Emoji."""

import csv
import dataclasses
import pathlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FOLDER = pathlib.Path(__file__).parent
SPRITE_SIZE = 112  # pixels of one square cell of sprites.png
COLUMNS = 20
MARGIN = 8  # transparent pixels added around a sprite, so that a tilted one is not cut


@dataclasses.dataclass(frozen=True)
class Content:
    code_point: int
    name: str
    class_word: str
    synonyms: tuple[str, ...]
    held_out: bool  # never shown to the denoiser


def load_contents() -> list[Content]:
    with open(FOLDER / "contents.csv", newline="", encoding="utf-8") as file:
        return [
            Content(
                int(row["code"], 16), row["name"], row["class"], tuple(filter(None, row["synonyms"].split(";"))), row["held_out"] == "yes"
            )
            for row in csv.DictReader(file)
        ]


def load_sprites(count: int) -> Tensor:
    """The first `count` sprites, float32 (count, 4, 128, 128) in 0..1, colours premultiplied by alpha."""
    with Image.open(FOLDER / "sprites.png") as image:
        atlas = np.asarray(image.convert("RGBA"))
    rows = atlas.shape[0] // SPRITE_SIZE
    cells = atlas.reshape(rows, SPRITE_SIZE, COLUMNS, SPRITE_SIZE, 4).transpose(0, 2, 4, 1, 3).reshape(-1, 4, SPRITE_SIZE, SPRITE_SIZE)
    sprites = torch.from_numpy(cells[:count].copy()).float() / 255
    sprites[:, :3] *= sprites[:, 3:]
    return torch.nn.functional.pad(sprites, (MARGIN,) * 4)
