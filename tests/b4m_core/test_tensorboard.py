"""TensorBoard where it is installed, one sentence where it is not, and never at the start."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from b4m_core import B4MError, Progress, RunStore, train
from b4m_core.commandline import main
from b4m_core.tensorboard_log import TensorBoardLog

ROOT = Path(__file__).resolve().parents[2]


class Writer:
    """A double of SummaryWriter that remembers."""

    made: list[Writer] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = Path(folder), purge_step, False
        self.scalars: dict[str, dict[int, float]] = {}
        self.images: dict[int, np.ndarray] = {}
        Writer.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert step not in self.scalars.setdefault(tag, {}), "written twice"
        self.scalars[tag][step] = value

    def add_image(self, tag: str, pixels: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC" and step not in self.images
        self.images[step] = pixels

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer.made


def watched(store: Path, folder: Path, steps: int) -> None:
    log = TensorBoardLog(folder)

    def watch(progress: Progress) -> None:
        if progress.step_done and progress.step == 2 and progress.attempt is not None:
            progress.attempt.keep_sample(torch.full((8, 8, 3), 0.5), 2)
        log.watch(progress)

    train(tiny.plan("content", partners=0, steps=steps), tiny.TinyBase(), RunStore(store), watch)
    log.close()


def test_the_losses_of_every_step_and_the_samples_are_shown(tmp_path: Path, writers: list[Writer]) -> None:
    watched(tmp_path / "store", tmp_path / "board", 3)
    (run,) = RunStore(tmp_path / "store").runs()
    (writer,) = writers
    assert writer.folder == tmp_path / "board" / run.key and writer.closed
    rows = run.log()
    for tag, name in (("loss/train rows", "loss"), ("loss/other rows", "others")):
        assert writer.scalars[tag] == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-5)
    assert list(writer.images) == [2] and writer.images[2].shape == (8, 8, 3)


def test_a_training_that_goes_on_is_one_curve(tmp_path: Path, writers: list[Writer]) -> None:
    """What is there of the run is written anew, in place of what an earlier call wrote."""
    watched(tmp_path / "store", tmp_path / "board", 2)
    watched(tmp_path / "store", tmp_path / "board", 4)
    assert [sorted(writer.scalars["loss/train rows"]) for writer in writers] == [[1, 2], [1, 2, 3, 4]]
    assert writers[0].folder == writers[1].folder and writers[1].purge_step == 0


def test_without_tensorboard_that_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(B4MError, match="--tensorboard needs the package tensorboard"):
        TensorBoardLog(tmp_path)
    words = ["--pictures", str(tmp_path / "gone"), "--out", str(tmp_path / "x.safetensors"), "--model", str(tmp_path / "gone")]
    assert main(["train", "content", *words, "--tensorboard", str(tmp_path / "board")]) == 1
    assert "pip install tensorboard, or leave the option out" in capsys.readouterr().err and not (tmp_path / "board").exists()


def test_nothing_imports_tensorboard_before_it_is_asked_for() -> None:
    for file in (ROOT / "b4m_core").rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[-1] == "tensorboard"], file.name
