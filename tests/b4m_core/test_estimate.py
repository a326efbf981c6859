"""What a training will take: by what was timed, by arithmetic, and in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from b4m_core.estimate import KINDS, Machine, Speeds, Work, estimate
from b4m_core.presets import PRESETS

H100 = Machine("H100", "cuda", 989.0, 80 * 2**30)
SMALL = Machine("RTX 4060", "cuda", 60.0, 8 * 2**30)
CPU = Machine("this processor", "cpu", 0.11, 16 * 2**30)


@pytest.mark.parametrize(("side", "seconds"), [(512, 0.145 / 4), (1024, 0.391 / 4)])
def test_the_arithmetic_gives_the_passes_that_were_measured_on_a_card(tmp_path: Path, side: int, seconds: float) -> None:
    """docs/speed.md: a default step of four micro-steps inside ComfyUI."""
    found = estimate(Work("sdxl", 1000, 2, (side // 8) ** 2, 0, 32), H100, Speeds(tmp_path))
    assert not found.measured and found.seconds == pytest.approx(1000 * seconds, rel=0.3)


def test_what_was_timed_counts_and_other_sizes_are_scaled_from_the_nearest(tmp_path: Path) -> None:
    speeds = Speeds(tmp_path)
    for seconds in (0.30, 0.34, 9.0):  # one of them beside something else
        speeds.note(CPU, "train", "embedded", 4, 576, seconds)
    same = estimate(Work("embedded", 100, 4, 576, 0, 16), CPU, Speeds(tmp_path))
    assert same.measured and same.seconds == pytest.approx(34)
    double = estimate(Work("embedded", 100, 8, 576, 0, 16), CPU, Speeds(tmp_path))
    assert double.seconds == pytest.approx(68)
    assert not estimate(Work("embedded", 100, 4, 576, 0, 16), H100, Speeds(tmp_path)).measured, "another machine"


def test_pictures_that_are_painted_count_too(tmp_path: Path) -> None:
    speeds = Speeds(tmp_path)
    speeds.note(CPU, "train", "embedded", 4, 576, 0.3)
    speeds.note(CPU, "paint", "embedded", 2, 576, 0.1)
    assert estimate(Work("embedded", 10, 4, 576, 50, 16), CPU, speeds).seconds == pytest.approx(8)
    speeds.note(CPU, "paint", "embedded", 2, 64, 0.01)
    assert estimate(Work("embedded", 10, 4, 576, 50, 16, 64), CPU, speeds).seconds == pytest.approx(3.5), "painted at a size of its own"


def test_a_small_card_takes_a_way_that_fits(tmp_path: Path) -> None:
    work = Work("sdxl", 1000, 2, 128**2, 0, 32)
    small, large = (estimate(work, machine, Speeds(tmp_path)) for machine in (SMALL, H100))
    assert small.gib <= 8 < large.gib and small.seconds > large.seconds


def test_adapted_convolutions_count_in_time_and_memory_and_are_timed_apart(tmp_path: Path) -> None:
    without, with_them = (Work("sdxl", 100, 2, 96**2, 0, 32, convolutions=convolutions) for convolutions in (False, True))
    plain, more = (estimate(work, H100, Speeds(tmp_path)) for work in (without, with_them))
    assert more.seconds / plain.seconds == pytest.approx(68.6 / 61.5, rel=0.02), "as on an H100 (docs/speed.md)"
    assert plain.gib + 0.6 < more.gib < plain.gib + 1.2  # 13 MiB a rank, and 21 kB for each latent pixel of a row
    small = [estimate(Work("embedded", 100, 2, 576, 0, 16, convolutions=each), CPU, Speeds(tmp_path)).seconds for each in (False, True)]
    assert small[1] / small[0] == pytest.approx(0.37 / 0.30, rel=0.05)
    speeds = Speeds(tmp_path)
    speeds.note(H100, with_them.trained, "sdxl", 2, 96**2, 0.5)
    assert estimate(with_them, H100, speeds).seconds == pytest.approx(50) and not estimate(without, H100, speeds).measured


def test_learned_words_take_the_text_encoders_and_some_time_and_are_timed_apart(tmp_path: Path) -> None:
    """Less of a pass the more passes a step has: the encoders are gone through once a step."""
    plain, one, four = (Work("sdxl", 1000, 2, 64**2, 0, 32, words=steps) for steps in (0, 1000, 250))
    found = [estimate(work, H100, Speeds(tmp_path)) for work in (plain, one, four)]
    assert found[1].gib - found[0].gib == pytest.approx(1.52, abs=0.01) and found[0].seconds < found[2].seconds < found[1].seconds
    assert found[1].seconds - found[2].seconds == pytest.approx(750 * 0.05)
    speeds = Speeds(tmp_path)
    speeds.note(H100, one.trained, "sdxl", 2, 64**2, 0.5)
    assert estimate(one, H100, speeds).seconds == pytest.approx(500) and not estimate(plain, H100, speeds).measured
    both = Work("sdxl", 1000, 2, 64**2, 0, 32, convolutions=True, words=250)
    assert len({work.trained for work in (plain, one, both)}) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a|train|sdxl|1x1": ["x"]}', '{"a|train|sdxl|1x1": [-1]}'])
def test_a_damaged_file_of_speeds_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "speeds.json").write_text(text)
    assert not estimate(Work("sdxl", 1, 2, 4096, 0, 32), H100, Speeds(tmp_path)).measured
    Speeds(tmp_path).note(H100, "train", "sdxl", 2, 4096, 0.04)
    assert json.loads((tmp_path / "speeds.json").read_text())
    assert estimate(Work("sdxl", 100, 2, 4096, 0, 32), H100, Speeds(tmp_path)).seconds == pytest.approx(4)


def test_every_kind_that_has_presets_can_be_estimated() -> None:
    assert set(KINDS) == set(PRESETS)
