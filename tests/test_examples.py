"""The examples run as they stand: the script by its arguments, the notebook cell by cell, with a step or two each."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from b4m_core import load_adapter

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "python_examples" / "contents_and_styles.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> str:
    """CLIP's, which the small model does not have."""
    host = os.environ.get("B4M_COMFYUI")
    if not host:
        pytest.skip("CLIP's tokenizer is a ComfyUI's: name one with B4M_COMFYUI")
    folder = str(Path(host) / "comfy" / "sd1_tokenizer")
    monkeypatch.setenv("B4M_TOKENIZER", folder)
    return folder


def test_the_script_trains_merges_paints_and_saves(tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["--steps", "1", "--batch-size", "1", "--auxiliary", "0", "--sampler-steps", "1", "--size", "64"]
    monkeypatch.setattr(sys, "argv", ["train_and_mix.py", "--out", str(tmp_path), "--tokenizer", tokenizer, *few])
    runpy.run_path(str(ROOT / "python_examples" / "train_and_mix.py"), run_name="__main__")
    facts = load_adapter(tmp_path / "both.safetensors").facts
    assert facts.role == "merged" and facts.content is not None and facts.content.words() == "snq bird"
    assert Image.open(tmp_path / "both.png").size == (64, 64) and Image.open(tmp_path / "strengths.png").size == (128, 128)


def test_the_notebook_s_cells_run_one_after_the_other(tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel would run them: it holds no magics, and nothing but Python."""
    for name, value in (("REPOSITORY", ROOT), ("EXAMPLE_OUT", tmp_path), ("EXAMPLE_STEPS", "1"), ("SAMPLER_STEPS", "1")):
        monkeypatch.setenv(f"B4M_{name}", str(value))
    script = tmp_path / "cells.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"), encoding="utf-8")
    found = runpy.run_path(str(script))
    assert {file.stem for file in tmp_path.glob("*.safetensors")} == {"bird_in_glass", "content", "style"}
    assert found["picture"].size == (192, 192) and isinstance(found["table"], torch.Tensor) and found["table"].shape == (2, 2, 192, 192, 3)
    assert (found["table"][0, 0] - found["table"][1, 1]).abs().max() > 0.001  # a single step of the sampler


def test_the_notebook_has_the_form_that_every_reader_takes_and_names_no_machine() -> None:
    whole = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"]) for cell in CELLS)
    assert not re.search(r"/(home|root|tmp|work|Users)/", NOTEBOOK.read_text(encoding="utf-8"))
    assert NOTEBOOK.stat().st_size < 500_000
