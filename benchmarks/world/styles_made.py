"""Looks of a material, a craft or a machine. Same signature as in styles_drawn.

Patterns have a period of 8 pixels, one latent, wherever the craft allows it: an eightfold autoencoder carries those best.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import (
    blocks,
    blur,
    border,
    clouds,
    color,
    coordinates_of,
    edges,
    from_middle,
    gradient_map,
    grid_lines,
    luminance,
    mix,
    posterize,
    relief,
    saturate,
    step,
    stripes,
    voronoi,
    warp,
    within_cell,
)
from .styles_drawn import kuwahara, outline


def pixel_art(x: Tensor, mask: Tensor) -> Tensor:
    return blocks(posterize(F.interpolate(F.avg_pool2d(saturate(x, 1.25), 8), scale_factor=8, mode="nearest"), 7), 8)


def mosaic(x: Tensor, mask: Tensor) -> Tensor:
    shade = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)).to(x.device)[..., : x.shape[-1] // 8, : x.shape[-1] // 8]
    tiles = saturate(blocks(x), 1.3) * (0.85 + 0.25 * shade.repeat_interleave(8, 2).repeat_interleave(8, 3))
    return mix(tiles, 0.92, grid_lines(x, 8, 2.0)).clamp(0, 1)


def cross_stitch(x: Tensor, mask: Tensor) -> Tensor:
    u, v = within_cell(x)
    thread = torch.maximum(torch.exp(-(((u - v) / 0.24) ** 2)), torch.exp(-(((u + v) / 0.24) ** 2)))
    return mix(color(x, 0.96, 0.93, 0.85), posterize(saturate(blocks(x), 1.3), 6) * 0.92, (thread * 1.3).clamp(0, 1))


def beads(x: Tensor, mask: Tensor) -> Tensor:
    u, v = within_cell(x)
    radius = (u**2 + v**2).sqrt()
    ring = step(0.5 - radius, 0.0, 25) * step(radius, 0.17, 25)
    return mix(color(x, 0.12, 0.12, 0.14), posterize(saturate(blocks(x), 1.3), 7), ring)


def led_display(x: Tensor, mask: Tensor) -> Tensor:
    u, v = within_cell(x)
    lamp = torch.exp(-((u**2 + v**2) / 0.075))
    return (saturate(blocks(x), 1.6) * (0.08 + 1.15 * lamp)).clamp(0, 1)


def woven(x: Tensor, mask: Tensor) -> Tensor:
    px, py = coordinates_of(x)
    u, v = within_cell(x)
    across = ((torch.floor(px / 8) + torch.floor(py / 8)) % 2).bool()
    strand = torch.where(across, 1 - (2 * u.abs()) ** 3, 1 - (2 * v.abs()) ** 3)
    return (saturate(blocks(x), 1.1) * (0.35 + 0.75 * strand) * torch.where(across, 0.85, 1.1)).clamp(0, 1)


def embroidery(x: Tensor, mask: Tensor) -> Tensor:
    cloth = saturate(posterize(blur(x, 1.4), 5), 1.35)
    inside = step(blur(mask, 1.0), 0.5, 20)
    thread = mix(stripes(x, -math.pi / 4, 8.0), stripes(x, math.pi / 4, 8.0), inside) * 2
    return (cloth * (1.12 - 0.5 * thread**1.5) * (1 - 0.7 * outline(mask, 0.25))).clamp(0, 1)


def stone_relief(x: Tensor, mask: Tensor) -> Tensor:
    rise = relief(blur(luminance(x), 1.2)) * 1.9 + relief(blur(mask, 2.0)) * 0.7
    return (color(x, 0.56, 0.55, 0.52) + rise + (clouds(x.shape[0], x.shape[-1], x.device) - 0.5) * 0.12).clamp(0, 1)


def gold_relief(x: Tensor, mask: Tensor) -> Tensor:
    rise = relief(blur(luminance(x), 1.2)) * 1.7 + relief(blur(mask, 2.0)) * 0.6 + 0.2 * (luminance(x) - 0.5)
    return gradient_map((0.45 + rise).clamp(0, 1), [[0.15, 0.07, 0.0], [0.7, 0.48, 0.1], [1.0, 0.85, 0.4], [1.0, 1.0, 0.9]])


def clay(x: Tensor, mask: Tensor) -> Tensor:
    lump = saturate(kuwahara(blur(x, 1.0), 6), 1.15) * 0.85
    height = blur(luminance(lump), 2.4) + blur(mask, 4.0)
    light = relief(height, 4)
    return (lump * (1 - 0.2 * outline(mask, 0.3)) + light * 0.75 + (light - 0.14).clamp(min=0) * 2).clamp(0, 1)


def xray(x: Tensor, mask: Tensor) -> Tensor:
    glow = (1 - luminance(x)) * 0.5 + edges(x, 1.0) * 1.0 + 0.25 * blur(mask, 5.0)
    return gradient_map(glow.clamp(0, 1), [[0.0, 0.02, 0.06], [0.2, 0.4, 0.55], [0.85, 0.97, 1.0]])


def old_photograph(x: Tensor, mask: Tensor) -> Tensor:
    sepia = gradient_map(luminance(blur(x, 0.8)), [[0.16, 0.09, 0.04], [0.62, 0.45, 0.28], [1.0, 0.93, 0.78]])
    faded = sepia * (1.08 - 0.9 * from_middle(x))
    return mix(color(x, 0.97, 0.94, 0.86), faded, step(border(x), 9.5, 1.5)).clamp(0, 1)


def shrink_into(x: Tensor, left: int, top: int, side: int) -> Tensor:
    """The picture resized to side x side and set at (left, top) on black."""
    small = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    size = x.shape[-1]
    return F.pad(small, (left, size - left - side, top, size - top - side))


def polaroid(x: Tensor, mask: Tensor) -> Tensor:
    size = x.shape[-1]
    margin, side = size // 12, size * 19 // 24
    warm = (saturate(x, 0.85) * color(x, 1.0, 0.95, 0.82) + color(x, 0.06, 0.04, 0.05)).clamp(0, 1)
    left = (size - side) // 2
    inside = shrink_into(torch.ones_like(mask), left, margin // 2 + 4, side)
    return mix(color(x, 0.96, 0.96, 0.94), shrink_into(warm, left, margin // 2 + 4, side), inside)


def postage_stamp(x: Tensor, mask: Tensor) -> Tensor:
    size = x.shape[-1]
    px, py = coordinates_of(x)
    bite = ((px % 16 - 7.5) ** 2 + (py % 16 - 7.5) ** 2).sqrt()
    paper = step(border(x), 7.5, 4) * (1 - step(-bite, -5.0, 2) * step(-border(x), -14.0, 4))
    tone = gradient_map(luminance(blur(x, 0.8)), [[0.3, 0.04, 0.12], [0.78, 0.3, 0.34], [1.0, 0.93, 0.88]])
    side = size - 48
    inside = shrink_into(torch.ones_like(mask), 24, 24, side)
    stamp = mix(color(x, 0.99, 0.97, 0.92), shrink_into(tone, 24, 24, side), inside)
    return mix(color(x, 0.13, 0.16, 0.2), stamp, paper)


def old_television(x: Tensor, mask: Tensor) -> Tensor:
    _, py = coordinates_of(x)
    line = 0.62 + 0.5 * (0.5 + 0.5 * torch.cos(py * (2 * math.pi / 8)))
    bulge = from_middle(x)
    px, _ = coordinates_of(x)
    size = x.shape[-1]
    curved = warp(x, (px - size / 2) * bulge * 0.35, (py - size / 2) * bulge * 0.35)
    corner = ((px / size - 0.5).abs() ** 6 + (py / size - 0.5).abs() ** 6) ** (1 / 6)
    return (saturate(curved, 1.1) * color(x, 0.8, 1.0, 0.9) * line * step(-corner, -0.465, 60)).clamp(0, 1)


def night_vision(x: Tensor, mask: Tensor) -> Tensor:
    green = gradient_map((luminance(x) * 1.15).clamp(0, 1), [[0.0, 0.06, 0.0], [0.1, 0.6, 0.1], [0.75, 1.0, 0.65]])
    px, py = coordinates_of(x)
    middle = x.shape[-1] / 2
    cross = (((px - middle).abs() < 1.5) | ((py - middle).abs() < 1.5)).float() * 0.35
    return ((green + cross * color(x, 0.2, 1.0, 0.2)) * step(-from_middle(x).sqrt(), -0.49, 40)).clamp(0, 1)


def rippled_water(x: Tensor, mask: Tensor) -> Tensor:
    px, py = coordinates_of(x)
    phase = py * (2 * math.pi / 32) + 0.5 * torch.sin(px * (2 * math.pi / 96))
    moved = warp(blur(x, 0.8), 7 * torch.sin(phase), torch.zeros_like(py))
    return (mix(moved, color(x, 0.1, 0.45, 0.7), 0.25) + 0.16 * torch.cos(phase)).clamp(0, 1)


def cracked_fresco(x: Tensor, mask: Tensor) -> Tensor:
    _, gap = voronoi(x[:, :1], 27, 9)
    faded = mix(saturate(blur(x, 1.2), 0.7) * color(x, 1.0, 0.93, 0.8), color(x, 0.88, 0.78, 0.62), 0.3)
    return mix(color(x, 0.22, 0.15, 0.1), faded, step(gap, 1.7, 3))


PERFORATION = 16  # pixels between the sprocket holes of a film strip


def frame_of_holes(x: Tensor, height: int) -> Tensor:
    """1 inside the sprocket holes along the upper and lower side of a film."""
    px, py = coordinates_of(x)
    size = x.shape[-1]
    row = torch.minimum(py, size - 1 - py)
    return ((px % PERFORATION - 7.5).abs() < 4).float() * ((row - height / 2 + 0.5).abs() < height / 4 + 1).float()


def hologram(x: Tensor, mask: Tensor) -> Tensor:
    _, py = coordinates_of(x)
    glow = luminance(blur(x, 1.0)) * 0.55 + edges(x, 1.2) * 1.2 + 0.1
    line = 0.55 + 0.6 * (0.5 + 0.5 * torch.cos(py * (2 * math.pi / 8)))
    return gradient_map((glow * line).clamp(0, 1), [[0.0, 0.0, 0.08], [0.05, 0.45, 0.85], [0.3, 0.95, 1.0], [0.95, 1.0, 1.0]])
