"""A studio command as a program of its own, watched from outside: what it prints and when, and how busy the cards are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ENDED = re.compile(r"\[\d+/\d+\] (auxiliary|training|pair) (.*): (.*) \((\d+\.\d) s, .*process (\d+)\)")


@dataclass(frozen=True)
class Ended:
    """A task that came to its end: its kind and name, what was said, its seconds, its worker's process and when."""

    kind: str
    name: str
    said: str
    seconds: float
    process: int
    at: float


@dataclass
class Watched:
    """One command: its exit status, the seconds it took, its lines with their time, and the tasks that ended."""

    status: int
    seconds: float
    lines: list[tuple[float, str]]
    ended: list[Ended] = field(default_factory=list)
    busy: float | None = None

    def last(self, kind: str) -> float:
        """When the last task of a kind ended, in seconds since the start; 0 without one."""
        return max((each.at for each in self.ended if each.kind == kind), default=0.0)

    def work(self, kind: str) -> float:
        """Seconds of all tasks of a kind together."""
        return sum(each.seconds for each in self.ended if each.kind == kind)


def watch(
    plan: Path, where: Sequence[str], *, often: bool = False, on_line: Callable[[str], None] = lambda line: None, limit: float = 1e9
) -> Watched:
    """Run ``studio plan`` with the words ``where``; ``on_line`` gets each line as it comes. It is killed after ``limit`` seconds."""
    module = "benchmarks.studio.saving_often" if often else "b4m_core"
    command = [sys.executable, "-u", "-m", module, "studio", str(plan), *where]
    began = time.monotonic()
    cards = _Cards()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    timer = threading.Timer(limit, process.kill)
    timer.start()
    lines: list[tuple[float, str]] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append((time.monotonic() - began, line.rstrip()))
        on_line(line.rstrip())
    status = process.wait()
    timer.cancel()
    done = Watched(status, time.monotonic() - began, lines, busy=cards.mean())
    for at, line in lines:
        if found := _ENDED.match(line):
            done.ended.append(Ended(found[1], found[2], found[3], float(found[4]), int(found[5]), at))
    return done


class _Cards:
    """The share of time in which the visible cards were at work, as nvidia-smi says it twice a second."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        if program := shutil.which("nvidia-smi"):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            which = ("-i", visible) if visible else ()
            command = [program, *which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def mean(self) -> float | None:
        """Of all samples and cards, 0..1; None without nvidia-smi."""
        if self._process is None or self._process.stdout is None:
            return None
        self._process.terminate()
        values = [float(line) for line in self._process.stdout.read().split() if line.replace(".", "").isdigit()]
        return sum(values) / len(values) / 100 if values else None
