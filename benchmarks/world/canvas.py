"""Small image operations on batches, all on the device of their input: pictures (N, 3, S, S) and planes (N, 1, S, S), float32 in 0..1."""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8  # pixels per latent: patterns with this period are what an eightfold autoencoder carries best


@functools.cache
def coordinates(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y of every pixel, each (1, 1, S, S), in pixels."""
    y, x = torch.meshgrid(
        torch.arange(size, device=device, dtype=torch.float32), torch.arange(size, device=device, dtype=torch.float32), indexing="ij"
    )
    return x[None, None], y[None, None]


def coordinates_of(picture: Tensor) -> tuple[Tensor, Tensor]:
    return coordinates(picture.shape[-1], picture.device)


@functools.cache
def _gaussian(sigma: float, device: torch.device) -> Tensor:
    reach = max(1, round(2.5 * sigma))
    t = torch.arange(-reach, reach + 1, device=device, dtype=torch.float32)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def blur(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; wide ones run at half the size, where they cost a quarter."""
    if sigma > 2.5:
        half = blur(F.avg_pool2d(picture, 2), sigma / 2)
        return F.interpolate(half, size=picture.shape[-1], mode="bilinear", align_corners=False)
    n, c, h, w = picture.shape
    kernel = _gaussian(sigma, picture.device)
    reach = len(kernel) // 2
    planes = F.pad(picture.reshape(1, n * c, h, w), (reach,) * 4, mode="replicate")
    across, down = (kernel.view(shape).expand(n * c, *shape[1:]).contiguous() for shape in ((1, 1, 1, -1), (1, 1, -1, 1)))
    planes = F.conv2d(F.conv2d(planes, across, groups=n * c), down, groups=n * c)  # depthwise: no algorithm search for every new batch size
    return planes.view(n, c, h, w)


def luminance(picture: Tensor) -> Tensor:
    return 0.299 * picture[:, :1] + 0.587 * picture[:, 1:2] + 0.114 * picture[:, 2:3]


def color(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    return like.new_tensor((red, green, blue)).view(1, 3, 1, 1)


def mix(a: Tensor | float, b: Tensor | float, share_of_b: Tensor | float) -> Tensor:
    return a + (b - a) * share_of_b  # type: ignore[return-value]


def saturate(picture: Tensor, factor: float) -> Tensor:
    gray = luminance(picture)
    return mix(gray, picture, factor).clamp(0, 1)


def step(value: Tensor, threshold: float | Tensor, sharpness: float = 25.0) -> Tensor:
    """A soft threshold: 0 below, 1 above."""
    return torch.sigmoid((value - threshold) * sharpness)


def posterize(picture: Tensor, levels: int) -> Tensor:
    return (picture * (levels - 1)).round() / (levels - 1)


def stretch(plane: Tensor) -> Tensor:
    """Each plane to the full range 0..1."""
    low, high = plane.flatten(1).amin(1).view(-1, 1, 1, 1), plane.flatten(1).amax(1).view(-1, 1, 1, 1)
    return (plane - low) / (high - low + 1e-3)


def gradient_map(plane: Tensor, colors: Sequence[Sequence[float]]) -> Tensor:
    """Colour a plane by its value: 0 is the first colour, 1 the last, linear between."""
    table = plane.new_tensor(colors)
    place = plane[:, 0].clamp(0, 1) * (len(colors) - 1)
    low = place.floor().clamp(max=len(colors) - 2).long()
    return mix(table[low], table[low + 1], (place - low)[..., None]).permute(0, 3, 1, 2)


def edges(picture: Tensor, sigma: float = 1.0) -> Tensor:
    """Strength of the strongest colour channel's gradient, (N, 1, S, S)."""
    soft = F.pad(blur(picture, sigma), (1, 1, 1, 1), mode="replicate")
    across, along = soft[..., 1:-1, 2:] - soft[..., 1:-1, :-2], soft[..., 2:, 1:-1] - soft[..., :-2, 1:-1]
    return (across**2 + along**2).amax(1, keepdim=True).sqrt()


def blocks(picture: Tensor, cell: int = CELL) -> Tensor:
    """Every cell x cell square filled with its mean; the last ones are cut where the size is no multiple."""
    size = picture.shape[-1]
    return F.interpolate(F.avg_pool2d(picture, cell, ceil_mode=True), scale_factor=cell, mode="nearest")[..., :size, :size]


def within_cell(picture: Tensor, cell: int = CELL) -> tuple[Tensor, Tensor]:
    """Place inside one's cell, each coordinate in -0.5..0.5, (1, 1, S, S)."""
    x, y = coordinates_of(picture)
    return (x % cell + 0.5) / cell - 0.5, (y % cell + 0.5) / cell - 0.5


def grid_lines(picture: Tensor, cell: int, width: float) -> Tensor:
    """1 on the lines between cells, 0 elsewhere."""
    x, y = coordinates_of(picture)
    return ((x % cell < width) | (y % cell < width)).float()


def stripes(picture: Tensor, angle: float, period: float) -> Tensor:
    """A triangle wave across the direction `angle` (radians): 0 in the middle of a stripe, 0.5 between stripes."""
    x, y = coordinates_of(picture)
    return ((x * math.cos(angle) + y * math.sin(angle)) % period / period - 0.5).abs()


def smooth_noise(n: int, cells: int, size: int, device: torch.device, cells_across: int | None = None) -> Tensor:
    coarse = torch.rand(n, 1, cells, cells_across or cells, device=device)
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)


def clouds(n: int, size: int, device: torch.device) -> Tensor:
    """Noise at several scales, mean 0.5."""
    return sum(weight * smooth_noise(n, cells, size, device) for cells, weight in ((4, 0.45), (8, 0.35), (16, 0.2)))  # type: ignore[return-value]


def warp(picture: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Each pixel taken from (x + dx, y + dy), mirrored at the border."""
    size = picture.shape[-1]
    x, y = coordinates_of(picture)
    x, y = torch.broadcast_tensors(x + dx, y + dy)
    grid = torch.stack([(x[:, 0] + 0.5) / size * 2 - 1, (y[:, 0] + 0.5) / size * 2 - 1], -1)
    return F.grid_sample(picture, grid.expand(picture.shape[0], -1, -1, -1), padding_mode="reflection", align_corners=False)


def relief(plane: Tensor, distance: int = 3) -> Tensor:
    """How much a plane rises towards the lower right: light from the upper left."""
    return plane - torch.roll(plane, (distance, distance), (2, 3))


def border(picture: Tensor) -> Tensor:
    """Distance in pixels to the nearest side of the picture, (1, 1, S, S)."""
    x, y = coordinates_of(picture)
    size = picture.shape[-1]
    return torch.minimum(torch.minimum(x, size - 1 - x), torch.minimum(y, size - 1 - y))


def from_middle(picture: Tensor) -> Tensor:
    """Squared distance from the middle in units of the side, (1, 1, S, S): 0 there, 0.5 in the corners."""
    x, y = coordinates_of(picture)
    size = picture.shape[-1]
    return (x / size - 0.5) ** 2 + (y / size - 0.5) ** 2


@functools.cache
def _voronoi(spacing: int, size: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    cells = size // spacing
    jitter = torch.rand(cells, cells, 2, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1
    corners = torch.stack(torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij"), -1)
    points = ((corners + jitter) * spacing).view(-1, 2)
    pixels = torch.stack(torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij"), -1).view(-1, 2)
    distance, index = torch.cdist(pixels, points).topk(2, largest=False)
    return index[:, 0].to(device), (distance[:, 1] - distance[:, 0]).view(1, 1, size, size).to(device), len(points)


def voronoi(picture: Tensor, spacing: int, seed: int) -> tuple[Tensor, Tensor]:
    """A fixed Voronoi pattern: the picture with every cell filled by its mean, and each pixel's distance from its cell's edge in pixels."""
    n, channels, size, _ = picture.shape
    index, edge, count = _voronoi(spacing, size, seed, picture.device)
    return region_means(picture, index, count), edge


def region_means(picture: Tensor, index: Tensor, count: int) -> Tensor:
    """Fill region k, the pixels where index (S * S,) is k, with its mean."""
    flat = picture.flatten(2)
    total = flat.new_zeros(*flat.shape[:2], count).index_add_(2, index, flat)
    area = flat.new_zeros(count).index_add_(0, index, torch.ones_like(index, dtype=flat.dtype)).clamp(min=1)
    return (total / area)[:, :, index].view_as(picture)
