"""What is measured, each part by itself and in the order of what matters most."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from b4m_core import Adapter
from b4m_core.planner import WAYS, fastest_way

from . import peers
from .clock import GIB, Reading, matrix_product, tidy, timed
from .network import TERAFLOPS, inputs_of, new_adapter
from .ours import Ours

ROWS = 4
SMALL_CARD = 8.0


@dataclass
class Bench:
    """The network under test and what was found so far."""

    unet: Any
    adapter: Adapter
    device: torch.device
    dtype: torch.dtype
    sizes: tuple[int, ...]
    seconds: float
    real: bool
    rank: int
    readings: list[Reading] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def take(self, name: str, size: int, step: Callable[[], object], *, seconds: float | None = None) -> Reading:
        """Time ``step`` and keep the reading."""
        reading = timed(name, size, step, seconds=self.seconds if seconds is None else seconds, device=self.device)
        self.readings.append(reading)
        share = ""
        if self.real and size in TERAFLOPS and "ceiling" in self.facts and name == "B4M":
            share = f"  {TERAFLOPS[size] / reading.milliseconds * 1000 / self.facts['ceiling'] * 100:.0f} % of the ceiling"
        print(
            f"{name:58s} {size:5d} px {reading.milliseconds:10.2f} ms (fastest {reading.fastest:.2f}, {reading.times} times)"
            f"  {reading.allocated:.2f} / {reading.reserved:.2f} / {reading.driver:.2f} GiB{share}",
            flush=True,
        )
        return reading

    def needed(self, reading: Reading, way: int) -> None:
        """Note what a step needs beside what stays: planner.py's numbers come from here."""
        if self.device.type == "cuda":
            stays = torch.cuda.memory_allocated() / GIB
            self.facts[f"GiB of a step, way {way}, {reading.size} px"] = reading.reserved - stays
            print(f"   {stays:.2f} GiB stay, {reading.reserved - stays:.2f} are the step's", flush=True)

    def batch(self, size: int, rows: int = ROWS) -> dict[str, torch.Tensor]:
        """Inputs on the CPU, as the training loop has them."""
        return inputs_of(self.unet, size, rows)

    def cast_batch(self, size: int) -> dict[str, torch.Tensor]:
        """The same on the device in the compute dtype, as the peers want them."""
        given = inputs_of(self.unet, size, ROWS, self.device)
        return given | {name: given[name].to(self.dtype) for name in ("noisy", "context", "pooled")}


def ceiling(bench: Bench) -> None:
    """What the arithmetic units can do."""
    bench.facts["ceiling"] = matrix_product(bench.device, bench.dtype)
    print(f"matrix product: {bench.facts['ceiling']:.1f} TFLOP/s", flush=True)


def ours(bench: Bench) -> None:
    """Our step at every size, how long it takes to begin, and what its kernels are."""
    for size in bench.sizes:
        started = time.perf_counter()
        mine = Ours(bench.unet, bench.adapter, bench.device)
        step = mine.whole(bench.batch(size))
        step()
        bench.facts[f"seconds to the first step, {size} px"] = time.perf_counter() - started
        bench.needed(bench.take("B4M", size, step), 0)
        if bench.device.type == "cuda":
            bench.facts[f"kernels {size}"] = _kernels(step)
        del mine, step
        tidy()


def _kernels(step: Callable[[], object], times: int = 3) -> list[str]:
    """The kernels of a step: milliseconds, launches, name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(times):
            step()
        torch.cuda.synchronize()
    found = sorted(seen.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
    lines = [f"{k.self_device_time_total / times / 1000:9.3f} ms {k.count / times:7.1f} x  {k.key[:170]}" for k in found]
    total, launches = sum(k.self_device_time_total for k in found) / times / 1000, sum(k.count for k in found) / times
    return [f"{total:.2f} ms of kernels, {launches:.0f} launches", *lines[:110]]


def defaults(bench: Bench) -> None:
    """What a training does unless it is told otherwise: the free split, and beside the own row one that keeps the base model's answer."""
    mine = Ours(bench.unet, new_adapter(bench.unet, bench.rank // 2, "free"), bench.device, correspondence="keep")
    for size in bench.sizes:
        name = f"B4M, its defaults: free split, rank {bench.rank // 2}, one own and one kept picture"
        bench.take(name, size, mine.whole(bench.batch(size, 2)))


def riemannian(bench: Bench) -> None:
    """The optimiser of training together, against an inverse for every layer."""
    mine = Ours(bench.unet, bench.adapter, bench.device, role="together", graph=False)
    bench.take("Riemannian step, all layers", 0, mine.optimiser_alone(), seconds=0.5)
    del mine
    tidy()
    bench.take(
        "an inverse for every layer", 0, peers.inverse_for_every_layer(bench.adapter.shapes(), bench.rank, bench.device), seconds=1.0
    )


def published(bench: Bench) -> None:
    """The published loop's pattern."""
    made = peers.Published(bench.unet, bench.rank, bench.dtype)
    for size in bench.sizes[:1]:
        bench.take("published loop's pattern", size, made.whole(bench.cast_batch(size)))
    made.close()


def peft(bench: Bench) -> None:
    """diffusers with PEFT."""
    made = peers.Peft(bench.unet, bench.rank, bench.dtype)
    for size in bench.sizes:
        bench.take("diffusers + PEFT", size, made.whole(bench.cast_batch(size)))
    made.close()


def small_card(bench: Bench) -> None:
    """The largest size under the memory of a small card, what the driver takes for itself counted."""
    if bench.device.type != "cuda":
        return
    size = bench.sizes[-1]
    free, total = torch.cuda.mem_get_info(bench.device)
    own = total - free - torch.cuda.memory_reserved(bench.device)
    budget = SMALL_CARD * GIB - own
    torch.cuda.set_per_process_memory_fraction(budget / total, bench.device)
    try:
        mine = Ours(bench.unet, bench.adapter, bench.device)
        given = bench.batch(size)
        left = int(budget - torch.cuda.memory_allocated(bench.device))
        mine.step.way = fastest_way(left, ROWS, given["noisy"][0, 0].numel())  # type: ignore[attr-defined]
        step = mine.whole(given)
        while True:
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                step()
                break
            if not mine.step.squeeze():
                raise RuntimeError("does not fit")
        bench.take(f"B4M within {SMALL_CARD:g} GB: {WAYS[mine.step.way].words}", size, step)  # type: ignore[attr-defined]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def ways(bench: Bench) -> None:
    """Every way of planner.py, for its table."""
    for size in bench.sizes:
        for way in range(1, len(WAYS)):
            mine = Ours(bench.unet, bench.adapter, bench.device, way=way)
            reading = bench.take(f"B4M: {WAYS[way].words}", size, mine.whole(bench.batch(size)), seconds=bench.seconds / 2)
            bench.needed(reading, way)
            del mine
            tidy()


def plain(bench: Bench) -> None:
    """Our sums without the fast path."""
    mine = Ours(bench.unet, bench.adapter, bench.device, plain=True)
    bench.take("B4M without the fast path", bench.sizes[0], mine.whole(bench.batch(bench.sizes[0])))
    mine.step.close()


def scaling(bench: Bench) -> None:
    """Time and memory against the number of auxiliary sets, the resolution, and the rank."""
    for rows in (2, 3):
        mine = Ours(bench.unet, bench.adapter, bench.device)
        bench.take(f"B4M, {rows - 1} auxiliary", bench.sizes[0], mine.whole(bench.batch(bench.sizes[0], rows)), seconds=bench.seconds / 2)
        del mine
        tidy()
    middle = (bench.sizes[0] + bench.sizes[-1]) // 2
    mine = Ours(bench.unet, bench.adapter, bench.device)
    bench.take("B4M", middle, mine.whole(bench.batch(middle)), seconds=bench.seconds / 2)
    del mine
    tidy()
    for rank in (bench.rank // 4, bench.rank * 2):
        mine = Ours(bench.unet, new_adapter(bench.unet, rank), bench.device)
        bench.take(f"B4M, rank {rank}", bench.sizes[0], mine.whole(bench.batch(bench.sizes[0])), seconds=bench.seconds / 2)
        del mine
        tidy()


def painting(bench: Bench) -> None:
    """A pass through the network with an adapter patched in and without, and the patching itself."""
    given = bench.cast_batch(bench.sizes[-1])
    targets = bench.adapter.targets(bench.unet)
    factors = {name: [part.detach() for part in layer.lora_factors()] for name, layer in bench.adapter.layers.items()}

    def patch(sign: float = 1.0) -> None:
        for name, linear in targets.items():
            up, down = (part.to(bench.device, bench.dtype, non_blocking=True) for part in factors[name])
            linear.weight.addmm_(up, down, alpha=sign)

    with torch.no_grad():
        bench.take("painting: one pass, the base model", bench.sizes[-1], lambda: peers.prediction(bench.unet, given))
        bench.take("applying an adapter", 0, patch, seconds=0.5)
        bench.take("painting: one pass, an adapter patched in", bench.sizes[-1], lambda: peers.prediction(bench.unet, given))


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "ceiling": (ceiling, 3),
    "ours": (ours, 25),
    "defaults": (defaults, 15),
    "riemannian": (riemannian, 8),
    "published": (published, 15),
    "peft": (peft, 15),
    "small card": (small_card, 15),
    "ways": (ways, 35),
    "scaling": (scaling, 30),
    "plain": (plain, 10),
    "painting": (painting, 10),
}
"""By name: the function, and the seconds that must be left for it to begin on a card."""
