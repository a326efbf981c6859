"""Short trainings, and ways to disturb them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from b4m_core import Plan, Progress, RunStore, train
from b4m_core.fast.network import Network

ROLES = ("content", "style", "together")


def no_watch(progress: Progress) -> None:
    pytest.fail("trained although the result was there")


def result(
    store: Path, training: Plan, base: tiny.TinyBase | None = None, watch: Callable[[Progress], None] = lambda progress: None
) -> bytes:
    """Train, and give the bytes of the file."""
    base = tiny.TinyBase() if base is None else base
    train(training, base, RunStore(store), watch)
    return tiny.file_of(store, training, base).read_bytes()


def calls_of(made: Plan) -> int:
    """How often a watcher is called: once for each picture encoded, each micro-step and each step."""
    encoded = len(made.pictures.pictures) + sum(len(group.pictures) for group in made.others)
    return encoded + made.settings.steps * (made.settings.gradient_accumulation_steps + 1)


@contextlib.contextmanager
def answering(unet: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The network, as the training has it written out, answers what ``change`` makes of its prediction."""
    written_out = Network.__call__

    def changed(network: Network, *given: Tensor, **named: Tensor) -> Tensor:
        output = written_out(network, *given, **named)
        return change(output) if network.unet is unet else output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "__call__", changed)
        yield


@contextlib.contextmanager
def poisoned(unet: torch.nn.Module, after: int, value: float = float("nan")) -> Iterator[None]:
    """The network answers ``value`` from its call number ``after`` on."""
    calls = itertools.count()

    with answering(unet, lambda output: output * value if next(calls) >= after else output):
        yield


def assert_all_finite(folder: Path) -> None:
    from safetensors.torch import load_file

    files = list(folder.rglob("*.safetensors"))
    assert files
    for file in files:
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())
