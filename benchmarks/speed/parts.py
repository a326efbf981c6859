"""What is measured, each part by itself and in the order of what matters most."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from b4m_core import Adapter, B4MError, TrainingSettings
from b4m_core.planner import MEMORY_MODES

from . import job, peer_process, peers
from .clock import GIB, Reading, main_memory, matrix_product, tidy, timed
from .convolutions import agreement, convolutions
from .network import TERAFLOPS, as_others_have_it, inputs_of, new_adapter
from .ours import Ours
from .words import learned_words

ROWS = 4
TUNED = "diffusers + PEFT, tuned: compiled blocks, fused AdamW, one CUDA graph"


class NotGiven(Exception):  # noqa: N818
    """A part needs what was not given: it is named in the results, and nothing is wrong."""


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
    folders: dict[str, Path] = field(default_factory=dict)

    def take(self, name: str, size: int, step: Callable[[], object], *, seconds: float | None = None) -> Reading:
        """Time ``step`` and keep the reading."""
        reading = timed(name, size, step, seconds=self.seconds if seconds is None else seconds, device=self.device)
        self.note(reading)
        return reading

    def step_needs(self, way: int, size: int, gib: float) -> None:
        """What a step in a way of planner.py needs beside what stays when nothing is streamed."""
        self.facts[f"GiB of a step, way {way}, {size} px"] = gib
        print(f"   {gib:.2f} GiB are the step's", flush=True)

    def note(self, reading: Reading) -> None:
        """Keep a reading and print it."""
        self.readings.append(reading)
        name, size, share = reading.name, reading.size, ""
        if self.real and size in TERAFLOPS and "ceiling" in self.facts and name == "B4M":
            share = f"  {TERAFLOPS[size] / reading.milliseconds * 1000 / self.facts['ceiling'] * 100:.0f} % of the ceiling"
        print(
            f"{name:58s} {size:5d} px {reading.milliseconds:10.2f} ms (fastest {reading.fastest:.2f}, {reading.times} times)"
            f"  {reading.allocated:.2f} / {reading.reserved:.2f} / {reading.driver:.2f} GiB{share}",
            flush=True,
        )

    def peer_job(self, option: str, size: int, *, accumulated: bool = False) -> peer_process.Job:
        """What a peer in a process of its own is to do, with the sources that ``option`` named."""
        if option not in self.folders:
            raise NotGiven(f"--{option} FOLDER was not given")
        folder, dtype = str(self.folders[option].resolve()), str(self.dtype).removeprefix("torch.")
        network = {name: value for name, value in self.unet.config.items() if not name.startswith("_")}
        shapes = list(self.adapter.shapes().values())
        return peer_process.Job(folder, network, size, self.rank, ROWS, self.seconds, dtype, shapes, accumulated)

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


def training(bench: Bench) -> None:
    """Whole short trainings by the training loop itself: the first of the process, the same again, the other size, and together."""
    base = job.RandomBase(bench.unet, bench.device, bench.dtype)
    small, large = bench.sizes[0], bench.sizes[-1]
    wanted = [("content", small, ""), ("content", small, ", again"), ("together", small, ""), ("content", large, "")]
    for role, size, words in wanted:
        settings = TrainingSettings(
            steps=40 if bench.real else 8,
            rank=bench.rank,
            split="halves",
            correspondence="multi_correspondence",
            gradient_accumulation_steps=1,
            resolution=size,
        )
        made = job.plan(bench.unet, role, size, settings)
        with tempfile.TemporaryDirectory() as folder:
            _, found = job.seconds_of(made, base, Path(folder))
        bench.facts[f"training, {role}, {size} px{words}"] = found
        print(f"training, {role}, {size} px{words}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
        tidy()


def whole_job(bench: Bench) -> None:
    """Content, style and both together, 500 steps each, as one: what an artist waits for on a card."""
    steps = 500 if bench.real else 8
    settings = TrainingSettings(
        steps=steps,
        rank=bench.rank,
        split="halves",
        correspondence="multi_correspondence",
        gradient_accumulation_steps=1,
        resolution=bench.sizes[0],
    )
    base = job.RandomBase(bench.unet, bench.device, bench.dtype)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = job.whole(base, bench.sizes[0], settings, Path(folder))
    bench.facts[f"whole job, 3 x {steps} steps, {bench.sizes[0]} px"] = found | {"seconds": time.perf_counter() - started}
    for role, parts in found.items():
        print(f"whole job, {role}: " + ", ".join(f"{name} {value:.2f}" for name, value in parts.items()), flush=True)
    print(f"whole job: {time.perf_counter() - started:.1f} s", flush=True)


def ours(bench: Bench) -> None:
    """Our step at every size in every way of planner.py, and what its kernels are."""
    for size in bench.sizes:
        mine = Ours(bench.unet, bench.adapter, bench.device)
        step = mine.whole(bench.batch(size))
        stays = torch.cuda.memory_allocated() / GIB if bench.device.type == "cuda" else 0.0
        for way in range(len(MEMORY_MODES) if bench.device.type == "cuda" else 1):
            reading = bench.take("B4M" if way == 0 else f"B4M: {MEMORY_MODES[way].words}", size, step)
            if stays:
                bench.step_needs(way, size, reading.reserved - stays)
            if way == 0 and bench.device.type == "cuda":
                bench.facts[f"kernels {size}"] = _kernels(step)
            mine.next_way()
        mine.close()
        del mine, step
        tidy()


def _kernels(step: Callable[[], object], times: int = 3) -> list[str]:
    """The kernels of a step: milliseconds, launches, name."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
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
    mine = Ours(bench.unet, new_adapter(bench.unet, bench.rank // 2, "free"), bench.device, correspondence="output_preservation")
    for size in bench.sizes:
        name = f"B4M, its defaults: free split, rank {bench.rank // 2}, one own and one kept picture"
        bench.take(name, size, mine.whole(bench.batch(size, 2)))
    mine.close()


def riemannian(bench: Bench) -> None:
    """The optimiser of training together, against an inverse for every layer."""
    mine = Ours(bench.unet, bench.adapter, bench.device, role="together")
    bench.take("Riemannian step, all layers", 0, mine.optimiser_alone(), seconds=0.5)
    mine.close()
    del mine
    tidy()
    bench.take(
        "an inverse for every layer", 0, peers.inverse_for_every_layer(bench.adapter.shapes(), bench.rank, bench.device), seconds=1.0
    )


def published(bench: Bench) -> None:
    """The published loop's pattern."""
    as_others_have_it(bench.unet)
    made = peers.Published(bench.unet, bench.rank, bench.dtype)
    for size in bench.sizes[:1]:
        bench.take("published loop's pattern", size, made.whole(bench.cast_batch(size)))
    made.close()


@contextlib.contextmanager
def _card_left_alone(bench: Bench) -> Iterator[None]:
    """Our network off the card while a peer has it."""
    bench.unet.to("cpu")
    tidy()
    try:
        yield
    finally:
        bench.unet.to(bench.device)


def authors_program(bench: Bench) -> None:
    """The authors' own program and their own optimiser."""
    asked = bench.peer_job("published", bench.sizes[0])
    with _card_left_alone(bench):
        for reading in peer_process.ask("peer_published", asked):
            bench.note(reading)


def train_lora_node(bench: Bench) -> None:
    """ComfyUI's own trainer, in either way that it offers; what does not fit on the card is named."""
    wanted = [bench.peer_job("comfyui", size, accumulated=way) for size in bench.sizes for way in (True, False)]
    with _card_left_alone(bench):
        for asked in wanted:
            try:
                for reading in peer_process.ask("peer_comfyui", asked):
                    bench.note(reading)
            except RuntimeError as error:
                name = f"TrainLoraNode, {asked.size} px, {'accumulated' if asked.accumulated else 'a batch'}"
                bench.facts["skipped"][name] = f"{error}"[:300]


def inside_comfyui(bench: Bench, allocator: str = "cudaMallocAsync") -> None:
    """Trainings with the defaults inside ComfyUI's classes, on the whole card and where others hold most of it."""
    cuda = bench.device.type == "cuda"
    asked = bench.peer_job("comfyui", bench.sizes[0])
    asked.sizes, asked.dtype = list(bench.sizes), "float16" if cuda else asked.dtype
    for gib in (0, 8, 6) if cuda else (0,):
        asked.card = f"; {allocator}" * cuda + f", a card of {gib} GiB" * bool(gib)
        with _card_left_alone(bench), _most_of_the_card_taken(bench, gib) as taken:
            try:
                found = peer_process.ask("host_training", asked, PYTORCH_CUDA_ALLOC_CONF=f"backend:{allocator}")
            except RuntimeError as error:
                bench.facts["skipped"][f"inside ComfyUI{asked.card}"] = f"{error}"[:300]
                continue
        for size in set(asked.sizes) - {reading.size for reading in found}:
            bench.facts["skipped"][f"inside ComfyUI{asked.card}, {size} px"] = "the card's memory is too small"
        for reading in found:
            reading.driver = max(0.0, reading.driver - taken)
            bench.note(reading)
            if reading.main:
                print(f"   main memory: {reading.main:.1f} GiB at most", flush=True)


@contextlib.contextmanager
def _most_of_the_card_taken(bench: Bench, leave: float) -> Iterator[float]:
    """Hold all but ``leave`` GiB of the card (0: nothing), as other programs would; the GiB that are taken then."""
    if bench.device.type != "cuda":
        yield 0.0
        return
    free, total = torch.cuda.mem_get_info(bench.device)
    held = torch.empty(max(0, free - round(leave * GIB)) if leave else 0, dtype=torch.uint8, device=bench.device)
    try:
        yield (total - torch.cuda.mem_get_info(bench.device)[0]) / GIB
    finally:
        del held
        tidy()


def peft(bench: Bench) -> None:
    """diffusers with PEFT."""
    as_others_have_it(bench.unet)
    made = peers.Peft(bench.unet, bench.rank, bench.dtype)
    for size in bench.sizes:
        bench.take("diffusers + PEFT", size, made.whole(bench.cast_batch(size)))
    made.close()


def tuned_peft(bench: Bench) -> None:
    """The fair control: diffusers with PEFT as a good engineer tunes it, beside ours in the same run."""
    if bench.device.type != "cuda":
        raise NotGiven("a CUDA graph needs a card")
    as_others_have_it(bench.unet)
    made = peers.TunedPeft(bench.unet, bench.rank, bench.dtype)
    try:
        for size in bench.sizes:
            reading = bench.take(TUNED, size, made.whole(bench.cast_batch(size)))
            tidy()
            ours = next((each for each in bench.readings if (each.name, each.size) == ("B4M", size)), None)
            if ours is not None:
                ratio = reading.milliseconds / ours.milliseconds
                bench.facts[f"{TUNED} by ours, {size} px"] = ratio
                print(f"   {ratio:.2f} times ours", flush=True)
    finally:
        made.close()
        torch.compiler.reset()


def small_card(bench: Bench) -> None:
    """Under a hard cap on what this process may allocate: which is the first way that fits, and how fast is it."""
    if bench.device.type != "cuda":
        return
    small, large = bench.sizes[0], bench.sizes[-1]
    wanted = [
        (8.0, "halves", "multi_correspondence", bench.rank, ROWS, large),
        (8.0, "halves", "multi_correspondence", bench.rank, ROWS, small),
        (8.0, "halves", "output_preservation", bench.rank, 2, large),
        (8.0, "free", "output_preservation", bench.rank, 2, large),
        (8.0, "free", "output_preservation", bench.rank // 2, 2, large),
        (6.0, "free", "output_preservation", bench.rank // 2, 2, large),
        (6.0, "free", "output_preservation", bench.rank // 2, 2, small),
    ]
    for cap, split, correspondence, rank, rows, size in wanted:
        tidy()
        _, total = torch.cuda.mem_get_info(bench.device)
        torch.cuda.set_per_process_memory_fraction(cap * GIB / total)
        name = f"B4M within {cap:g} GiB: {split}, rank {rank}, {rows} pictures"
        try:
            _first_that_fits(bench, name, new_adapter(bench.unet, rank, split), correspondence, rows, size)
        except (B4MError, torch.cuda.OutOfMemoryError) as error:
            bench.facts[f"{name}, {size} px"] = f"does not fit: {error}"[:400]
            print(f"{name}, {size} px does not fit: {error}"[:400], flush=True)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    bench.facts["GiB of main memory, at most"] = main_memory()
    print(f"main memory: {bench.facts['GiB of main memory, at most']:.1f} GiB at most", flush=True)


def _first_that_fits(bench: Bench, name: str, adapter: Adapter, correspondence: str, rows: int, size: int) -> None:
    mine = Ours(bench.unet, adapter, bench.device, correspondence=correspondence)
    step = mine.whole(bench.batch(size, rows))
    try:
        step()  # the engine takes the next way by itself until one fits
        bench.take(f"{name}: {MEMORY_MODES[mine.mode].words}", size, step, seconds=1.0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        mine.close()


def plain(bench: Bench) -> None:
    """Our sums without the fast path."""
    mine = Ours(bench.unet, bench.adapter, bench.device, plain=True)
    bench.take("B4M without the fast path", bench.sizes[0], mine.whole(bench.batch(bench.sizes[0])))
    mine.close()


def scaling(bench: Bench) -> None:
    """Time and memory against resolution, rank and auxiliary pictures, for the chart: [what, number, ms, GiB reserved]."""
    low, high = bench.sizes[0], bench.sizes[-1]
    grid = [("resolution", size, size, bench.rank, ROWS, "multi_correspondence") for size in (low, (low + high) // 2, high)]
    grid += [
        ("rank", rank, low, rank, ROWS, "multi_correspondence") for rank in (bench.rank // 4, bench.rank // 2, bench.rank, bench.rank * 2)
    ]
    grid += [("auxiliary pictures", rows - 1, low, bench.rank, rows, "multi_correspondence") for rows in (2, 3, 4)]
    grid += [("one kept picture", size, size, bench.rank, 2, "output_preservation") for size in (low, high)]
    known: dict[tuple[object, ...], Reading] = {}
    found: list[list[Any]] = []
    bench.facts["scaling"] = found
    for what, number, *case in grid:
        size, rank, rows, correspondence = case
        if tuple(case) not in known:
            adapter = bench.adapter if rank == bench.rank else new_adapter(bench.unet, rank)
            mine = Ours(bench.unet, adapter, bench.device, correspondence=correspondence)
            step = mine.whole(bench.batch(size, rows))
            known[tuple(case)] = timed("scaling", size, step, seconds=bench.seconds / 4, device=bench.device)
            mine.close()
            del mine, step
            tidy()
        reading = known[tuple(case)]
        found.append([what, number, reading.milliseconds, reading.reserved])
        print(f"scaling: {what} {number}: {reading.milliseconds:.1f} ms, {reading.reserved:.2f} GiB", flush=True)


def painting(bench: Bench) -> None:
    """A pass through the network with an adapter patched in and without, and the patching itself."""
    as_others_have_it(bench.unet)
    given = bench.cast_batch(bench.sizes[-1])
    targets = bench.adapter.targets(bench.unet)

    def patch() -> None:
        for name, linear in targets.items():
            up, down = (part.to(bench.device, bench.dtype, non_blocking=True) for part in bench.adapter.layers[name].lora_factors())
            linear.weight.addmm_(up, down)

    with torch.no_grad():
        bench.take("painting: one pass, the base model", bench.sizes[-1], lambda: peers.prediction(bench.unet, given))
        bench.take("applying an adapter", 0, patch, seconds=0.5)
        bench.take("painting: one pass, an adapter patched in", bench.sizes[-1], lambda: peers.prediction(bench.unet, given))


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "ceiling": (ceiling, 3),
    "training": (training, 60),
    "whole job": (whole_job, 110),
    "ours": (ours, 40),
    "riemannian": (riemannian, 8),
    "small card": (small_card, 40),
    "peft": (peft, 25),
    "tuned peft": (tuned_peft, 90),
    "published": (published, 25),
    "authors' program": (authors_program, 60),
    "TrainLoraNode": (train_lora_node, 120),
    "inside ComfyUI": (inside_comfyui, 60),
    "inside ComfyUI, torch's allocator": (functools.partial(inside_comfyui, allocator="native"), 60),
    "painting": (painting, 8),
    "defaults": (defaults, 15),
    "convolutions": (convolutions, 60),
    "convolutions, agreement": (agreement, 15),
    "words": (learned_words, 30),
    "scaling": (scaling, 50),
    "plain": (plain, 15),
}
"""By name: the function, and the seconds that must be left for it to begin on a card."""
