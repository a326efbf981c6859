"""How long a step takes and how much memory it holds."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

GIB = 2**30


@dataclasses.dataclass
class Reading:
    """One line of the results. Memory in GiB, for cards only: ``allocated`` is torch's peak (what graphs hold is not in it), ``reserved``
    torch's peak with the graphs', ``driver`` what the driver says that is taken on the whole card. ``main``: the most main memory that a
    process of its own held.
    """

    name: str
    size: int
    milliseconds: float
    fastest: float
    times: int
    allocated: float = 0.0
    reserved: float = 0.0
    driver: float = 0.0
    main: float = 0.0


def timed(name: str, size: int, step: Callable[[], object], *, seconds: float, device: torch.device) -> Reading:
    """The median of the steps that fit into about ``seconds``, at least 3 and at most 30, after two that do not count."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step()
    wait(device)
    started = time.perf_counter()
    step()
    wait(device)
    times = how_often(seconds, time.perf_counter() - started)
    durations = []
    if cuda:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        wait(device)
        durations = [before.elapsed_time(after) for before, after in zip(events, events[1:], strict=False)]
    else:
        for _ in range(times):
            started = time.perf_counter()
            step()
            durations.append((time.perf_counter() - started) * 1000)
    reading = reading_of(name, size, durations, device)
    if cuda:
        free, total = torch.cuda.mem_get_info(device)
        reading.driver = (total - free) / GIB
    return reading


def how_often(seconds: float, one: float) -> int:
    """How many steps are timed when one takes ``one`` second."""
    return max(3, min(30, int(seconds / max(one, 1e-5))))


def reading_of(name: str, size: int, durations: Sequence[float], device: torch.device) -> Reading:
    """The line of steps that took ``durations`` milliseconds, with torch's peaks."""
    reading = Reading(name, size, statistics.median(durations), min(durations), len(durations))
    if device.type == "cuda":
        reading.allocated, reading.reserved = torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB
    return reading


def matrix_product(device: torch.device, dtype: torch.dtype) -> float:
    """The ceiling: TFLOP/s of one large matrix product."""
    width = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    return 2 * width**3 / timed("product", width, lambda: a @ b, seconds=0.3, device=device).milliseconds / 1e9


def main_memory() -> float:
    """The most main memory that this process ever held, in GiB; 0 where the system does not say (Windows)."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def tidy() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Until the card has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
