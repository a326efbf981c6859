"""One process of the measurement: trains as an artist's run does, alone or as one of several, and says how long a step took.

    python -m benchmarks.cards.worker JOB.json              # or by torchrun
"""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from b4m_core import Progress, RunStore, TrainingSettings, keeping, train
from b4m_core.engine import Engine
from b4m_core.process_group import joined
from b4m_core.several import Processes
from b4m_core.training import assist
from b4m_core.trainings import training
from benchmarks.speed.clock import tidy, wait
from benchmarks.speed.job import RandomBase, plan
from benchmarks.speed.network import EMBEDDED, SDXL, TINY, inputs_of, new_adapter, random_network
from benchmarks.speed.peers import Peft, prediction

NETWORKS = {"SDXL": SDXL, "embedded": EMBEDDED, "tiny": TINY}
DEFAULTS = {"split": "free", "correspondence": "output_preservation"}
WARM = 3
"""Steps that do not count: what is first done is compiled, recorded and chosen."""


@dataclass
class Job:
    """What the processes are to do; each list is of accumulations. ``exact``: a network in double precision, for how far losses are off.
    ``again``: the accumulation whose run another job has begun in its ``store``, and which is to go on there. ``loud``: for accidents.py,
    every step is printed and kept a second later, and each process writes its number.
    """

    file: str
    store: str
    network: str
    device: str
    size: int
    rank: int
    steps: int
    ours: list[int]
    peft: list[int]
    sums: bool = False
    exact: int = 0
    again: int = 0
    loud: bool = False


class SeededBase(RandomBase):
    """A base model whose pictures and texts are the same in every process, and as fast."""

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Noise that follows from the picture."""
        with _seed(float(pixels.double().mean())):
            return super().encode_pictures(pixels)

    def encode_text(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Noise that follows from the words."""
        with _seed(float(sum(map(ord, "".join(prompts))))):
            return super().encode_text(prompts)


@contextlib.contextmanager
def _seed(value: float) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(value * 1e6) % 2**31)
        yield


def ours(base: SeededBase, job: Job, accumulated: int, steps: int, store: Path, processes: Processes) -> dict[str, Any]:
    """A whole training: its losses, and the milliseconds of the steps that count."""
    settings = TrainingSettings(
        rank=job.rank, steps=steps, resolution=job.size, gradient_accumulation_steps=accumulated, file_dtype="float32", **DEFAULTS
    )
    made, ends, losses = plan(base.unet, "content", job.size, settings), [time.perf_counter()], []

    def watch(progress: Progress) -> None:
        if progress.step_done:
            ends.append(time.perf_counter())
            losses[:] = [list(row) for row in progress.losses]
            if job.loud:
                print(f"step {progress.step}", flush=True)

    if not processes.leads:
        assist(made, base, processes)
        return {}
    train(made, base, RunStore(store, most_bytes=10**12), watch, keep_every=0, processes=processes)
    counted = [(after - before) * 1000 for before, after in zip(ends[WARM:], ends[WARM + 1 :], strict=False)]
    found = {"losses": losses, "times": len(counted), "seconds to the first step": ends[1] - ends[0]}
    return found | ({"ms": statistics.median(counted), "fastest": min(counted)} if counted else {})


def peft(unet: Any, job: Job, accumulated: int, processes: Processes, device: torch.device) -> dict[str, Any]:
    """diffusers with PEFT as accelerate's loop has it: DistributedDataParallel, gradients added up with the last micro-step alone."""
    for module in unet.modules():  # in torch's own layout again, whatever ours made of them
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.weight.data = module.weight.data.contiguous()
    peer = Peft(unet, job.rank, torch.bfloat16 if device.type == "cuda" else torch.float32)
    shared = processes.count > 1
    model: Any = torch.nn.parallel.DistributedDataParallel(unet, process_group=processes._sums) if shared else unet  # type: ignore[attr-defined]
    mine = len(range(processes.index, accumulated, processes.count))
    given = [inputs_of(unet, job.size, 2, device, seed=number) for number in range(mine)]

    def step() -> float:
        total = 0.0
        for number, inputs in enumerate(given):
            last = number == mine - 1
            with contextlib.nullcontext() if last or not shared else model.no_sync(), torch.autocast(device.type, peer.dtype):
                loss = mse_loss(prediction(model, inputs), inputs["target"]) / mine
                loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(peer.parameters, 1.0)
        peer.optimiser.step()
        peer.optimiser.zero_grad()
        return total

    durations = _durations(step, job.steps // 2, device)
    peer.close()
    return {"ms": statistics.median(durations), "fastest": min(durations), "times": len(durations)}


def sums(base: SeededBase, job: Job, processes: Processes, device: torch.device) -> dict[str, float]:
    """What several processes cost beside their micro-steps: all they say and add up in one step."""
    row = training("content", DEFAULTS["correspondence"])
    settings = TrainingSettings(rank=job.rank, gradient_accumulation_steps=processes.count, **DEFAULTS)
    engine = Engine.build(base.unet, new_adapter(base.unet, job.rank, "free"), row, settings, other_sets=1, processes=processes)
    gradients, losses = engine.learned.gradients(), torch.zeros(2, device=device)
    durations = _durations(lambda: processes.summed(losses, gradients, engine.share), 20, device)
    megabytes = sum(gradient.numel() * gradient.element_size() for gradient in gradients) / 1e6
    engine.close()
    return {"ms": statistics.median(durations), "MB": megabytes, "tensors": len(gradients)}


def exact(job: Job, device: torch.device, processes: Processes) -> dict[str, Any]:
    """A short training of the small network in double precision."""
    base = SeededBase(random_network(TINY, device, torch.float64), device, torch.float64)
    small = Job(**{**vars(job), "size": 64, "rank": 4})
    return ours(base, small, job.exact, 8, Path(job.store) / "exact", processes)


def _durations(step: Any, times: int, device: torch.device) -> list[float]:
    found = []
    for _ in range(max(times, 2) + WARM):
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        found.append((time.perf_counter() - started) * 1000)
    return found[WARM:]


def work(job: Job, processes: Processes) -> dict[str, Any]:
    """All of a job; the first process has what was found. It is written after every part, so that a limit costs no more than one."""
    if job.loud:
        keeping.SAVE_SECONDS = 1.0
        Path(f"{job.file}.{processes.index}").write_text(str(os.getpid()), encoding="utf-8")
    device = torch.device(processes.device(job.device))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found: dict[str, Any] = {"processes": processes.count, "ours": {}, "peft": {}, "network": job.network, "size": job.size}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    found["torch"] = torch.__version__

    def keep(part: str, key: str, value: Any) -> None:
        found.setdefault(part, {})[key] = value
        if processes.leads:
            Path(job.file).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(part, key, {name: each for name, each in value.items() if name != "losses"}, flush=True)
        tidy()

    base = SeededBase(random_network(NETWORKS[job.network], device, dtype), device, dtype)
    for accumulated in job.ours:
        steps = min(job.steps, max(job.steps * job.ours[0] // accumulated, WARM + 4))
        keep("ours", str(accumulated), ours(base, job, accumulated, steps, Path(job.store) / str(accumulated), processes))
    if job.exact:
        keep("exact", str(job.exact), exact(job, device, processes))
    if job.again:
        keep("again", str(job.again), ours(base, job, job.again, job.steps, Path(job.store) / str(job.again), processes))
    if job.sums and processes.count > 1:
        keep("sums", "a step", sums(base, job, processes, device))
    for accumulated in job.peft:
        keep("peft", str(accumulated), peft(base.unet, job, accumulated, processes, device))
    return found


if __name__ == "__main__":
    with joined(os.environ) as all_of_them:
        work(Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), all_of_them)
