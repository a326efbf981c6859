"""Memory that runs out in the middle of a training, in every place where it can: the base model paints the same picture bit for bit
afterwards, main memory comes back, and the next Run comes to the same bytes.

On a processor, by the same paths as on a card: what a card's allocator raises is raised there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from b4m_core import Plan, Progress, RunStore, train
from b4m_core.auxiliary import sample_auxiliary
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.fast.network import Network
from b4m_core.pictures import load_folder

from .small_training import SETTINGS
from .trainings_in_a_row import _resident as resident

ROOT = Path(__file__).resolve().parents[2]
Line = tuple[str, int, int, str, str]
PROMPT, SIDE = "a photo of a snq bird", 64
MOST_LEFT = 50 * 10**6


class _Failing:
    """Raises once, in a call of the place with some number."""

    def __init__(self, call: Callable[..., Any], at: int, error: BaseException) -> None:
        self.call, self.at, self.error, self.count = call, at, error, itertools.count()

    def __call__(self, *given: Any, **named: Any) -> Any:
        if next(self.count) >= self.at:
            raise self.error
        return self.call(*given, **named)


def rows(quick: bool) -> list[Line]:
    """The lines of the table."""
    tokenizer = os.environ.get("B4M_TOKENIZER")
    if not tokenizer:
        return [("memory runs out in a training", 0, 0, "not run: B4M_TOKENIZER names no tokenizer", "")]
    errors = [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("CUDA error: out of memory")]
    lines = []
    with tempfile.TemporaryDirectory(prefix="b4m-failures-") as place:
        base = DiffusersFolder(ROOT / "mini", tokenizer=Path(tokenizer), steps=4)
        made = _plan(base, Path(place))
        picture, whole = _picture(base), train(made, base, RunStore(Path(place) / "whole"))
        for name, failing in _places().items():
            changed = other = 0
            most = 0
            for number, error in enumerate(errors[: 1 if quick else 2]):
                folder = Path(place) / f"{name} {number}"
                before = resident()
                with contextlib.suppress(Exception), failing(base, error):
                    train(made, base, RunStore(folder), _watcher())
                gc.collect()
                most = max(most, resident() - before)
                changed += not torch.equal(_picture(base), picture)
                other += train(made, base, RunStore(folder)).digest() != whole.digest()
            tries = number + 1
            lines.append(
                (
                    f"memory runs out: {name}",
                    tries,
                    changed + other + (most > MOST_LEFT),
                    f"{changed} other pictures, {other} other results, {most / 1e6:+.0f} MB of main memory",
                    "",
                )
            )
    return lines


def _plan(base: DiffusersFolder, place: Path) -> Plan:
    settings = dataclasses.replace(SETTINGS, steps=4, resolution=SIDE)
    pattern = "a photo of a {trigger} {class}"
    pictures = load_folder(ROOT / "workflows/pictures/demo_content", trigger="snq", class_word="bird", pattern=pattern)
    others = sample_auxiliary(base, "styles", sets=1, pictures=1, resolution=SIDE, cache=place)
    return Plan("content", pictures, others, settings)


def _picture(base: DiffusersFolder) -> Tensor:
    return base.sample(PROMPT, width=SIDE, height=SIDE, seed=3)


def _watcher() -> Callable[[Progress], None]:
    return lambda progress: None


Failure = Callable[[DiffusersFolder, BaseException], contextlib.AbstractContextManager[None]]


def _places() -> dict[str, Failure]:
    return {
        "pictures are encoded": lambda base, error: _method(base, "encode_pictures", 1, error),
        "texts are encoded": lambda base, error: _method(base, "encode_text", 0, error),
        "forward": lambda base, error: _patched("b4m_core.fast.network.Network.__call__", Network.__call__, 2, error),
        "backward": _backward,
        "optimiser": lambda base, error: _patched("torch.optim.AdamW.step", torch.optim.AdamW.step, 2, error),
        "a sample is painted": _sample,
        "a state is written": lambda base, error: _patched("b4m_core.attempts.write_container", None, 0, error),
        "the result is written": lambda base, error: _patched("b4m_core.attempts.save_adapter", None, 0, error),
    }


@contextlib.contextmanager
def _method(base: DiffusersFolder, name: str, at: int, error: BaseException) -> Iterator[None]:
    with mock.patch.object(base, name, _Failing(getattr(base, name), at, error)):
        yield


@contextlib.contextmanager
def _patched(where: str, call: Callable[..., Any] | None, at: int, error: BaseException) -> Iterator[None]:
    failing = _Failing(call or (lambda *given: None), at, error)
    with mock.patch(where, lambda *given, **named: failing(*given, **named)), mock.patch("b4m_core.keeping.LAST_PAUSE", 0.0):
        yield


@contextlib.contextmanager
def _backward(base: DiffusersFolder, error: BaseException) -> Iterator[None]:
    call, count = Network.__call__, itertools.count()

    def fail(gradient: Tensor) -> None:
        raise error

    def changed(network: Network, *given: Tensor, **named: Tensor) -> Tensor:
        output = call(network, *given, **named)
        if next(count) >= 2 and output.requires_grad:
            output.register_hook(fail)
        return output

    with mock.patch.object(Network, "__call__", changed):
        yield


@contextlib.contextmanager
def _sample(base: DiffusersFolder, error: BaseException) -> Iterator[None]:
    """The node paints its samples from the watcher of a training."""
    with mock.patch(f"{__name__}._watcher", lambda: _painting(base, error)):
        yield


def _painting(base: DiffusersFolder, error: BaseException) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.step_done and progress.step == 2:
            _picture(base)
            raise error

    return watch
