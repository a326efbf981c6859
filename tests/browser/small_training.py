"""A training of seconds as a workflow on the page, and what its node shows."""

from __future__ import annotations

import itertools
import time
from typing import Any

from host_page import Page

QUICK = {"steps": 4, "sample_every": 2, "sample_steps": 2, "resolution": 64, "rank": 2, "batch_size": 1, "gradient_accumulation_steps": 1}
WIRES = [("model", 0, "train", 0), ("model", 1, "train", 1), ("model", 2, "train", 2), ("mine", 0, "train", 3), ("train", 1, "save", 0)]
SHOWN = "node('B4MTrainContent').b4mView.root.innerText"
LONG = {"steps": 4000, "sample_every": 0}
"""Never at its end within a test."""
_seeds = itertools.count(int(time.time()) % 1_000_000)


def fresh_seed() -> int:
    """One that nothing was trained with."""
    return next(_seeds)


def nodes(**widgets: Any) -> dict[str, Any]:
    """The workflow, for Page.build() with WIRES."""
    return {
        "model": ("B4MMiniModel", (40, 60, 300, 100), {}),
        "mine": ("B4MPictures", (40, 220, 300, 460), {"folder": "(demo content)", "trigger": "snq", "class_word": "bird"}),
        "train": ("B4MTrainContent", (400, 60, 340, 1040), QUICK | widgets),
        "save": ("SaveImage", (800, 60, 300, 380), {"filename_prefix": "own_training"}),
    }


def says(page: Page, pattern: str, *, seconds: float = 60.0) -> None:
    """Waits until the training node's text has the pattern in it, a regular expression of the page's language."""
    try:
        page.wait(f"/{pattern}/.test({SHOWN})", seconds=seconds)
    except Exception as error:
        raise AssertionError(f"no {pattern} on the node, which says: {page.read(SHOWN)}") from error


def trained(page: Page, steps: int = 4) -> None:
    """Waits until the node says that it was trained, now or before."""
    says(page, f"Trained, {steps} steps|Trained before, reused", seconds=240)


def training(page: Page) -> None:
    """Waits until the node shows a step, and a curve with it."""
    says(page, r"Step [1-9]\d* of", seconds=240)
    page.wait("node('B4MTrainContent').b4mView.state.curve?.steps.length > 2", seconds=240)
