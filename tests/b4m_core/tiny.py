"""The smallest things that the method runs on: an SDXL topology with a few thousand weights, a base model around it, pictures, settings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from b4m_core import Adapter, Facts, NoiseSchedule, PartlyLearnableProjection, Plan, Progress, RunStore, TrainingSettings
from b4m_core.models.sdxl import SDXL
from b4m_core.objective import linear_beta_schedule
from b4m_core.pictures import Picture, PictureSet

TEXT_WIDTH, TOKENS, POOLED = 24, 5, 16
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
KINDS: dict[str, dict[str, str]] = {
    "zero_start": {"split": "halves", "start": "zero_start"},
    "published": {"split": "halves", "start": "published"},
    "full": {"split": "full", "start": "zero_start"},
    "free": {"split": "free", "start": "zero_start"},
}
"""What an adapter can be, as facts and settings: the published split with either start, full reach, and free."""
OTHER_LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def tiny_unet(
    depths: tuple[int, int, int] = (1, 1, 1), *, levels: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """SDXL's topology with 16 and 32 channels: frozen, random, the same for one seed. ``levels`` of attention: SDXL has 2, 1 is faster."""
    outer = "CrossAttn" if levels == 2 else ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", f"{outer}DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", f"{outer}UpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=depths,
            attention_head_dim=(2, 4, 4),
            norm_num_groups=8,
            cross_attention_dim=TEXT_WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + POOLED,
        )
    unet = unet if dtype == torch.float32 else unet.to(dtype)
    _strengthen(unet.eval().requires_grad_(False))
    return unet


def _strengthen(unet: nn.Module) -> None:
    """Fresh weights hardly listen to their attention; larger ones let an adapter matter, so that what it does can be measured."""
    for name, weight in unet.named_parameters():
        if name.endswith(("proj_out.weight", "to_out.0.weight", "to_v.weight")):
            weight.mul_(4)
        elif name == "conv_out.weight":
            weight.mul_(3)


class TinyBase:
    """A base model on the tiny network; its encoders are fixed linear maps and hashes, and count how often they are called."""

    def __init__(self, unet: nn.Module | None = None, schedule: NoiseSchedule | None = None, fingerprint: str = "f" * 64) -> None:
        self.unet = tiny_unet() if unet is None else unet
        self.family = SDXL
        self.schedule = schedule or NoiseSchedule(linear_beta_schedule())
        self.fingerprint, self.network_fingerprint, self.name = fingerprint, "n1-" + fingerprint, "tiny"
        self.device, self.dtype = torch.device("cpu"), next(self.unet.parameters()).dtype
        self.encoded: list[tuple[int, ...]] = []
        self.read: list[str] = []
        self.painted: list[tuple[str, int]] = []

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.float32 and 0 <= float(pixels.min()) and float(pixels.max()) <= 1
        self.encoded.append(tuple(pixels.shape))
        mix = torch.randn(4, 3, generator=torch.Generator().manual_seed(5))
        return torch.einsum("ck,nkhw->nchw", mix, nn.functional.avg_pool2d(pixels, 8) * 2 - 1)

    def encode_text(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        self.read += prompts
        seeds = [int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big") for prompt in prompts]
        draw = [torch.Generator().manual_seed(seed) for seed in seeds]
        context = torch.stack([torch.randn(TOKENS, TEXT_WIDTH, generator=generator) for generator in draw])
        return context, torch.stack([torch.randn(POOLED, generator=generator) for generator in draw])

    def sample(self, prompt: str, *, width: int, height: int, seed: int) -> Tensor:
        self.painted.append((prompt, seed))
        return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(len(prompt) + seed))


def picture(
    seed: int, caption: str = "a photo of a snq bear", height: int = 64, width: int = 64, mask: np.ndarray | None = None
) -> Picture:
    """Coarse coloured noise, other for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Picture(f"{seed}.png", coarse.repeat(8, 0).repeat(8, 1), caption, mask)


def picture_set(*seeds: int, trigger: str = "snq", class_word: str = "bear") -> PictureSet:
    """A set of pictures with one caption."""
    return PictureSet(tuple(picture(seed, f"a photo of a {trigger} {class_word}") for seed in seeds), trigger, class_word)


SETTINGS = TrainingSettings(
    steps=4,
    rank=4,
    learning_rate=3e-3,
    auxiliary_learning_rate=3e-4,
    gradient_accumulation_steps=1,
    resolution=64,
    file_dtype="float32",
    seed=1,
    split="halves",
    correspondence="multi_correspondence",
)


def settings(**changes: object) -> TrainingSettings:
    """A few small steps."""
    return dataclasses.replace(SETTINGS, **changes)


def plan(role: str = "content", *, partners: int = 2, auxiliary: int = 0, adapter: Adapter | None = None, **changes: object) -> Plan:
    """A plan of any of the three trainings with small pictures; one together has ``auxiliary`` sets beside its one partner."""
    groups = tuple(picture_set(10 + k, 14 + k, trigger="", class_word=f"partner {k}") for k in range(max(partners, auxiliary)))
    if role == "together":
        style = picture_set(21, 22, trigger="w@z", class_word="drawing")
        start = merged_adapter(str(changes.get("split", "halves"))) if adapter is None else adapter
        return Plan(role, picture_set(1, 2, 3), (style, *groups[:auxiliary]), settings(**changes), start)
    return Plan(role, picture_set(1, 2, 3), groups[:partners], settings(**changes))


@functools.cache
def _merged_layers(split: str) -> Adapter:
    parents = ("content: snq bear", "style: w@z drawing")
    facts = Facts(role="merged", rank=4, base="n1-" + "f" * 64, file_dtype="float32", parents=parents, split=split)
    return filled(Adapter.for_unet(tiny_unet(), facts), seed=3, scale=0.02)


def merged_adapter(split: str = "halves") -> Adapter:
    """What a training together starts from."""
    return _merged_layers(split).clone()


def filled(adapter: Adapter, seed: int = 0, scale: float = 0.1) -> Adapter:
    """The adapter with random learned parts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for projection in adapter.layers.values():
            for part in projection.parameters():
                part.copy_(torch.randn(part.shape, generator=generator) * scale)
    return adapter


def small_adapter(
    role: str = "content",
    *,
    rank: int = 2,
    seed: int = 0,
    start: str = "zero_start",
    split: str = "halves",
    file_dtype: str = "float32",
    fill: int = 1,
    **facts: object,
) -> Adapter:
    """Two layers, one square and one rectangular, as a file of a few KB."""
    shapes = {LAYER: (8, 8), OTHER_LAYER: (10, 7)}
    layers = {
        name: PartlyLearnableProjection(m, n, rank, name=name, seed=seed, start=start, split=split) for name, (m, n) in shapes.items()
    }
    known = Facts(role=role, rank=rank, basis_seed=seed, start=start, split=split, file_dtype=file_dtype, **facts)  # type: ignore[arg-type]
    return filled(Adapter(layers, known), fill).rounded()


class Cancelled(Exception):
    """What a watcher raises to cancel."""


def cancel_at(call: int) -> Callable[[Progress], None]:
    """A watcher that cancels at its call number ``call``, counted from 0."""
    calls = iter(range(10**9))

    def watch(progress: Progress) -> None:
        if next(calls) == call:
            raise Cancelled

    return watch


def file_of(store: Path, training: Plan, base: TinyBase) -> Path:
    """The file in which the run store keeps the result of ``training``."""
    return RunStore(store).open(training.key(base)).begin().path("adapter", training.settings.steps)  # type: ignore[arg-type]
