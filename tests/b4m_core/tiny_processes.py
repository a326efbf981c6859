"""Several processes that train the tiny model, started as torchrun starts them: by five environment variables."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tiny
import torch

from b4m_core import B4MError, Progress, RunStore, train
from b4m_core.process_group import joined
from b4m_core.several import Processes
from b4m_core.training import assist

PRELOADED = ["tiny", "b4m_core.process_group", "b4m_core.training", "b4m_core.fast.fused_step"]
Case = dict[str, Any]
"""The arguments of tiny.plan; beside them ``where`` (a folder), ``dtype``, ``plain`` and ``trouble`` (see :func:`disturbed`)."""


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def together(count: int, target: Callable[..., object], *given: object, seconds: float = 240.0) -> list[tuple[str, str]]:
    """How ``target(processes, *given)`` ended in each of ``count`` processes: the name and the sentence of its error, or what it gave."""
    ways = multiprocessing.get_context("forkserver")
    ways.set_forkserver_preload(PRELOADED)  # libraries are imported once
    port = free_port()
    pipes = [ways.Pipe(duplex=False) for _ in range(count)]
    started = [ways.Process(target=_one, args=(index, count, port, pipes[index][1], target, given), daemon=True) for index in range(count)]
    for each in started:
        each.start()
    ends, found = time.monotonic() + seconds, []
    for each, (heard, told) in zip(started, pipes, strict=True):
        told.close()
        each.join(max(0.0, ends - time.monotonic()))
        if each.is_alive():
            each.kill()
            found.append(("hung", ""))
        else:
            try:
                found.append(heard.recv())
            except EOFError:  # it ended without a word
                found.append(("killed", ""))
    return found


def _one(index: int, count: int, port: int, told: Any, target: Callable[..., object], given: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    meeting = {"RANK": index, "WORLD_SIZE": count, "LOCAL_RANK": index, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in meeting.items()})
    try:
        with joined(os.environ) as processes:
            result = target(processes, *given)
        told.send(("done", result))
    except BaseException as error:
        if not isinstance(error, (B4MError, KeyboardInterrupt)):
            traceback.print_exc()
        told.send((type(error).__name__, str(error)))


def trained(processes: Processes, cases: list[Case]) -> list[list[tuple[float, float, float]]]:
    """Train one case after another, all processes each of them. Returns the histories, in the first process."""
    return [_case(processes, **case) for case in cases]


def _case(
    processes: Processes, where: str, dtype: torch.dtype = torch.float64, plain: bool = False, trouble: Case | None = None, **given: Any
) -> list[tuple[float, float, float]]:
    histories: list[list[tuple[float, float, float]]] = [[]]
    base = tiny.TinyBase(tiny.tiny_unet(dtype=dtype))
    with disturbed(processes.index, plain, **(trouble or {})) as (changes, watch):
        made = tiny.plan(**{**given, **changes})

        def watched(progress: Progress) -> None:
            histories[0] = list(progress.losses)
            watch(progress)

        if processes.leads:
            train(made, base, RunStore(Path(where)), watched, processes=processes)
        else:
            assist(made, base, processes)
    return histories[0]


@contextlib.contextmanager
def disturbed(
    index: int, plain: bool = False, *, who: int = -1, what: str = "", call: int = 0
) -> Iterator[tuple[Case, Callable[[Progress], None]]]:
    """Within: process ``who`` meets with ``what`` at call number ``call`` of its network (or, for the one that watches, of its watcher)."""
    import pytest

    from b4m_core.engine import Engine

    calls, watched = iter(range(10**9)), iter(range(10**9))
    through = Engine._pass

    def disturb() -> None:
        if what == "fails":
            raise B4MError("The second card fell out.")
        if what == "breaks":
            raise RuntimeError("a fault of ours")
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)

    def passed(engine: Engine, batch: Any) -> torch.Tensor:
        if index == who and next(calls) == call:
            disturb()
            if what == "not a number":
                return through(engine, batch) * float("nan")
        return through(engine, batch)

    def watch(progress: Progress) -> None:
        if index == who and what == "cancelled" and next(watched) == call:
            raise tiny.Cancelled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_pass", passed)
        if plain:
            patch.setattr("b4m_core.engine.fused_step_for", lambda network, family: None)
        yield ({"seed": 9} if index == who and what == "another seed" else {}), watch


def painted(processes: Processes, where: str) -> tuple[int, int, list[bytes]]:
    """How many pictures this process painted, how many files its folder has, and the pictures that it got."""
    from b4m_core.auxiliary import sample_auxiliary

    base, cache = tiny.TinyBase(), Path(where) / str(processes.index)
    sets = sample_auxiliary(base, "styles", sets=2, pictures=2, resolution=64, cache=cache, processes=processes)
    files = len(list(cache.rglob("*.png"))) if cache.exists() else 0
    return len(base.painted), files, [picture.pixels.tobytes() for each in sets for picture in each.pictures]


def on_cards(processes: Processes, cards: int, asked: str) -> str:
    """Take a card of a machine that has so many."""
    torch.cuda.device_count = lambda: cards
    torch.cuda.set_device = lambda device: None
    torch.distributed.is_nccl_available = lambda: True
    return processes.device(asked)
