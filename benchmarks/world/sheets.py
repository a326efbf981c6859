"""Contact sheets: many pictures in one PNG."""

import pathlib

import numpy as np
from PIL import Image
from torch import Tensor


def save_sheet(path: pathlib.Path, pictures: Tensor, columns: int) -> None:
    """Pictures (N, 3, S, S) in 0..1, row by row, `columns` a row."""
    pixels = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    n, size = len(pixels), pixels.shape[1]
    rows = -(-n // columns)
    sheet = np.zeros((rows * size, columns * size, 3), np.uint8)
    for k, picture in enumerate(pixels):
        y, x = k // columns * size, k % columns * size
        sheet[y : y + size, x : x + size] = picture
    Image.fromarray(sheet).save(path, optimize=True)
