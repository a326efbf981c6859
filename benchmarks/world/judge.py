"""Judges: classifiers of content, style and background, trained on rendered pictures only and stricter than the eye is on mush.

Two architectures (judge_models.py), both small. The first gives the autoencoder its feature loss and measures the base model; the
second is never used in any training or tuning and is the witness of customization. Either knows all contents and styles, the held-out
ones too, and has one more style class, UNCLEAR, on which it is trained with blurred pictures: a style that has lost its texture does not
count. The second is trained with pasted and doubled pictures too (refused.py): a cheat is not right in content AND style AND background.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .contents import FOLDER
from .judge_models import UNCLEAR, AttendingJudge, Judge, residual_judge

KINDS: dict[str, Callable[[], Judge]] = {"first": residual_judge, "second": AttendingJudge}
HEAD_NAMES = ("content", "style", "background")


def save_judge(judge: Judge, path: pathlib.Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in judge.state_dict().items() if "num_batches" not in key
    }
    save_file({key: value.contiguous().cpu() for key, value in state.items()}, path)


def load_judge(kind: str, folder: pathlib.Path = FOLDER / "judges") -> Judge:
    """The judge "first" or "second", float32, in evaluation mode."""
    with safe_open(folder / f"{kind}.safetensors", "pt") as file:
        state = {key: file.get_tensor(key).float() for key in file.keys()}
    judge = KINDS[kind]()
    judge.load_state_dict(state, strict=False)
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
    content, style, background = answers(judge, pictures, batch)
    return Verdict(content.argmax(1).cpu(), style.argmax(1).cpu(), background.argmax(1).cpu(), content.topk(5, 1)[1].cpu())


@torch.no_grad()
def answers(judge: Judge, pictures: Tensor, batch: int = 512) -> tuple[Tensor, ...]:
    """The three heads' logits, each (N, classes), on the judge's device."""
    device = next(judge.parameters()).device
    parts = [judge(as_float(some.to(device))) for some in pictures.split(batch)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def similarity(judge: Judge, pictures: Tensor, references: Tensor) -> dict[str, Tensor]:
    """How like the references each picture is, as each head sees it: {"content": (N,), "style": (N,), "background": (N,)}, each in -1..1.

    A head's features are the judge's pooled features as that head weighs them: its logits less their mean. Given is the mean cosine to the
    references (M, 3, S, S). Unlike a verdict this needs no label, and it grows before the verdict turns.
    """
    found = {}
    for name, ours, theirs in zip(HEAD_NAMES, answers(judge, pictures), answers(judge, references), strict=True):
        one, other = (F.normalize(logits - logits.mean(1, keepdim=True), dim=1) for logits in (ours, theirs))
        found[name] = (one @ other.T).mean(1).cpu()
    return found


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
    """Cross entropy of all heads; the first eighth of the batch is spoilt and must be called UNCLEAR. truth: (N, 3) int64 or IGNORED."""
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
