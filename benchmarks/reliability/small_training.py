"""A training of seconds on a processor, for what is tried hundreds of times: SDXL's topology with 32 and 64 channels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from b4m_core import Adapter, Plan, Progress, RunStore, TrainingSettings, keeping, train
from benchmarks.speed import job
from benchmarks.speed.network import TINY, random_network

SETTINGS = TrainingSettings(steps=6, rank=4, learning_rate=1e-3, gradient_accumulation_steps=1, resolution=64)


@functools.cache
def base() -> job.RandomBase:
    """The base model; its weights are the same in every process."""
    torch.set_num_threads(1)
    return job.RandomBase(random_network(TINY, torch.device("cpu"), torch.float32), torch.device("cpu"), torch.float32)


def plan(role: str = "content", *, steps: int = SETTINGS.steps, seed: int = 0) -> Plan:
    """A plan; another seed is another run."""
    return job.plan(base().unet, role, 64, dataclasses.replace(SETTINGS, steps=steps, seed=seed))


def trained(
    made: Plan, store: RunStore, watch: Callable[[Progress], None] = lambda progress: None, every_step: bool = True, **named: Any
) -> Adapter:
    """Train; with ``every_step`` a state and an adapter are kept after each step."""
    before = keeping.SAVE_SECONDS
    keeping.SAVE_SECONDS = -1.0 if every_step else before
    torch.manual_seed(0)  # what the base model's encoders give
    try:
        return train(made, base(), store, watch, keep_every=1 if every_step else 100, **named)
    finally:
        keeping.SAVE_SECONDS = before


def result_bytes(made: Plan, store: Path) -> bytes:
    """The file that the run store keeps of a finished training."""
    run = RunStore(store).open(made.key(base()))  # type: ignore[arg-type]
    return run.begin().path("adapter", made.settings.steps).read_bytes()
