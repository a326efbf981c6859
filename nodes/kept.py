"""What the page may ask about the run store: the steps that a run kept, with their samples, and what the whole store takes.

Answers are made from the files alone, so they are there after a restart of the server, and while a training writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..b4m_core import B4MError, RunStore
from ..b4m_core.runs import Run
from . import host
from .live import curve

_MOST_RUNS = 50  # of the store are listed one by one


def run_kept(asked: Mapping[str, Any]) -> dict[str, Any]:
    """{"stored": a run's key} -> its steps {"step", "loss", "sample" (bool), "adapter" (bool: taken without training)} and its curve."""
    run = _run(asked.get("stored"))
    steps = [
        {"step": kept.step, "loss": kept.loss, "sample": kept.sample is not None, "adapter": kept.adapter or kept.state}
        for kept in run.kept()
    ]
    losses = run.losses()
    return {"stored": run.key, "steps": steps, "curve": curve([row[1] for row in losses], [int(row[0]) for row in losses])}


def store_kept(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the store takes: its folder, bytes and bound, and its runs, the one that was used last first. Nothing of `asked` is read."""
    store = RunStore(host.run_store_folder())
    entries = store.entries()
    sizes = {entry.path: entry.bytes for entry in entries}
    runs = [
        {"stored": run.key, "bytes": sizes.get(run.folder, 0), "used": run.used(), "step": run.reach()}
        for run in store.runs()[:_MOST_RUNS]
    ]
    return {"folder": str(store.root), "bytes": sum(sizes.values()), "most_bytes": store.most_bytes, "entries": len(entries), "runs": runs}


def sample_kept(asked: Mapping[str, str]) -> bytes:
    """{"stored": the key of a run, "step": a number} -> the sample of that step, a JPEG."""
    run, said = _run(asked.get("stored")), asked.get("step", "")
    step = int(said) if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 10 else -1
    path = run.sample(step)
    try:
        picture = b"" if path is None else path.read_bytes()
    except OSError:
        picture = b""  # it has made room for others since
    if not picture:
        raise B4MError("There is no sample of that step.")
    return picture


def _run(key: Any) -> Run:
    run = RunStore(host.run_store_folder()).find(key) if isinstance(key, str) else None
    if run is None:
        raise B4MError("This run is not kept any more: press Run to train it again.")
    return run


def add_routes() -> None:
    """Register POST /b4m/kept and /b4m/store and GET /b4m/kept/sample. Must be called while the host starts."""
    host.add_json_route("/b4m/kept", run_kept)
    host.add_json_route("/b4m/store", store_kept)
    host.add_picture_route("/b4m/kept/sample", sample_kept)
