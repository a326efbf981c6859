"""One training on several cards beside one card, and beside PEFT in DistributedDataParallel: python b4m.py bench cards [FOLDER]

At SDXL's real size with random weights, 1024 px. Writes FOLDER/cards.json and cards.md. Without several cards two processes share a
processor, which says whether it works and nothing about speed.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .report import table

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Phases:
    """What is run one after the other: on one card, on all of ``count`` together, on one again that goes on with what they began."""

    folder: Path
    count: int
    real: bool
    seconds: float
    ends: float

    @property
    def accumulations(self) -> list[int]:
        """Micro-steps a step, the one that everything is compared at first."""
        return [4, 2, 8] if self.real else [self.count]

    def start(self, name: str, processes: int, card: int = 0, **more: Any) -> subprocess.Popen[bytes]:
        """Begin one job (worker.py); its ``card`` counts where it is alone."""
        network = {"network": "SDXL", "device": "cuda", "size": 1024, "rank": 32, "steps": 20}
        tiny = {"network": "tiny", "device": "cpu", "size": 64, "rank": 2, "steps": 6}
        folders = {"file": str(self.folder / f"{name}.json"), "store": str(self.folder / name)}
        job = {"ours": [], "peft": [], **(network if self.real else tiny), **folders, **more}
        written = self.folder / f"{name}.job"
        written.write_text(json.dumps(job), encoding="utf-8")
        launcher = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port()), "-m"]
        several = launcher if processes > 1 else []
        found = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = os.environ | {"NCCL_NVLS_ENABLE": "0", "PYTHONPATH": found}
        if processes == 1 and self.real:
            variables["CUDA_VISIBLE_DEVICES"] = str(card)
        return subprocess.Popen([sys.executable, "-m", *several, "benchmarks.cards.worker", str(written)], cwd=ROOT, env=variables)

    def run(self) -> None:
        """All of them; where there are cards, within the seconds."""
        first = self.accumulations[0]
        one = self.start("one", 1, ours=self.accumulations, exact=first)
        if not self.real:
            self.finish([one], 1.0)
        # the second card has nothing else to do: the same once more, for how far two runs of one card are apart
        self.finish([one, self.start("repeated", 1, 1, ours=[first], peft=[first])], 0.42)
        fewer = {"steps": 15 if self.real else 4}
        self.finish([self.start("several", self.count, ours=self.accumulations, exact=first, sums=True, peft=[first], **fewer)], 0.48)
        self.finish([self.start("again", 1, again=first, store=str(self.folder / "several"))], 1.0)

    def finish(self, started: Sequence[subprocess.Popen[bytes]], share: float) -> None:
        """Wait for a ``share`` of all seconds, or until they are over; what is not done then is ended, and what it found so far stands."""
        now = time.monotonic()
        ends = min(now + share * self.seconds, self.ends)
        for process in started:
            try:
                process.wait(max(1.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"not done after {time.monotonic() - now:.0f} s", flush=True)
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(8)
                process.kill()


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main(options: argparse.Namespace) -> None:
    """Measure, write, and print."""
    cards = torch.cuda.device_count()
    real, folder = cards > 1 and not options.tiny, options.folder.resolve()
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    phases = Phases(scratch, options.processes or (cards if real else 2), real, options.seconds, time.monotonic() + options.seconds)
    phases.run()
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(scratch.glob("*.json"))}
    shutil.rmtree(scratch, ignore_errors=True)
    (folder / "cards.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    (folder / "cards.md").write_text(table(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="cards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("b4m_cards"), help="where the results go (b4m_cards)")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--processes", type=int, default=0, help="how many; all cards by default")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to try the benchmark itself")
    main(parser.parse_args())
