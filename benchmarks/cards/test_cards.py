"""The table of several cards, and a process of its measurement."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from b4m_core.several import ALONE

from .report import furthest, table
from .worker import Job, work

LOSSES = [[1.0, 0.5, 0.25], [2.0, 0.4, 0.2]]
ONE = {"processes": 1, "ours": {"4": {"ms": 400.0, "losses": LOSSES}}}
SEVERAL = {
    "processes": 2, "device": "a card", "torch": "2", "network": "SDXL", "size": 1024,
    "sums": {"a step": {"MB": 186.0, "tensors": 8, "ms": 2.0}},
    "ours": {"4": {"ms": 210.0, "losses": [[1.0, 0.5, 0.25], [2.0, 0.44, 0.2]]}}, "peft": {"4": {"ms": 800.0}},
}  # fmt: skip


def test_the_table_says_how_much_faster_and_how_far_off() -> None:
    text = table({"one": ONE, "repeated": {"peft": {"4": {"ms": 1200.0}}}, "several": SEVERAL})
    assert "| B4M, inside a training, 4 | 400.0 | 210.0 | 1.90 | 95 % |" in text
    assert "DistributedDataParallel, 4 | 1200.0 | 800.0 | 1.50 | 75 % |" in text
    assert "add up 186 MB in 8 tensors: 2.00 ms" in text and "Losses of 2 steps, several beside one: at most 9.1e-02" in text
    assert "ended by one" not in text and table({}).startswith("Several processes found nothing.")


def test_only_steps_that_both_have_are_compared() -> None:
    assert furthest(LOSSES, [*LOSSES, [3.0, 9.0, 9.0]]) == 0.0 and furthest([[3.0, 1.0, 2.0]], [[3.0, 1.0, 1.0]]) == 0.5


def test_a_process_alone_trains_goes_on_and_writes_what_it_found(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "one.json"), str(tmp_path / "store"), "tiny", "cpu", 64, 2, 5, [2], [], exact=2)
    found = work(job, ALONE)
    assert found["ours"]["2"]["times"] == 2 and found["ours"]["2"]["ms"] > 0 and len(found["exact"]["2"]["losses"]) == 8
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == found
    again = work(dataclasses.replace(job, ours=[], exact=0, again=2, steps=7), ALONE)["again"]["2"]
    assert [row[0] for row in again["losses"]] == [1, 2, 3, 4, 5, 6, 7] and again["times"] == 0  # only the last two were trained
    assert furthest(again["losses"], found["ours"]["2"]["losses"]) == 0.0
