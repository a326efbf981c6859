"""Sixteen places, told apart by structure and not by colour, so that they can be named in a line drawing too."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import clouds, color, coordinates, mix, step

PHRASES: dict[str, tuple[str, ...]] = {
    "grass": ("on the grass", "in a meadow", "on a lawn"),
    "beach": ("on the beach", "at the seaside", "on the sand by the sea"),
    "snow": ("in the snow", "on a snowy day", "while it is snowing"),
    "night": ("in the night sky", "at night under the stars", "in a starry night"),
    "brick wall": ("in front of a brick wall", "by a brick wall", "against a wall of bricks"),
    "sea": ("in the sea", "on the waves", "in the water"),
    "desert": ("in the desert", "among sand dunes", "in the dunes"),
    "forest": ("in the forest", "in the woods", "among the trees"),
    "room": ("in a room", "indoors", "at home in a room"),
    "table": ("on a wooden table", "on a table", "on wooden planks"),
    "road": ("on a road", "on the street", "on a highway"),
    "mountains": ("in the mountains", "in front of mountains", "before snowy peaks"),
    "city": ("in the city", "in front of a skyline", "downtown"),
    "flowers": ("among flowers", "in a field of flowers", "in a flower bed"),
    "polka dots": ("on polka dots", "on a dotted background", "on a polka dot background"),
    "plain": ("on a plain background", "on an empty background", "on a simple background"),
}
NAMES = tuple(PHRASES)


class Scene:
    """What the painters of one batch share: coordinates, a random height and phase per picture, a bright sky."""

    def __init__(self, n: int, size: int, device: torch.device) -> None:
        self.n, self.size, self.device = n, size, device
        self.px, self.py = coordinates(size, device)
        self.x, self.y = self.px / size, self.py / size
        self.height, self.phase = (torch.rand(n, 1, 1, 1, device=device) for _ in range(2))
        self.horizon = 0.4 + 0.2 * self.height
        self.zero = torch.zeros(n, 3, size, size, device=device)

    def color(self, red: float, green: float, blue: float) -> Tensor:
        return color(self.zero, red, green, blue)

    def gradient(self, top: tuple[float, float, float], bottom: tuple[float, float, float]) -> Tensor:
        return mix(self.color(*top), self.color(*bottom), self.y) + self.zero

    def sky(self) -> Tensor:
        return self.gradient((0.4, 0.66, 0.95), (0.82, 0.92, 1.0))

    def clouds(self) -> Tensor:
        return clouds(self.n, self.size, self.device)

    def below(self, line: Tensor) -> Tensor:
        """1 where the pixel lies under the line (heights in 0..1), with a soft edge of about two pixels."""
        return step(self.y, line, float(self.size))

    def random(self, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, device=self.device)

    def dots(self, cells: int, share: float, radius: float) -> Tensor:
        """Round dots at random places: `share` of a cells x cells grid has one; radius in cells."""
        cell = self.size / cells
        shift = 0.5 + (self.random(2, cells, cells) - 0.5) * (1 - 2 * radius)
        present = (self.random(1, cells, cells) < share).float()
        big = F.interpolate(torch.cat([shift, present], 1), size=(self.size, self.size), mode="nearest")
        u, v = self.px % cell / cell - big[:, :1], self.py % cell / cell - big[:, 1:2]
        return big[:, 2:] * step(-(u**2 + v**2).sqrt(), -radius, 2.5 * cell)


def grass(s: Scene) -> Tensor:
    row = torch.floor(s.py / 24)
    across = ((s.px + row * 8 + s.phase * 16) % 16 / 16 - 0.5).abs() * 2
    blade = step((s.py % 24) / 24, across, 12)
    field = mix(s.color(0.2, 0.5, 0.12), s.color(0.45, 0.75, 0.25), blade) + (s.clouds() - 0.5) * 0.15
    return mix(s.sky(), field, s.below(s.horizon + 0.02 * (1 - across)))


def beach(s: Scene) -> Tensor:
    shore = s.horizon + 0.17 + 0.03 * torch.sin(s.x * 9 + s.phase * 6.3)
    sea = mix(
        s.gradient((0.05, 0.4, 0.65), (0.15, 0.6, 0.8)),
        s.color(1, 1, 1),
        step(torch.sin(s.py * 0.7 + 2 * torch.sin(s.px * 0.08)), 0.85, 8) * 0.6,
    )
    sand = mix(s.color(0.95, 0.85, 0.6), s.color(0.72, 0.58, 0.36), s.dots(24, 0.35, 0.2))
    foam = step(-(s.y - shore).abs(), -0.015, 200)
    return mix(mix(mix(s.sky(), sea, s.below(s.horizon)), sand, s.below(shore)), s.color(1, 1, 1), foam)


def snow(s: Scene) -> Tensor:
    hill = s.horizon + 0.06 * torch.sin(s.x * 5 + s.phase * 6.3)
    ground = s.color(0.93, 0.96, 1.0) - step(s.y, hill + 0.2, 10) * s.color(0.1, 0.06, 0.02)
    scene = mix(s.gradient((0.36, 0.45, 0.6), (0.58, 0.66, 0.78)), ground, s.below(hill))
    return mix(scene, s.color(1, 1, 1), s.dots(12, 0.6, 0.19))


def night(s: Scene) -> Tensor:
    dark = s.gradient((0.02, 0.03, 0.14), (0.14, 0.1, 0.34)) + (s.clouds() - 0.5).clamp(min=0) * s.color(0.3, 0.1, 0.5)
    stars = torch.maximum(s.dots(12, 0.45, 0.12), s.dots(6, 0.2, 0.1))
    return mix(dark, s.color(1.0, 0.96, 0.75), stars)


def brick_wall(s: Scene) -> Tensor:
    row = torch.floor(s.py / 16)
    column_place = s.px + row % 2 * 16
    mortar = ((s.py % 16 < 2.5) | (column_place % 32 < 2.5)).float()
    tone = F.interpolate(s.random(1, s.size // 16, s.size // 32), size=(s.size, s.size), mode="nearest")
    return mix(s.color(0.66, 0.28, 0.2) * (0.8 + 0.35 * tone), s.color(0.85, 0.81, 0.75), mortar)


def sea(s: Scene) -> Tensor:
    wave = torch.sin(s.py * (6.2832 / 24) + 1.6 * torch.sin(s.px * (6.2832 / 64) + s.phase * 6.3) + s.height * 6)
    return mix(s.gradient((0.04, 0.3, 0.56), (0.12, 0.52, 0.72)), s.color(0.8, 0.95, 1.0), step(wave, 0.7, 12) * 0.85)


def desert(s: Scene) -> Tensor:
    far, near = s.horizon + 0.08 * torch.sin(s.x * 5 + s.phase * 6.3), s.horizon + 0.26 + 0.08 * torch.sin(s.x * 4 + s.height * 9)
    sun = step(-((s.x - 0.15 - 0.7 * s.phase) ** 2 + (s.y - 0.14) ** 2).sqrt(), -0.09, 150)
    scene = mix(s.gradient((0.95, 0.65, 0.36), (1.0, 0.9, 0.68)), s.color(1, 0.97, 0.8), sun)
    scene = mix(scene, s.color(0.88, 0.6, 0.28), s.below(far))
    return mix(scene, s.color(0.68, 0.4, 0.16), s.below(near))


def forest(s: Scene) -> Tensor:
    trunk = step(torch.sin(s.px * 0.19 + s.phase * 6.3) + 0.6 * torch.sin(s.px * 0.47 + s.height * 9), 0.75, 12)
    leaves = s.color(0.14, 0.42, 0.18) * (0.55 + 0.9 * s.clouds())
    scene = mix(leaves, s.color(0.3, 0.19, 0.1), trunk)
    crown = s.dots(8, 0.9, 0.4) * (1 - s.below(0.22 + 0.05 * s.height))
    scene = mix(scene, s.color(0.3, 0.62, 0.24), crown * 0.9)
    return mix(scene, s.color(0.34, 0.28, 0.12), s.below(0.8 + 0.05 * s.height))


def room(s: Scene) -> Tensor:
    floor_line = 0.62 + 0.12 * s.height
    paper = s.color(0.86, 0.76, 0.62) - (s.px % 24 < 5).float() * 0.12
    left = 0.1 + 0.6 * s.phase
    inside = ((s.x > left) & (s.x < left + 0.24) & (s.y > 0.08) & (s.y < 0.36)).float()
    bars = (((s.x - left - 0.12).abs() < 0.01) | ((s.y - 0.22).abs() < 0.01)).float()
    wall = mix(paper + s.zero, mix(s.color(0.6, 0.85, 1.0), s.color(1, 1, 1), bars), inside)
    board = (((s.px - s.size / 2) / (s.y + 0.3)) % 28 < 2.5).float()
    floor = s.color(0.5, 0.32, 0.18) * (1 - 0.4 * board)
    return mix(mix(wall, floor, s.below(floor_line)), s.color(0.98, 0.97, 0.95), step(-(s.y - floor_line).abs(), -0.018, 250))


def table(s: Scene) -> Tensor:
    grain = F.interpolate(s.random(1, 24, 5), size=(s.size, s.size), mode="bilinear", align_corners=False)
    seam = (s.py % 32 < 2.5).float()
    return s.color(0.66, 0.43, 0.24) * (0.78 + 0.4 * grain) * (1 - 0.55 * seam) + s.zero


def road(s: Scene) -> Tensor:
    width = (s.y - s.horizon + 0.1).clamp(min=0.02)
    across = (s.x - 0.5).abs() / width
    asphalt = mix(s.color(0.34, 0.34, 0.37) + s.zero, s.color(1, 1, 0.9), ((across < 0.06) & (s.py % 32 < 18)).float())
    lane = mix(asphalt, s.color(1, 1, 0.9), step(-(across - 0.72).abs(), -0.05, 60))
    ground = mix(s.color(0.42, 0.58, 0.26) + s.zero, lane, step(-across, -0.8, 40))
    return mix(s.sky(), ground, s.below(s.horizon))


def mountains(s: Scene) -> Tensor:
    fold = ((s.x * 2.2 + s.phase) % 1 - 0.5).abs() * 2
    ridge = 0.14 + 0.14 * s.height + 0.42 * fold
    rock = mix(s.color(0.36, 0.38, 0.48), s.color(0.52, 0.54, 0.62), step((s.x * 2.2 + s.phase) % 1, 0.5, 60))
    rock = mix(rock + s.zero, s.color(0.97, 0.98, 1.0), step(-(s.y + 0.02 * torch.sin(s.px * 0.5)), -(0.3 + 0.14 * s.height), 120))
    return mix(mix(s.sky(), rock, s.below(ridge)), s.color(0.3, 0.52, 0.25), s.below(0.72 + 0.08 * s.height))


def city(s: Scene) -> Tensor:
    roof = F.interpolate(0.12 + 0.45 * s.random(1, 1, 8), size=(s.size, s.size), mode="nearest")
    tone = F.interpolate(s.random(1, 1, 8), size=(s.size, s.size), mode="nearest")
    pane = ((s.px % 12 > 4) & (s.py % 16 > 7) & (s.px % 24 > 3)).float()
    house = mix(s.color(0.26, 0.3, 0.4) * (0.8 + 0.7 * tone), s.color(1.0, 0.88, 0.5), pane)
    scene = mix(s.gradient((0.6, 0.7, 0.88), (0.97, 0.82, 0.72)), house, (s.y > roof).float())
    return mix(scene, s.color(0.3, 0.3, 0.32), s.below(0.86 + 0 * s.height))


def flowers(s: Scene) -> Tensor:
    field = s.color(0.2, 0.5, 0.2) * (0.8 + 0.4 * s.clouds())
    petals = s.dots(8, 0.85, 0.34)
    tint = F.interpolate(0.55 + 0.45 * s.random(3, 8, 8), size=(s.size, s.size), mode="nearest") * s.color(1.0, 0.65, 0.95)
    heart = blossom_hearts(petals)
    return mix(mix(field, tint, petals), s.color(0.98, 0.8, 0.1), heart)


def blossom_hearts(petals: Tensor) -> Tensor:
    """The middle of every flower: what is left of the petals once 5 pixels are taken off all round."""
    return 1 - F.max_pool2d(1 - petals, 11, 1, 5)


def polka_dots(s: Scene) -> Tensor:
    dark, light = 0.15 + 0.5 * s.random(3, 1, 1), 0.82 + 0.18 * s.random(3, 1, 1)
    row = torch.floor(s.py / 24)
    u, v = (s.px + row % 2 * 12) % 24 - 11.5, s.py % 24 - 11.5
    return mix(dark, light, step(-(u**2 + v**2).sqrt(), -6.0, 1.5)) + s.zero


def plain(s: Scene) -> Tensor:
    tint = 0.6 + 0.4 * s.random(3, 1, 1)
    return tint * (1 - 0.15 * ((s.x - 0.5) ** 2 + (s.y - 0.5) ** 2)) + s.zero


PAINTERS: dict[str, Callable[[Scene], Tensor]] = {
    "grass": grass,
    "beach": beach,
    "snow": snow,
    "night": night,
    "brick wall": brick_wall,
    "sea": sea,
    "desert": desert,
    "forest": forest,
    "room": room,
    "table": table,
    "road": road,
    "mountains": mountains,
    "city": city,
    "flowers": flowers,
    "polka dots": polka_dots,
    "plain": plain,
}


def paint_background(index: int, n: int, size: int, device: torch.device) -> Tensor:
    """n pictures of background `index`, float32 (n, 3, size, size) in 0..1, with a slight random tint."""
    tint = (torch.rand(n, 3, 1, 1, device=device) - 0.5) * 0.1
    return (PAINTERS[NAMES[index]](Scene(n, size, device)) + tint).clamp(0, 1)
