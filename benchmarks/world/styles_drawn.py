"""Looks that are drawn, painted or printed.

Each takes a picture (N, 3, S, S) and the object's mask (N, 1, S, S), in 0..1, and gives the picture in that style.
"""

import math

import torch
from torch import Tensor

from .canvas import (
    blocks,
    blur,
    clouds,
    color,
    coordinates_of,
    edges,
    gradient_map,
    grid_lines,
    luminance,
    mix,
    posterize,
    region_means,
    relief,
    saturate,
    step,
    stretch,
    stripes,
    warp,
    within_cell,
)


def outline(x: Tensor, threshold: float = 0.13, sigma: float = 1.2) -> Tensor:
    """1 on the lines that a pen would draw."""
    return step(edges(x, sigma), threshold, 40)


def pencil_sketch(x: Tensor, mask: Tensor) -> Tensor:
    gray = blur(luminance(x), 0.8)
    dodge = (gray / (blur(gray, 4.0) + 0.05)).clamp(0, 1) ** 3
    hatch = step(0.62 - gray, stripes(x, 0.9, 8.0) * 1.3, 12) * 0.35
    return (0.97 * mix(dodge, gray, 0.2) - hatch).clamp(0, 1).expand_as(x)


def line_art(x: Tensor, mask: Tensor) -> Tensor:
    return (1 - outline(x)).expand_as(x)


def neon(x: Tensor, mask: Tensor) -> Tensor:
    line = (edges(x, 1.4) * 4).clamp(0, 1)
    glow = line * saturate(x + 0.15, 3.0)
    return (glow * 1.2 + blur(glow, 4.0) * 1.5 + color(x, 0.02, 0.0, 0.06)).clamp(0, 1)


def halftone(x: Tensor, mask: Tensor) -> Tensor:
    u, v = within_cell(x)
    ink = blocks(saturate(x, 1.4))
    radius = 0.2 + 0.4 * (1 - luminance(ink)).sqrt()
    dot = step(radius - (u**2 + v**2).sqrt(), 0.0, 18)
    return mix(color(x, 1.0, 0.97, 0.9), ink * 0.85, dot)


def watercolor(x: Tensor, mask: Tensor) -> Tensor:
    n, size = x.shape[0], x.shape[-1]
    wet = warp(blur(x, 1.5), (clouds(n, size, x.device) - 0.5) * 20, (clouds(n, size, x.device) - 0.5) * 20)
    wet = blur(mix(posterize(wet, 5), wet, 0.35), 1.0)
    rim = (edges(wet, 1.5) * 1.2).clamp(0, 0.35)
    paper = 1 - (1 - saturate(wet, 1.35)) * (0.6 + 0.3 * clouds(n, size, x.device))
    return (paper - rim).clamp(0, 1)


def poster(x: Tensor, mask: Tensor) -> Tensor:
    return saturate(posterize(saturate(blur(x, 1.5), 1.7), 3), 1.3)


def oil_painting(x: Tensor, mask: Tensor) -> Tensor:
    strokes = saturate(kuwahara(x, 4), 1.35)
    return (strokes + relief(blur(luminance(strokes), 1.0), 2) * 0.9).clamp(0, 1)


def kuwahara(x: Tensor, reach: int) -> Tensor:
    """Each pixel gets the mean of that neighbouring square which varies least: flat strokes with crisp borders."""
    size, side = x.shape[-1], reach + 1
    padded = torch.nn.functional.pad(x, (reach,) * 4, mode="replicate")
    mean = torch.nn.functional.avg_pool2d(padded, side, 1)
    variance = (torch.nn.functional.avg_pool2d(padded**2, side, 1) - mean**2).sum(1, keepdim=True)
    corners = [(dy, dx) for dy in (0, reach) for dx in (0, reach)]
    means = torch.stack([mean[..., dy : dy + size, dx : dx + size] for dy, dx in corners])
    variances = torch.stack([variance[..., dy : dy + size, dx : dx + size] for dy, dx in corners])
    return means.gather(0, variances.argmin(0, keepdim=True).expand(1, *x.shape))[0]


def chalkboard(x: Tensor, mask: Tensor) -> Tensor:
    line = (edges(x, 1.3) * 3).clamp(0, 1)
    fill = step(luminance(x), 0.2 + stripes(x, 0.7, 8.0) * 1.4, 14) * 0.4
    board = color(x, 0.1, 0.25, 0.19) + (clouds(x.shape[0], x.shape[-1], x.device) - 0.5) * 0.08
    return mix(board, color(x, 0.96, 0.96, 0.9), torch.maximum(line, fill).clamp(0, 1))


def ink_wash(x: Tensor, mask: Tensor) -> Tensor:
    n, size = x.shape[0], x.shape[-1]
    gray = warp(blur(luminance(x), 1.6), (clouds(n, size, x.device) - 0.5) * 14, (clouds(n, size, x.device) - 0.5) * 14)
    tone = blur(mix(posterize(gray, 4), gray, 0.3), 1.0)
    return (0.08 + tone**0.8 * 0.92 - edges(tone, 1.2) * 1.1).clamp(0, 1) * color(x, 1.0, 0.98, 0.93)


def comic(x: Tensor, mask: Tensor) -> Tensor:
    flat = saturate(posterize(blur(x, 1.2), 4), 1.7)
    u, v = within_cell(x)
    shade = step(0.32 - (u**2 + v**2).sqrt(), 0.0, 25) * step(0.5 - luminance(blur(x, 3.0)), 0.0, 15) * 0.45
    return flat * (1 - shade) * (1 - outline(x, 0.16))


def pop_art(x: Tensor, mask: Tensor) -> Tensor:
    tone = posterize(stretch(blur(luminance(x), 1.2)), 4)
    return gradient_map(tone, [[0.05, 0.05, 0.3], [0.95, 0.1, 0.5], [1.0, 0.85, 0.1], [0.2, 0.9, 0.9]])


def screen_print(x: Tensor, mask: Tensor) -> Tensor:
    tone = stretch(blur(luminance(x), 1.2))
    light, middle = step(tone, 0.66, 60), step(tone, 0.36, 60)
    return mix(mix(color(x, 0.1, 0.2, 0.36), color(x, 0.9, 0.4, 0.25), middle), color(x, 0.97, 0.92, 0.8), light)


def risograph(x: Tensor, mask: Tensor) -> Tensor:
    """Two inks, pink and teal, the second printed a little beside the first."""
    soft = blur(x, 1.0)
    pink, teal = posterize(1 - soft[:, 1:2], 4), torch.roll(posterize(1 - soft[:, :1], 4), (6, 6), (2, 3))
    return (1 - pink * (1 - color(x, 1.0, 0.35, 0.5))) * (1 - teal * (1 - color(x, 0.05, 0.62, 0.68)))


def pastel(x: Tensor, mask: Tensor) -> Tensor:
    chalk = 0.10 * (1 - 4 * stripes(x, 0.8, 12.0))
    return (mix(saturate(blur(x, 1.6), 0.9), 1.0, 0.5) + chalk).clamp(0, 1)


def engraving(x: Tensor, mask: Tensor) -> Tensor:
    gray = stretch(blur(luminance(x), 1.0))
    cut = step((1 - gray) * 0.6 - 0.06 - (0.5 - stripes(x, math.pi / 4, 8.0)), 0.0, 22)
    ink = torch.maximum(cut, outline(x, 0.2))
    return mix(color(x, 0.93, 0.94, 0.84), color(x, 0.05, 0.22, 0.14), ink)


def topographic_map(x: Tensor, mask: Tensor) -> Tensor:
    tone = stretch(blur(luminance(x), 2.2))
    levels = posterize(tone, 6)
    land = gradient_map(levels, [[0.25, 0.5, 0.35], [0.6, 0.75, 0.45], [0.93, 0.87, 0.6], [0.8, 0.62, 0.42], [0.97, 0.95, 0.92]])
    return mix(land, color(x, 0.32, 0.2, 0.12), step(edges(levels, 0.8), 0.04, 60) * 0.85)


def vaporwave(x: Tensor, mask: Tensor) -> Tensor:
    tone = gradient_map(stretch(luminance(x)), [[0.15, 0.0, 0.4], [0.92, 0.2, 0.75], [0.3, 0.9, 1.0], [1.0, 1.0, 1.0]])
    return mix(tone, color(x, 0.2, 1.0, 1.0), grid_lines(x, 24, 2.0) * 0.6)


def glitch(x: Tensor, mask: Tensor) -> Tensor:
    n, size = x.shape[0], x.shape[-1]
    amount, chosen = ((torch.rand(n, 1, size // 16, 1, device=x.device)).repeat_interleave(16, 2) for _ in range(2))
    shift = (amount - 0.5) * 50 * (chosen > 0.55).float()
    channels = [warp(x[:, k : k + 1], shift + split, torch.zeros_like(shift)) for k, split in enumerate((-8.0, 0.0, 8.0))]
    return torch.cat(channels, 1)


def paper_cutout(x: Tensor, mask: Tensor) -> Tensor:
    body, rim = step(blur(mask, 1.2), 0.4, 20), step(blur(mask, 3.5), 0.1, 30)
    shadow = torch.roll(blur(rim, 4.0), (7, 7), (2, 3))
    ground = (blur(posterize(blur(x, 3.0), 4), 0.8) * 0.6 + 0.36) * (1 - 0.55 * shadow)
    return mix(mix(ground, color(x, 1, 1, 1), rim), posterize(blur(x, 0.8), 5), body)


def low_poly(x: Tensor, mask: Tensor) -> Tensor:
    cells = 16
    px, py = coordinates_of(x)
    cell = x.shape[-1] / cells
    column, row = torch.floor(px / cell), torch.floor(py / cell)
    u, v = px % cell, py % cell
    upper = torch.where((column + row) % 2 == 0, u > v, u + v < cell).float()
    index = (row * cells * 2 + column * 2 + upper).long().flatten()
    return saturate(region_means(x, index, cells * cells * 2), 1.3)
