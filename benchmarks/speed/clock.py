"""How long a step takes and how much memory it holds."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable

import torch

GIB = 2**30


@dataclasses.dataclass
class Reading:
    """One line of the results. Memory in GiB, for cards only: ``allocated`` is torch's peak (what graphs hold is not in it), ``reserved``
    torch's peak with the graphs', ``driver`` what the driver says that is taken on the whole card.
    """

    name: str
    size: int
    milliseconds: float
    fastest: float
    times: int
    allocated: float = 0.0
    reserved: float = 0.0
    driver: float = 0.0


def timed(name: str, size: int, step: Callable[[], object], *, seconds: float, device: torch.device) -> Reading:
    """The median of the steps that fit into about ``seconds``, at least 3 and at most 30, after two that do not count."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step()
    _wait(device)
    started = time.perf_counter()
    step()
    _wait(device)
    times = max(3, min(30, int(seconds / max(time.perf_counter() - started, 1e-5))))
    durations = []
    if cuda:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        _wait(device)
        durations = [before.elapsed_time(after) for before, after in zip(events, events[1:], strict=False)]
    else:
        for _ in range(times):
            started = time.perf_counter()
            step()
            durations.append((time.perf_counter() - started) * 1000)
    reading = Reading(name, size, statistics.median(durations), min(durations), times)
    if cuda:
        free, total = torch.cuda.mem_get_info(device)
        reading.allocated, reading.reserved = torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB
        reading.driver = (total - free) / GIB
    return reading


def matrix_product(device: torch.device, dtype: torch.dtype) -> float:
    """The ceiling: TFLOP/s of one large matrix product."""
    width = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    return 2 * width**3 / timed("product", width, lambda: a @ b, seconds=0.3, device=device).milliseconds / 1e9


def tidy() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
