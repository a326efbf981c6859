"""A worker that is killed in the middle of a training, and a disk that fills."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from b4m_core.studio import library

from .sets import CONTENTS, STYLES, plan_of
from .watched import Watched, watch

_BEGUN = re.compile(r"training (\w+) (.*?) .*step (\d+) of (\d+): begun \(process (\d+)\)")


def killed(folder: Path, where: Sequence[str], steps: int, limit: float) -> dict[str, Any]:
    """Two trainings on the workers, one worker killed when a save is there; on processors beside the same ones undisturbed,
    since a card's sums differ in their last digits from run to run.
    """
    undisturbed = None
    if "--cpu" in where:
        plain = _plan(folder / "plain", folder / "plain store", folder / "plain library", steps)
        undisturbed = watch(plain, where, often=True, limit=limit)
    plan = _plan(folder / "killed", folder / "store", folder / "library", steps)
    seen: list[tuple[str, int, int]] = []

    def on_line(line: str) -> None:
        if found := _BEGUN.search(line):
            seen.append((f"{found[1]} {found[2]}", int(found[3]), int(found[5])))
            if len(seen) == 1:
                subprocess.Popen([*_killer(), str(folder / "store"), found[5]])

    done = watch(plan, where, often=True, on_line=on_line, limit=limit)
    again = [start for name, start, _ in seen[1:] if name == seen[0][0]] if seen else []
    return {
        "seconds undisturbed": None if undisturbed is None else round(undisturbed.seconds, 1),
        "seconds with a kill": round(done.seconds, 1),
        "steps": steps,
        "went on from step": again[0] if again else None,
        "processes": sorted({process for _, _, process in seen}),
        "status": done.status,
        "adapters": len(list((folder / "library").glob("*/*.safetensors"))),
        "same bytes as undisturbed": _same(folder / "plain library", folder / "library"),
        "said": [line for _, line in done.lines if "training" in line][-8:],
    }


def _plan(folder: Path, store: Path, output: Path, steps: int) -> Path:
    return plan_of(
        folder, CONTENTS[:1], STYLES[:1], preset="quick", store=store, output=output, settings={"steps": steps}, auxiliary=1
    )  # fmt: skip


def _killer() -> list[str]:
    return [sys.executable, "-m", "benchmarks.studio.killer"]


def _same(first: Path, second: Path) -> int | None:
    """How many of the two adapters are the same bytes in both libraries; None where there is but one."""
    if not first.is_dir():
        return None
    return sum(a.read_bytes() == b.read_bytes() for a, b in _files(first, second))


def _files(first: Path, second: Path) -> list[tuple[Path, Path]]:
    names = (("content", CONTENTS[0]), ("style", STYLES[0]))
    pairs = [tuple(library.path_of(output, role, name) for output in (first, second)) for role, name in names]
    return [(a, b) for a, b in pairs if a.is_file() and b.is_file()]


def full_disk(folder: Path, where: Sequence[str], steps: int, limit: float) -> dict[str, Any]:
    """A disk of its own that is full at first, is freed, fills in the middle and is freed again."""
    with _small_disk(folder / "disk") as disk:
        if disk is None:
            return {"not run": "no small disk could be mounted here"}
        plan = _plan(folder / "full", disk / "store", disk / "library", steps)
        filler = disk / "filler"
        _fill(filler)
        first = watch(plan, where, often=True, limit=limit)
        filler.unlink()

        def on_line(line: str) -> None:
            if "begun" in line and not filler.exists():
                _fill(filler)
            elif "could not be kept" in line or "FAILED" in line:
                filler.unlink(missing_ok=True)

        second = watch(plan, where, often=True, on_line=on_line, limit=limit)
        filler.unlink(missing_ok=True)
        third = watch(plan, where, often=True, limit=limit) if second.status else second
        return {
            "full from the beginning": [first.status, _complaints(first)],
            "fills in the middle, freed when it is told": [second.status, _complaints(second)],
            "the same command again": [third.status, round(third.seconds, 1)],
            "adapters whole": len(list((disk / "library").glob("*/*.safetensors"))),
            "half files": len(list(disk.rglob("*.partial"))),
        }


def _complaints(done: Watched) -> list[str]:
    return [line for _, line in done.lines if "FAILED" in line or "kept" in line or "was kept" in line or line.startswith("b4m:")][:6]


def _fill(file: Path) -> None:
    with contextlib.suppress(OSError), open(file, "wb") as opened:
        while True:
            opened.write(b"\0" * (1 << 20))
            opened.flush()


@contextlib.contextmanager
def _small_disk(place: Path, megabytes: int = 400) -> Iterator[Path | None]:
    """A file system of its own in memory; None where this program may mount none."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def kill_when_saved(store: Path, process: int) -> None:
    """Wait for a state in the store, then kill."""
    for _ in range(1200):
        if list(store.rglob("state-*.safetensors")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.05)
