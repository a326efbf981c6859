"""What computes here, for estimates: the host's device, and what it reaches at best."""

from __future__ import annotations

import time
from functools import cache

import comfy.model_management
import torch

from ...b4m_core.estimate import Machine
from .asking import ask
from .runtime import device

_FLOP_PER_CLOCK = {(8, 0): 2048, (8, 6): 512, (8, 7): 512, (8, 9): 512, (9, 0): 4096, (10, 0): 8192, (12, 0): 512}
"""Of one multiprocessor, dense bfloat16 with float32 sums, by compute capability; older cards train in float32."""
_FLOAT32_PER_CLOCK = 128
_CLOCK = 1.7e9  # where torch does not say
_SIDE, _TRIALS = 768, 4


@cache
def machine() -> Machine:
    """The host's device. A card's arithmetic comes from its own description; of others one product of matrices is timed, once."""
    place = device()
    memory = int(comfy.model_management.get_total_memory(place))
    if place.type != "cuda":
        return Machine("this processor" if place.type == "cpu" else f"this {place.type} device", place.type, _timed(place), memory)
    facts = torch.cuda.get_device_properties(place)
    clock = 1e3 * (ask(facts, "clock_rate") or 0) or _CLOCK
    each = _FLOP_PER_CLOCK.get((facts.major, facts.minor), _FLOAT32_PER_CLOCK if facts.major < 8 else 512)
    return Machine(facts.name, "cuda", facts.multi_processor_count * clock * each / 1e12, memory)


def _timed(place: torch.device) -> float:
    """TFLOP/s of a product of two large float32 matrices: the best of a few."""
    left = torch.ones(_SIDE, _SIDE, device=place)
    seconds = []
    for _ in range(_TRIALS):
        before = time.perf_counter()
        (left @ left).sum().item()
        seconds.append(time.perf_counter() - before)
    return 2 * _SIDE**3 / min(seconds) / 1e12
