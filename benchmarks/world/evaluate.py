"""How well a model paints: the judges' shares on generated pictures, contact sheets, and what the autoencoder lets through."""

import json
import pathlib
import random
from collections.abc import Sequence

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor

from . import backgrounds, styles
from .autoencoder import decode, psnr, round_trips
from .captions import plain_prompt
from .clock import say
from .diffusion import sample
from .judge import Judge, as_float, ask
from .pool import Labels, World, is_unseen_pair, truth_of
from .sheets import save_sheet
from .text import TextPair, load_text

SHEET_CONTENTS = ("tiger", "red apple", "car", "house", "owl", "robot", "sunflower", "cat")
SHEET_STYLES = ("photo", "pixel art", "neon", "watercolor", "comic", "line art", "mosaic", "gold relief")


class Painter:
    """A saved model on a device, painting labels or prompts in the world's words."""

    def __init__(self, folder: pathlib.Path, world: World) -> None:
        device = world.device
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.world = world
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(device).eval()
        self.autoencoder = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device).eval()
        self.text: TextPair = load_text(folder).to(device).eval()

    @torch.no_grad()
    def paint(
        self, prompts: Sequence[str], *, guidance: float, seed: int, steps: int = 20, named_size: int | None = None, batch: int = 512
    ) -> Tensor:
        """float32 (N, 3, S, S) on the device."""
        pictures, named = [], named_size or self.world.size
        nothing = self.text(self.world.tokenizer([""]).long().to(self.world.device))
        for start in range(0, len(prompts), batch):
            some = self.text(self.world.tokenizer(prompts[start : start + batch]).long().to(self.world.device))
            latents = self.sample(some, nothing, steps=steps, guidance=guidance, named_size=named, seed=seed + start)
            pictures.append(decode(self.autoencoder, latents))
        return torch.cat(pictures)

    def sample(
        self, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor], *, steps: int, guidance: float, named_size: int, seed: int
    ) -> Tensor:
        """Latents of a picture for every text."""
        return sample(self.unet, positive, negative, steps=steps, guidance=guidance, named_size=named_size, seed=seed)

    def paint_labels(self, labels: Sequence[Labels], **how: float | int) -> Tensor:
        return self.paint([plain_prompt(self.world.contents, each) for each in labels], **how)  # type: ignore[arg-type]


def draw_set(world: World, kind: str, count: int, rng: random.Random) -> list[Labels]:
    """count labels of the kind "photo", "seen pairs" or "unseen pairs"."""
    found: list[Labels] = []
    while len(found) < count:
        style = styles.PHOTO if kind == "photo" else rng.choice(styles.seen_styles())
        labels = Labels(rng.choice(world.seen_contents), style, rng.randrange(len(backgrounds.NAMES)))
        if kind == "photo" or is_unseen_pair(labels.content, style) == (kind == "unseen pairs"):
            found.append(labels)
    return found


def evaluate(
    painter: Painter, judges: dict[str, Judge], counts: dict[str, int], *, guidance: float, seed: int, **how: int
) -> dict[str, object]:
    """Tables of the judges' shares, one row per kind of labels, and the styles that fare worst."""
    table: dict[str, object] = {}
    for kind, count in counts.items():
        labels = draw_set(painter.world, kind, count, random.Random(seed))
        pictures, truth = painter.paint_labels(labels, guidance=guidance, seed=seed, **how), truth_of(labels)
        for name, judge in judges.items():
            verdict = ask(judge, pictures)
            table[f"{kind}, {name} judge"] = {"pictures": count, **verdict.shares(truth)}
            if kind == "seen pairs":
                table[f"right by style, {name} judge"] = by_class(
                    (verdict.content == truth[:, 0]), (verdict.style == truth[:, 1]), truth[:, 1]
                )
    return table


def by_class(content: Tensor, style: Tensor, group: Tensor) -> dict[str, list[float]]:
    """Shares of right content and style within each style."""
    return {
        styles.NAMES[k]: [round(right[group == k].float().mean().item(), 2) for right in (content, style)]
        for k in sorted(set(group.tolist()))
    }


def contact_sheet(
    painter: Painter,
    path: pathlib.Path,
    *,
    guidance: float,
    seed: int,
    contents: Sequence[str] = SHEET_CONTENTS,
    looks: Sequence[str] = SHEET_STYLES,
) -> None:
    """Contents down, styles across; the background changes with the row."""
    labels = [
        Labels(painter.world.index(name), styles.NAMES.index(look), row * 3 % len(backgrounds.NAMES))
        for row, name in enumerate(contents)
        for look in looks
    ]
    save_sheet(path, painter.paint_labels(labels, guidance=guidance, seed=seed).cpu(), len(looks))


def judge_on_real(world: World, judges: dict[str, Judge], autoencoder: AutoencoderTiny | None, count: int) -> dict[str, object]:
    """The ceiling: the judges on fresh rendered pictures of the whole world, and on the same after the autoencoder."""
    pictures, truth = world.picture_pool(count)
    truth = truth.cpu()
    sets = (
        {"real": pictures}
        if autoencoder is None
        else {"real": pictures, "through the autoencoder": round_trips(autoencoder, pictures, 0.0)}
    )
    return {f"{what}, {name} judge": ask(judge, shown).shares(truth) for what, shown in sets.items() for name, judge in judges.items()}


def autoencoder_report(world: World, autoencoder: AutoencoderTiny, count: int, sheet: pathlib.Path) -> dict[str, float]:
    """PSNR in dB by style on fresh pictures, and a sheet of pictures above their round trips."""
    pictures, truth = world.picture_pool(count)
    made = round_trips(autoencoder, pictures, 0.0)
    quality = torch.cat([psnr(as_float(a), as_float(b)) for a, b in zip(pictures.split(256), made.split(256), strict=True)]).cpu()
    shown = {k: int((truth[:, 1] == k).nonzero()[0]) for k in sorted(set(truth[:, 1].tolist()))}
    rows = [torch.stack([as_float(pictures[k]), as_float(made[k])]) for k in shown.values()]
    save_sheet(sheet, torch.cat(rows).cpu(), 12)
    by_style = {styles.NAMES[k]: round(quality[truth[:, 1].cpu() == k].mean().item(), 1) for k in shown}
    return {"all": round(quality.mean().item(), 2), **dict(sorted(by_style.items(), key=lambda item: item[1]))}


def write_report(path: pathlib.Path, report: object) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    say("wrote", path.name)
