"""The trials themselves: they find what they look for, and a few of each in every run of the tests."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from b4m_core import B4MError, load_adapter

from . import __main__ as command
from . import fuzz, mutations, readers, saves
from .readers import READERS, Reader
from .row import Row, table

pytestmark = pytest.mark.skipif(os.name == "nt", reason="children are forked and killed by a signal")


def test_damaged_and_hostile_files_through_every_reader_are_refused_or_read() -> None:
    tallies = fuzz.run(400, seed=int(time.time()) // 86400)  # others every day
    assert tallies.keys() == READERS.keys()
    assert {name: tally.examples for name, tally in tallies.items() if tally.raw or tally.large} == {}


def broken(file: Path) -> object:
    raw = file.read_bytes()
    if len(raw) > 10 and raw[0] != 1:
        raise KeyError("raw")
    if len(raw) < 5:
        raise B4MError("It is too short: make it longer.")
    return np.ones(100 << 20, dtype=np.uint8).nbytes if len(raw) > 1000 else None


def peaks_are_seen() -> bool:
    """Whether this system tells of 100 MB that the process took and gave back."""
    fuzz.reset_peak()
    before = fuzz.peak_megabytes()
    return np.ones(100 << 20, dtype=np.uint8).nbytes > 0 and fuzz.peak_megabytes() - before > 80


def test_the_fuzzer_sees_raw_errors_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not peaks_are_seen():
        pytest.skip("this system does not forget a process's peak of memory")
    monkeypatch.setitem(fuzz.READERS, "broken", Reader(lambda folder: [bytes([1]) * 9], broken, ".x"))
    tally = fuzz.run(100, only=["broken"], keep=tmp_path)["broken"]
    assert tally.files == 100 and tally.refused > 1 and tally.raw["KeyError"] > 1 and tally.lost > tally.raw["KeyError"]
    assert tally.large > 0 and tally.megabytes > 80
    assert {file.name for file in tmp_path.iterdir()} >= {"broken_KeyError.x", "broken_large.x"}
    assert fuzz.row({"broken": tally}).lost == tally.lost and json.loads(fuzz.written({"broken": tally}))["broken"]["files"] == 100


def test_a_file_whose_header_lies_still_has_a_right_checksum(tmp_path: Path) -> None:
    """Else nothing behind the checksum would ever be tried."""
    (tmp_path / "golden").mkdir()
    seed = readers.golden(tmp_path)[0]
    header, data = mutations.parts(seed)
    header["__metadata__"]["b4m"] = header["__metadata__"]["b4m"].replace("mini", "maxi")
    (tmp_path / "x.safetensors").write_bytes(mutations.signed(header, data))
    assert load_adapter(tmp_path / "x.safetensors").facts.base_name == "maxi"


def test_every_change_changes_something_sooner_or_later() -> None:
    (draw, seeds) = (random.Random(0), readers.golden(Path()))
    for change in mutations.SAFETENSORS:
        assert any(change(draw, seeds[0], seeds) != seeds[0] for _ in range(20)), change.__name__


def test_kills_two_saves_at_once_and_flipped_bits_cost_nothing() -> None:
    saves.adapter(0), saves.adapter(1)
    assert saves.killed(saves._ours, saves._is_ours, "x.safetensors", 3, 0.2)[0] == 0
    assert saves.together_row(5).lost == 0 and saves.flip_row(50).lost == 0 and saves._left_after_the_next_save() == 0


def test_a_target_that_is_written_in_place_is_seen_to_be_lost() -> None:
    def in_place(path: Path, number: int) -> None:
        path.write_bytes(b"x" * 8_000_000)

    assert saves.killed(in_place, lambda path: path.stat().st_size == 8_000_000, "x", 8, 0.3)[0] > 0


def test_the_table_has_a_line_for_every_row_of_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"fuzz", "saves"} <= command.parts().keys()
    part = type("Part", (), {"rows": staticmethod(lambda quick: [Row("one", 3, 0, "", "peer: 2"), ("two", 5000, 1, "bad", "")])})
    monkeypatch.setattr(command, "parts", lambda: {"part": part})
    monkeypatch.setattr("sys.argv", ["reliability", str(tmp_path), "--quick"])
    command.main(command.parsed())
    assert "| one | 3 | 0 | - | peer: 2 |\n| two | 5,000 | 1 | bad | - |" in capsys.readouterr().out
    assert (tmp_path / "reliability.md").read_text() == table([Row("one", 3, 0, "", "peer: 2"), Row("two", 5000, 1, "bad", "")])
