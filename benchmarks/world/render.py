"""Pictures of the world from labels: a background, one or two sprites with shadow and light, then the style."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import styles
from .backgrounds import paint_background
from .canvas import blur, coordinates_of, from_middle

NOBODY = -1  # as `second`: a picture with one object


@dataclasses.dataclass(frozen=True)
class Labels:
    """What one picture shows: indices into contents, styles.NAMES and backgrounds.NAMES."""

    content: int
    style: int
    background: int
    second: int = NOBODY


def uniform(n: int, low: float, high: float, device: torch.device) -> Tensor:
    return torch.rand(n, device=device) * (high - low) + low


def place(sprites: Tensor, size: int, scale: Tensor, x: Tensor, y: Tensor, angle: Tensor, flip: Tensor) -> Tensor:
    """Sprites (n, 4, ...) scaled, tilted, mirrored and moved onto an empty size x size picture; x, y in -1..1 are the object's middle."""
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    first = torch.stack([cos * flip, sin * flip, -(cos * x + sin * y) * flip], -1)
    second = torch.stack([-sin, cos, sin * x - cos * y], -1)
    grid = F.affine_grid(torch.stack([first, second], 1), [len(sprites), 4, size, size], align_corners=False)
    return F.grid_sample(sprites, grid, align_corners=False)


def one_object(sprites: Tensor, size: int) -> Tensor:
    n, device = len(sprites), sprites.device
    scale = uniform(n, 0.7, 0.98, device)
    room = 1 - scale * 0.85
    flip = torch.where(uniform(n, 0, 1, device) < 0.5, 1.0, -1.0)
    x, y = uniform(n, -1, 1, device) * room, uniform(n, -0.6, 1, device) * room
    return place(sprites, size, scale, x, y, uniform(n, -0.17, 0.17, device), flip)


def two_objects(sprites: Tensor, others: Tensor, size: int) -> Tensor:
    n, device = len(sprites), sprites.device
    flip = torch.where(uniform(n, 0, 1, device) < 0.5, 1.0, -1.0)
    y = uniform(n, -0.3, 0.4, device)
    tilt = uniform(n, -0.15, 0.15, device)
    left = place(sprites, size, uniform(n, 0.5, 0.58, device), uniform(n, -0.5, -0.44, device), y, tilt, flip)
    right = place(others, size, uniform(n, 0.5, 0.58, device), uniform(n, 0.44, 0.5, device), y + uniform(n, -0.1, 0.1, device), tilt, flip)
    return left + right * (1 - left[:, 3:])


def compose(background: Tensor, objects: Tensor) -> Tensor:
    """Objects (premultiplied RGBA) over a background on which they throw a soft shadow."""
    alpha = objects[:, 3:]
    shadow = torch.roll(blur(alpha, 4.0), (6, 4), (2, 3))
    return background * (1 - 0.4 * shadow) * (1 - alpha) + objects[:, :3]


def photograph(picture: Tensor, alpha: Tensor) -> Tensor:
    """Side light, exposure, darker corners, and a lit and a shaded rim on the object."""
    n, device = len(picture), picture.device
    x, _ = coordinates_of(picture)
    side = uniform(n, -0.16, 0.16, device).view(-1, 1, 1, 1) * (x / picture.shape[-1] - 0.5) * 2
    exposure = uniform(n, 0.88, 1.06, device).view(-1, 1, 1, 1)
    lit = (alpha - torch.roll(blur(alpha, 3.0), (5, 5), (2, 3))).clamp(0, 1) * 0.22
    shaded = (alpha - torch.roll(blur(alpha, 4.5), (-6, -6), (2, 3))).clamp(0, 1) * 0.28
    return (picture * (1 + side) * exposure * (1 - 0.35 * from_middle(picture)) + (lit - shaded) * alpha).clamp(0, 1)


def positions(values: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for place_in_batch, value in enumerate(values):
        found[value].append(place_in_batch)
    return found


@torch.no_grad()
def render(sprites: Tensor, labels: Sequence[Labels], size: int) -> Tensor:
    """Pictures float32 (N, 3, size, size) in 0..1 on the device of `sprites` (contents, 4, 128, 128, premultiplied).

    Place, tilt, size, light and the background's details come from torch's default generator of that device.
    """
    return stylize(*scene(sprites, labels, size), [each.style for each in labels])


@torch.no_grad()
def scene(sprites: Tensor, labels: Sequence[Labels], size: int) -> tuple[Tensor, Tensor]:
    """The same before any style: pictures (N, 3, size, size) and where the objects are, (N, 1, size, size)."""
    device, n = sprites.device, len(labels)
    picture = torch.empty(n, 3, size, size, device=device)
    for index, where in positions([each.background for each in labels]).items():
        picture[torch.tensor(where, device=device)] = paint_background(index, len(where), size, device)
    objects = torch.empty(n, 4, size, size, device=device)
    pairs = positions([int(each.second != NOBODY) for each in labels])
    contents = torch.tensor([[each.content, max(each.second, 0)] for each in labels], device=device)
    for two, where in pairs.items():
        rows = torch.tensor(where, device=device)
        first = sprites[contents[rows, 0]]
        objects[rows] = two_objects(first, sprites[contents[rows, 1]], size) if two else one_object(first, size)
    return compose(picture, objects), objects[:, 3:]


@torch.no_grad()
def stylize(picture: Tensor, alpha: Tensor, style_of: Sequence[int]) -> Tensor:
    """Every picture in its style, in place."""
    for index, where in positions(style_of).items():
        rows = torch.tensor(where, device=picture.device)
        style = styles.STYLES[styles.NAMES[index]]
        picture[rows] = photograph(picture[rows], alpha[rows]) if style is None else style(picture[rows], alpha[rows]).clamp(0, 1)
    return picture
