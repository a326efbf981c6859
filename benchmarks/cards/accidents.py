"""What becomes of a training on several cards when something happens in its middle: python -m benchmarks.cards.accidents FOLDER

One process is killed; the launcher gets Ctrl-C; each time the run goes on alone. Writes FOLDER/accidents.json. Two processes without
cards.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .__main__ import ROOT, free_port
from .worker import Job

STEPS, AT, MORE = 100_000, 40, 10  # never reached; when it happens; how many more one process does
LIMIT = 120.0
"""Seconds that an end may take: torchrun kills what hangs after 30."""


def main(folder: Path) -> None:
    """Both accidents, one after the other."""
    cards = torch.cuda.device_count()
    count, device, network, size = (cards, "cuda", "SDXL", 512) if cards > 1 else (2, "cpu", "tiny", 64)
    found: dict[str, Any] = {}
    accidents: dict[str, Callable[[subprocess.Popen[str], int], None]] = {
        "one process killed": lambda launcher, other: os.kill(other, signal.SIGKILL),
        "Ctrl-C": lambda launcher, other: os.killpg(launcher.pid, signal.SIGINT),  # as a terminal does
    }
    for name, accident in accidents.items():
        place = folder / name.replace(" ", "_").replace("-", "_")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        job = Job(str(place / "found.json"), str(place / "store"), network, device, size, 4, STEPS, [count], [], loud=True)
        found[name] = _happened(place, job, count, accident) | _goes_on(place, job)
        print(name, found[name], flush=True)
        shutil.rmtree(place, ignore_errors=True)
        (folder / "accidents.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _started(place: Path, job: Job, count: int) -> subprocess.Popen[str]:
    (place / "job.json").write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
    launcher = ["torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(free_port()), "-m"] if count > 1 else []
    found = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-m", *launcher, "benchmarks.cards.worker", str(place / "job.json")]
    heard: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": found}, start_new_session=True, **heard)


def _happened(place: Path, job: Job, count: int, accident: Callable[[subprocess.Popen[str], int], None]) -> dict[str, Any]:
    launcher = _started(place, job, count)
    limit = threading.Timer(LIMIT, os.killpg, (launcher.pid, signal.SIGKILL))
    at, last, said, began = AT if job.device == "cuda" else 6, 0, [], 0.0
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if line.startswith("step "):
            last = int(line.split()[1])
            if last >= at and not began:
                limit.start()
                began = time.monotonic()
                accident(launcher, int(Path(f"{job.file}.1").read_text(encoding="utf-8")))
        elif began and ("B4MError" in line or "KeyboardInterrupt" in line):
            said.append(line.strip()[-300:])
    code = launcher.wait()
    limit.cancel()
    kept = sorted(int(file.stem.split("-")[1]) for file in (place / "store").rglob("state-*.safetensors"))
    return {"seconds until all had ended": time.monotonic() - began, "exit status": code, "last step": last, "kept": kept, "said": said[:4]}


def _goes_on(place: Path, job: Job) -> dict[str, Any]:
    kept = [int(file.stem.split("-")[1]) for file in (place / "store").rglob("state-*.safetensors")]
    alone = _started(place, dataclasses.replace(job, steps=max(kept, default=0) + MORE), 1)
    heard, _ = alone.communicate()
    steps = [int(line.split()[1]) for line in heard.splitlines() if line.startswith("step ")]
    return {"went on alone with": steps[:1], "until": steps[-1:], "ended well": alone.returncode == 0}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    where = parser.parse_args().folder.resolve()
    where.mkdir(parents=True, exist_ok=True)
    main(where)
