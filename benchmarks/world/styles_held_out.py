"""Looks that the denoiser never sees in training: what customization has to teach it. Same signature as in styles_drawn."""

import math

import torch
from torch import Tensor

from .canvas import (
    blocks,
    blur,
    border,
    color,
    coordinates_of,
    edges,
    gradient_map,
    grid_lines,
    luminance,
    mix,
    posterize,
    relief,
    saturate,
    step,
    stretch,
    stripes,
    voronoi,
    within_cell,
)
from .styles_drawn import outline
from .styles_made import frame_of_holes


def stained_glass(x: Tensor, mask: Tensor) -> Tensor:
    glass, gap = voronoi(x, 14, 11)
    lead = torch.maximum(1 - step(gap, 1.8, 4), outline(mask, 0.22, 1.5))
    return mix((saturate(glass, 1.9) * 1.1).clamp(0, 1), color(x, 0.03, 0.03, 0.04), lead)


def blueprint(x: Tensor, mask: Tensor) -> Tensor:
    paper = color(x, 0.06, 0.2, 0.56) + grid_lines(x, 16, 1.5) * 0.16
    return mix(paper, color(x, 0.95, 0.97, 1.0), outline(x))


def thermal(x: Tensor, mask: Tensor) -> Tensor:
    heat = blur(stretch(luminance(x)), 2.5)
    return gradient_map(posterize(heat, 12), [[0.0, 0.0, 0.25], [0.5, 0.0, 0.6], [0.95, 0.2, 0.2], [1.0, 0.75, 0.0], [1.0, 1.0, 0.85]])


def knitted(x: Tensor, mask: Tensor) -> Tensor:
    u, _ = within_cell(x)
    _, py = coordinates_of(x)
    slant = (py + u.abs() * 9) % 8 / 8
    stitch = (
        torch.sin(slant * math.pi) * (1 - 0.75 * torch.exp(-((u / 0.1) ** 2))) * (1 - 0.75 * torch.exp(-(((0.5 - u.abs()) / 0.08) ** 2)))
    )
    return (saturate(blocks(x), 1.15) * (0.35 + 0.9 * stitch)).clamp(0, 1)


def woodcut(x: Tensor, mask: Tensor) -> Tensor:
    px, py = coordinates_of(x)
    gray = stretch(blur(luminance(x), 1.2))
    groove = ((py + 3 * torch.sin(px * 0.08)) % 8 / 8 - 0.5).abs()
    ink = torch.maximum(step((1 - gray) * 0.62 - 0.08 - groove, 0.0, 22), outline(x, 0.2))
    return mix(color(x, 0.93, 0.84, 0.66), color(x, 0.2, 0.08, 0.05), ink)


def crayon(x: Tensor, mask: Tensor) -> Tensor:
    wax = saturate(posterize(blur(x, 1.5), 5), 1.7)
    stroke = step(0.75 - stripes(x, 1.1, 10.0) * 1.3 - 0.35 * luminance(wax), 0.0, 10)
    stroke = torch.maximum(stroke, outline(x, 0.2) * 0.9)
    return mix(color(x, 0.98, 0.97, 0.93), wax, stroke)


def lego(x: Tensor, mask: Tensor) -> Tensor:
    u, v = within_cell(x, 12)
    brick = saturate(posterize(blocks(x, 12), 6), 1.25)
    radius = (u**2 + v**2).sqrt()
    stud, rim = step(0.31 - radius, 0.0, 30), torch.exp(-(((radius - 0.33) / 0.06) ** 2))
    return (brick * (0.92 + 0.16 * stud) - rim * (0.22 * (u + v) + 0.12) - grid_lines(x, 12, 1.5) * 0.25).clamp(0, 1)


def japanese_print(x: Tensor, mask: Tensor) -> Tensor:
    flat = posterize(blur(x, 1.6), 4)
    muted = mix(saturate(flat, 0.75) * color(x, 0.98, 0.9, 0.74), color(x, 0.9, 0.8, 0.6), 0.22)
    seal = ((border(x) > 6) & step_corner(x)).float()
    return mix(mix(muted, color(x, 0.08, 0.14, 0.34), outline(x, 0.16, 1.4)), color(x, 0.8, 0.12, 0.1), seal)


def step_corner(x: Tensor) -> Tensor:
    """True in a square of 20 pixels in the lower right corner, where the seal goes."""
    px, py = coordinates_of(x)
    size = x.shape[-1]
    return (px > size - 28) & (py > size - 28)


def game_boy(x: Tensor, mask: Tensor) -> Tensor:
    tone = posterize(stretch(luminance(blocks(x))), 4)
    screen = gradient_map(tone, [[0.06, 0.22, 0.06], [0.19, 0.38, 0.19], [0.55, 0.67, 0.06], [0.61, 0.74, 0.06]])
    return mix(screen, color(x, 0.52, 0.62, 0.08), grid_lines(x, 8, 1.0) * 0.5)


def film_negative(x: Tensor, mask: Tensor) -> Tensor:
    negative = (1 - x) * color(x, 1.0, 0.72, 0.5) + color(x, 0.0, 0.02, 0.02)
    strip = step(border_rows(x), 21.0, 2)
    film = mix(color(x, 0.16, 0.08, 0.04), negative, strip)
    return mix(film, color(x, 1.0, 0.97, 0.9), frame_of_holes(x, 20)).clamp(0, 1)


def border_rows(x: Tensor) -> Tensor:
    _, py = coordinates_of(x)
    return torch.minimum(py, x.shape[-1] - 1 - py)


def patchwork(x: Tensor, mask: Tensor) -> Tensor:
    px, py = coordinates_of(x)
    odd = (torch.floor(px / 24) + torch.floor(py / 24)) % 2
    weave = mix(stripes(x, 0.0, 8.0), stripes(x, math.pi / 2, 8.0), odd)
    cloth = saturate(posterize(blur(x, 1.2), 5), 1.1) * (1.02 - 0.5 * weave)
    seam = grid_lines(x, 24, 2.0) * ((px + py) % 8 < 5).float()
    return mix(cloth, color(x, 1.0, 0.98, 0.9), seam).clamp(0, 1)


def chocolate(x: Tensor, mask: Tensor) -> Tensor:
    px, py = coordinates_of(x)
    rise = relief(blur(luminance(x), 1.3)) * 1.5 + relief(blur(mask, 2.0)) * 0.8 + edges(x, 2.0) * 0.2
    u, v = within_cell(x, 48)
    bevel = step(torch.maximum(u.abs(), v.abs()), 0.44, 60)
    return gradient_map(
        (0.42 + rise - bevel * 0.25).clamp(0, 1), [[0.1, 0.04, 0.02], [0.36, 0.19, 0.1], [0.62, 0.38, 0.22], [0.98, 0.85, 0.7]]
    )
