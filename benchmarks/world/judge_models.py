"""The judges' architectures: two that see in different ways, so that a picture which fools one has no reason to fool the other.

The first looks with convolutions and skips at ever larger patches; the second compares all places of a picture by attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import backgrounds, styles
from .contents import load_contents

UNCLEAR = len(styles.NAMES)  # class index of "not one picture in one style": blurred, pasted or doubled
IGNORED = -100  # as a truth: nothing is asked of this head
HEADS = (len(load_contents()), len(styles.NAMES) + 1, len(backgrounds.NAMES))


def normed_conv(inside: int, outside: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, side, stride, side // 2, bias=False), nn.BatchNorm2d(outside))


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = normed_conv(inside, outside, 3, stride), normed_conv(outside, outside)
        self.skip = nn.Identity() if stride == 1 and inside == outside else normed_conv(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class Judge(nn.Module):
    """Pictures (N, 3, S, S) in 0..1, S a multiple of 16 -> logits of content, style (last class UNCLEAR) and background."""


class ConvolutionalJudge(Judge):
    """Stages of convolutions; every head reads the last stage's mean and maximum over the picture."""

    def __init__(self, stages: list[nn.Module], width: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(2 * width, sum(HEADS))

    def features(self, pictures: Tensor, depth: int) -> list[Tensor]:
        x, found = pictures * 4 - 2, []
        for stage in self.stages[:depth]:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = self.features(pictures, len(self.stages))[-1]
        content, style, background = self.head(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)).split(HEADS, 1)
        return content, style, background


def residual_judge() -> ConvolutionalJudge:
    widths = (32, 48, 96, 144, 176)
    stem = nn.Sequential(normed_conv(3, widths[0], 5, 2), nn.ReLU())
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    return ConvolutionalJudge([stem, *(nn.Sequential(Residual(a, b, 2), Residual(b, b, 1)) for a, b in pairs)], widths[-1])


class Attention(nn.Module):
    """A pre-norm transformer block over (N, tokens, width)."""

    def __init__(self, width: int, head_width: int = 32) -> None:
        super().__init__()
        self.head_width = head_width
        self.before_mixing, self.before_thinking = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.head_width)).transpose(1, 2) for part in self.projections(self.before_mixing(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.before_thinking(x))))


class AttendingJudge(Judge):
    """Patches of 4 x 4 pixels, four convolutions without skips to one token for 16 x 16 pixels, then attention (Xiao 2021).

    Each head has a token of its own that looks at the picture's tokens, and reads the picture nowhere else.
    """

    def __init__(self, width: int = 160, blocks: int = 4, grid: int = 12) -> None:
        super().__init__()
        widths = ((48, 80, 1), (80, 128, 2), (128, 128, 1), (128, width, 2))
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), *(nn.Sequential(normed_conv(a, b, 3, s), nn.ReLU()) for a, b, s in widths))
        self.places = nn.Parameter(0.02 * torch.randn(1, width, grid, grid))
        self.askers = nn.Parameter(0.02 * torch.randn(1, len(HEADS), width))
        self.blocks = nn.ModuleList(Attention(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for classes in HEADS)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches = self.stem(pictures * 4 - 2)
        places: Tensor = self.places
        if patches.shape[-2:] != places.shape[-2:]:
            places = F.interpolate(places, size=patches.shape[-2:], mode="bilinear", align_corners=False)
        x = torch.cat([self.askers.expand(len(patches), -1, -1), (patches + places).flatten(2).transpose(1, 2)], 1)
        for block in self.blocks:
            x = block(x)
        answers = self.norm(x[:, : len(HEADS)])
        content, style, background = (head(answer) for head, answer in zip(self.heads, answers.unbind(1), strict=True))
        return content, style, background
