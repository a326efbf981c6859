"""Judges: classifiers of content, style and background, trained on rendered pictures only and stricter on style than the eye is on mush.

Two architectures, both small. The first gives the autoencoder its feature loss and measures the base model; the second is never used in any
training and is the judge of customization. Either knows all contents and styles, the held-out ones too, and has one more style class,
UNCLEAR, on which it is trained with blurred pictures: a style that has lost its texture does not count.
"""

import dataclasses
import pathlib

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import backgrounds, styles
from .contents import FOLDER, load_contents

UNCLEAR = len(styles.NAMES)  # class index of "no style to be made out"
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
    """Pictures (N, 3, S, S) in 0..1 -> logits of content, style (last class UNCLEAR) and background."""

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

    def embed(self, pictures: Tensor) -> Tensor:
        """(N, 2 width): what the heads see; for similarities between pictures."""
        last = self.features(pictures, len(self.stages))[-1]
        return torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        content, style, background = self.head(self.embed(pictures)).split(HEADS, 1)
        return content, style, background


def residual_judge() -> Judge:
    widths = (32, 48, 96, 144, 176)
    stem = nn.Sequential(normed_conv(3, widths[0], 5, 2), nn.ReLU())
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    return Judge([stem, *(nn.Sequential(Residual(a, b, 2), Residual(b, b, 1)) for a, b in pairs)], widths[-1])


def pooling_judge() -> Judge:
    """No skips: pairs of convolutions between max poolings, as in VGG."""
    widths = (3, 24, 48, 80, 112, 144, 160)

    def stage(a: int, b: int) -> nn.Module:
        return nn.Sequential(normed_conv(a, b), nn.ReLU(), normed_conv(b, b), nn.ReLU(), nn.MaxPool2d(2))

    return Judge([stage(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)], widths[-1])


KINDS = {"first": residual_judge, "second": pooling_judge}


def save_judge(judge: Judge, path: pathlib.Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in judge.state_dict().items() if "num_batches" not in key
    }
    save_file({key: value.contiguous().cpu() for key, value in state.items()}, path)


def load_judge(kind: str, folder: pathlib.Path = FOLDER / "judges") -> Judge:
    """The judge "first" or "second", float32, in evaluation mode."""
    judge = KINDS[kind]()
    with safe_open(folder / f"{kind}.safetensors", "pt") as file:
        judge.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()}, strict=False)
    return judge.eval()


@dataclasses.dataclass
class Verdict:
    """What a judge says, all on the CPU: predicted indices (N,) and whether the content is among its five best (needs the truth)."""

    content: Tensor
    style: Tensor
    background: Tensor
    best_five: Tensor

    def shares(self, truth: Tensor) -> dict[str, float]:
        """Shares of right answers; truth (N, 3) holds content, style, background."""
        right = {"content": self.content == truth[:, 0], "style": self.style == truth[:, 1], "background": self.background == truth[:, 2]}
        right["content and style"] = right["content"] & right["style"]
        right["all three"] = right["content and style"] & right["background"]
        right["content in best five"] = (self.best_five == truth[:, :1]).any(1)
        return {name: round(value.float().mean().item(), 4) for name, value in right.items()}


@torch.no_grad()
def ask(judge: Judge, pictures: Tensor, batch: int = 512) -> Verdict:
    """Judge pictures (N, 3, S, S), float32 in 0..1 or uint8, wherever they are."""
    device = next(judge.parameters()).device
    parts = []
    for some in pictures.split(batch):
        content, style, background = judge(as_float(some.to(device)))
        parts.append((content.argmax(1), style.argmax(1), background.argmax(1), content.topk(5, 1)[1]))
    return Verdict(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def as_float(pictures: Tensor) -> Tensor:
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures


def spoil(pictures: Tensor) -> Tensor:
    """Take the texture away: a copy shrunk six- to twelvefold and enlarged again, mixed in at 70 to 100 %."""
    n, size = len(pictures), pictures.shape[-1]
    small = F.interpolate(
        pictures, size=size // 9 - 5 + int(torch.randint(11, ()).item()), mode="bilinear", antialias=True, align_corners=False
    )
    big = F.interpolate(small, size=size, mode="bicubic", align_corners=False).clamp(0, 1)
    return pictures + (big - pictures) * (0.7 + 0.3 * torch.rand(n, 1, 1, 1, device=pictures.device))


def loss_of(judge: Judge, pictures: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of all heads; the first eighth of the batch is spoilt and must be called UNCLEAR. truth: (N, 3) int64."""
    spoilt = len(pictures) // 8
    gain, shift = (
        (1 + 0.1 * torch.randn(len(pictures), 1, 1, 1, device=pictures.device)),
        0.03 * torch.randn(len(pictures), 1, 1, 1, device=pictures.device),
    )
    shown = torch.cat([spoil(pictures[:spoilt]), pictures[spoilt:]]) if spoilt else pictures
    style_truth = truth[:, 1].clone()
    style_truth[:spoilt] = UNCLEAR
    content, style, background = judge((shown * gain + shift).clamp(0, 1).contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(style.float(), style_truth) + F.cross_entropy(content[spoilt:].float(), truth[spoilt:, 0])
    return loss + 0.5 * F.cross_entropy(background[spoilt:].float(), truth[spoilt:, 2])
