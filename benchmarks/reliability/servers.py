"""A ComfyUI server that is killed while a node trains: started again, the same graph goes on and comes to the same adapter."""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from b4m_core import load_adapter
from launcher import hosts, ports, server
from launcher.client import Graph
from launcher.hosts import Host

Line = tuple[str, int, int, str, str]
STEPS = 12
MOST_KILLS = 5  # of one training
TRAINING: dict[str, Any] = {
    "steps": STEPS, "learning_rate": 3e-3, "resolution": 128, "sample_every": 3, "sample_prompt": "a snq bird", "run": "continue or reuse",
    "sample_steps": 1, "sample_cfg": 1.0, "batch_size": 1, "gradient_accumulation_steps": 1, "weight_decay": 0.01, "flip": False,
    "file_dtype": "float16", "auxiliary_learning_rate": 3e-4, "rank": 8, "basis_seed": 0, "start": "zero_start",
}  # fmt: skip


def kills(wanted: int) -> list[Line]:
    """The line of the table; B4M_COMFYUI names the ComfyUI."""
    folder = os.environ.get("B4M_COMFYUI")
    if not folder:
        return [("killed while a ComfyUI server trains", 0, 0, "not run: B4M_COMFYUI names no ComfyUI", "")]
    host = Host(Path(folder), Path(sys.executable), hosts.check_version(Path(folder)), ours=False)
    draw, done, lost, seed = random.Random(5), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="b4m-servers-") as place:
        while done < wanted:
            seed += 1
            base = Path(place) / str(seed)
            for _ in range(min(MOST_KILLS, wanted - done)):
                if _ended(host, base, seed, draw):
                    break
                done += 1
            _ended(host, base, seed, None)
            whole = Path(place) / f"whole {seed}"
            _ended(host, whole, seed, None)
            lost += _digest(base) != _digest(whole)
    return [("killed while a ComfyUI server trains", done, lost, "", "")]


def _ended(host: Host, base: Path, seed: int, draw: random.Random | None) -> bool:
    """Whether the training came to its end; with ``draw`` the server is killed at a random step or some time after it."""
    running = server.start(host, port=_free_port(), base=base, log_name=f"kills {base.name}")
    try:
        run = running.client.queue(_graph(seed))
        at = draw.randrange(STEPS + 4) if draw else 10**6
        while running.client.outputs(run) is None:
            if _step(running) >= at:
                time.sleep(draw.uniform(0, 0.5) if draw else 0)
                running.process.kill()
                return False
            time.sleep(0.02)
        return True
    finally:
        running.stop()


def _free_port() -> int:
    """One that the system gives: other servers begin on this machine at the same time."""
    with socket.socket() as attempt:
        attempt.bind((ports.ADDRESS, 0))
        return int(attempt.getsockname()[1])


def _step(running: server.Server) -> int:
    """The newest step that is kept."""
    runs = running.base / "user" / "b4m" / "runs"
    steps = [int(file.stem.split("-")[1]) for kind in ("sample", "adapter") for file in runs.rglob(f"{kind}-*.*")]
    return max(steps, default=0)


def _graph(seed: int) -> Graph:
    wires = {name: ["model", place] for place, name in enumerate(("model", "clip", "vae"))}
    pictures = {"folder": "(demo content)", "trigger": "snq", "class_word": "bird", "caption": "a photo of a {trigger} {class}"}
    return {
        "model": {"class_type": "B4MMiniModel", "inputs": {}},
        "pictures": {"class_type": "B4MPictures", "inputs": {**pictures, "use_masks": True}},
        "train": {"class_type": "B4MTrainContent", "inputs": {**wires, "pictures": ["pictures", 0], **TRAINING, "seed": seed}},
        "save": {"class_type": "B4MSaveAdapter", "inputs": {"adapter": ["train", 0], "filename": "killed", "replace": True}},
    }


def _digest(base: Path) -> str:
    return load_adapter(base / "models" / "loras" / "killed.safetensors").digest()
