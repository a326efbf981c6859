"""Peers that need a process of their own: what is asked of it, what it answers, and the clock on a loop that is not ours."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .clock import Reading, how_often, reading_of, wait

LIMIT = 180.0
"""Seconds that a peer may take in all."""


@dataclasses.dataclass
class Job:
    """What a peer is to do: its own sources, diffusers' description of the network, and what a step is made of. ``shapes`` are those of the
    560 projections; ``accumulated`` says that the rows go through the network one after the other, where a peer can do either. ``sizes``
    are for who does several, ``card`` says in words what card it has.
    """

    folder: str
    network: dict[str, Any]
    size: int
    rank: int
    rows: int
    seconds: float
    dtype: str
    shapes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    accumulated: bool = False
    sizes: list[int] = dataclasses.field(default_factory=list)
    card: str = ""

    @property
    def device(self) -> torch.device:
        """The card, where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def pooled(self) -> int:
        """How wide the pooled text is."""
        return int(self.network["projection_class_embeddings_input_dim"] - 6 * self.network["addition_time_embed_dim"])


class Enough(Exception):  # noqa: N818
    """Ends a loop that is not ours once it was watched for long enough."""


class Watch:
    """To be called at the end of every step of such a loop: waits for the card and looks at the clock. The first two steps do not count
    (nor does, for the peak memory, what came before the first had ended), and after as many more as clock.py takes the loop is ended.
    """

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.seconds, self.device, self.times = seconds, device, 0
        self.ends: list[float] = []

    def __call__(self, *_: object, **__: object) -> None:
        wait(self.device)
        self.ends.append(time.perf_counter())
        if len(self.ends) == 1 and self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif len(self.ends) == 2:
            self.times = how_often(self.seconds, self.ends[1] - self.ends[0])
        elif len(self.ends) == 2 + self.times:
            raise Enough

    def reading(self, name: str, size: int) -> Reading:
        """The line of the steps that count."""
        counted = self.ends[1:]
        durations = [(after - before) * 1000 for before, after in zip(counted, counted[1:], strict=False)]
        return reading_of(name, size, durations, self.device)


def ask(module: str, job: Job, **environment: str) -> list[Reading]:
    """Let ``module`` of this package do the job in a process of its own, with nothing of the peer's in ours."""
    words = [sys.executable, "-m", f"benchmarks.speed.{module}"]
    given, root = json.dumps(dataclasses.asdict(job)), Path(__file__).parents[2]
    try:
        done = subprocess.run(words, input=given, cwd=root, env=os.environ | environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {LIMIT:g} s") from None
    print(done.stderr[-4000:], file=sys.stderr, flush=True)  # for who reads along
    if done.returncode:
        raise RuntimeError(_reason(done.stderr))
    return [Reading(**found) for found in json.loads(done.stdout.splitlines()[-1])]


def asked() -> Job:
    """On the other side: the job."""
    return Job(**json.load(sys.stdin))


def answer(readings: Sequence[Reading]) -> None:
    """On the other side: the last thing that is printed."""
    print("\n" + json.dumps([dataclasses.asdict(reading) for reading in readings]), flush=True)


def _reason(output: str) -> str:
    """What the process said last."""
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
