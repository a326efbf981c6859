"""A whole training as an artist starts it, on random weights and pictures: how long until the first step, how fast the loop is."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from b4m_core import Adapter, NoiseSchedule, Plan, Progress, RunStore, TrainingSettings, merge, save_adapter, train
from b4m_core.models.sdxl import SDXL
from b4m_core.objective import linear_beta_schedule
from b4m_core.pictures import Picture, PictureSet

from .network import new_adapter


class RandomBase:
    """A base model whose encoders cost nothing: what they would do is done once and not in every step."""

    def __init__(self, unet: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.unet, self.device, self.dtype = unet, device, dtype
        self.family = SDXL
        self.schedule = NoiseSchedule(linear_beta_schedule())
        self.fingerprint, self.network_fingerprint, self.name = "0" * 64, "n1-" + "0" * 64, "random"

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Noise of the right size."""
        return torch.randn(len(pixels), 4, pixels.shape[-2] // 8, pixels.shape[-1] // 8)

    def encode_text(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Noise of the right size."""
        config = self.unet.config
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        return torch.randn(len(prompts), 77, config["cross_attention_dim"]), torch.randn(len(prompts), pooled)

    def sample(self, prompt: str, *, width: int, height: int, seed: int) -> Tensor:
        """Nothing is painted here."""
        raise NotImplementedError


def _pictures(count: int, size: int, seed: int) -> PictureSet:
    generator = np.random.default_rng(seed)
    made = [generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]
    return PictureSet(tuple(Picture(f"{number}.png", pixels, f"a photo {seed} {number}") for number, pixels in enumerate(made)))


def plan(unet: Any, role: str, size: int, settings: TrainingSettings) -> Plan:
    """Three pictures beside three auxiliary sets; together, a content's beside a style's."""
    start, partners = None, 3
    if role == "together":
        content = new_adapter(unet, settings.rank, settings.split)
        facts = dataclasses.replace(content.facts, role="merged", parents=("content: random", "style: random"))
        start, partners = Adapter(content.layers, facts), 1
    return Plan(role, _pictures(3, size, 0), tuple(_pictures(2, size, 1 + number) for number in range(partners)), settings, start)


def seconds_of(made: Plan, base: RandomBase, folder: Path) -> tuple[Adapter, dict[str, float]]:
    """Train, and what took how long: seconds until the first step is done and read, milliseconds of the steps, seconds to save."""
    done: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.step_done:
            done.append(time.perf_counter())

    started = time.perf_counter()
    adapter = train(made, base, RunStore(folder), watch, retrain=True)
    ended = time.perf_counter()
    steps = sorted((after - before) * 1000 for before, after in zip(done[3:], done[4:], strict=False))
    return adapter, {
        "seconds to the first step": done[0] - started,
        "ms a step, median": steps[len(steps) // 2],
        "ms a step, mean": sum(steps) / len(steps),
        "seconds after the last step": ended - done[-1],
        "seconds in all": ended - started,
    }


def whole(base: RandomBase, size: int, settings: TrainingSettings, folder: Path) -> dict[str, dict[str, float]]:
    """Content, then style, then both together, as an artist has it: what took how long in each of them, and the file at the end."""
    found: dict[str, dict[str, float]] = {}
    trained = {}
    for role in ("content", "style"):
        trained[role], found[role] = seconds_of(plan(base.unet, role, size, settings), base, folder)
    merged = merge(trained["content"], trained["style"])
    both = Plan("together", _pictures(3, size, 0), (_pictures(2, size, 1),), settings, merged)
    together, found["together"] = seconds_of(both, base, folder)
    started = time.perf_counter()
    save_adapter(together, folder / "together.safetensors")
    found["file"] = {"seconds in all": time.perf_counter() - started}
    return found
