"""Sheets that compare: which strengths, which adapters, in letters that can be read, of whatever script."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageFont
from test_faces import adapter_for

Trio = tuple[Any, Any, Any]
PAINTING = {"size": 64, "seed": 1, "steps": 1, "cfg": 1.0}
GAP = 6


@pytest.fixture
def grid() -> ModuleType:
    return importlib.import_module("b4m_pack.b4m_core.grid")


@pytest.fixture
def lettering() -> ModuleType:
    return importlib.import_module("b4m_pack.b4m_core.lettering")


def test_a_strength_table_paints_every_pair_as_the_sliders_would(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_for(host, core, mini, "merged")
    sheet_of: list[Any] = []
    monkeypatch.setattr(pack.sheet.grid, "draw", lambda rows, cell: sheet_of.append(rows) or np.zeros((4, 4, 3), np.uint8))
    out = pack.B4MStrengthTable.execute(*mini, adapter, "a house", "0, 1", "0.5,2", **PAINTING)
    ((first, second),) = sheet_of
    assert [cell.caption for cell in (*first.cells, *second.cells)] == [
        f"content {content}, style {style}" for style in ("0.5", "2") for content in ("0", "1")
    ]
    base = host.HostBaseModel(*mini, sampling=host.Sampling(steps=1, guidance=1.0))
    wanted = base.sample_with(core.lora_state_dict(adapter, 1.0, 2.0), "a house", width=64, height=64, seed=1)
    assert np.array_equal(second.cells[1].pixels, (wanted.clamp(0, 1) * 255).round().byte().numpy())
    assert out.ui["text"][0].startswith("4 pictures of 64 x 64 pixels.")


@pytest.mark.parametrize("text", ["", ",", "a", "1 2", "nan", "-1", "5", "inf", ",".join(map(str, range(9)))])
def test_strengths_that_cannot_be_meant_are_a_sentence(pack: ModuleType, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="content_strengths .*write for example"):
        pack.sheet._strengths(text, "content_strengths")


def test_adapters_are_compared_side_by_side_and_each_is_named(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [
        adapter_for(host, core, mini, role, steps=steps, split=split)
        for role, steps, split in (("content", 30, "free"), ("merged", 60, "halves"))
    ]
    sheet_of: list[Any] = []
    monkeypatch.setattr(pack.sheet.grid, "draw", lambda rows, cell: sheet_of.append(rows) or np.zeros((4, 4, 3), np.uint8))
    pack.B4MCompareAdapters.execute(*mini, "a house\n\na car", adapter_1=adapters[0], adapter_3=adapters[1], **PAINTING)
    (rows,) = sheet_of
    assert [row.title for row in rows] == ["a house", "a car"]
    assert [cell.caption for cell in rows[0].cells] == ["1: content, 30 steps", "2: merged, 60 steps"]
    assert not np.array_equal(rows[0].cells[0].pixels, rows[0].cells[1].pixels)
    for wrong in ({}, {"adapter_1": adapters[0], "adapter_2": "text"}):
        with pytest.raises(error, match="The input adapter_"):
            pack.B4MCompareAdapters.execute(*mini, "a house", **wrong, **PAINTING)


@pytest.mark.parametrize("cell", [192, 512, 1024])
def test_letters_can_be_read_when_the_sheet_fills_a_screen(grid: ModuleType, cell: int) -> None:
    picture = np.full((cell, cell, 3), 250, np.uint8)
    sheet = grid.draw([grid.Row("a prompt", [grid.Cell(picture, "Mg")] * 4)], cell)
    rows = np.flatnonzero((sheet[-cell // 2 :].astype(int).mean(axis=2) < 200).any(axis=1))  # the captions' letters
    share = (rows.max() - rows.min() + 1) / sheet.shape[1]
    assert share > 0.011, "12 pixels of a screen 1,100 wide"


def test_long_prompts_are_wrapped_and_at_last_cut_and_never_drawn_over_pictures(grid: ModuleType, lettering: ModuleType) -> None:
    picture = np.zeros((192, 192, 3), np.uint8)
    one = grid.draw([grid.Row("short", [grid.Cell(picture)] * 2)], 192)
    long = grid.draw([grid.Row("a very long prompt " * 40, [grid.Cell(picture)] * 2)], 192)
    assert long.shape[0] - one.shape[0] == 2 * 21 and (long[-6 - 192 : -6, 6:198] == 0).all()
    for line in lettering.wrapped("word " * 30 + "x" * 300, 15, 200):
        assert lettering.width(line, 15) <= 200


def test_each_letter_is_drawn_by_a_font_that_has_it(lettering: ModuleType) -> None:
    if lettering._font("DejaVuSans.ttf", 15) is None:
        pytest.skip("no other font on this computer")
    pieces = lettering.runs("a кот by day", 20)
    assert [text for _, text in pieces] == ["a ", "кот ", "by day"]
    assert pieces[1][0].getname()[0] != pieces[0][0].getname()[0]
    assert lettering.cannot_be_drawn(["кот", "a cat"]) == ""


def test_letters_that_no_font_has_are_told(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, lettering: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lettering, "SYSTEM_FONTS", ())
    lettering._name_for.cache_clear()
    try:
        adapter = adapter_for(host, core, mini, "merged")
        said = pack.B4MStrengthTable.execute(*mini, adapter, "a 猫 кот", "1", "1", **PAINTING).ui["text"][0]
        assert "No font on this computer has the letters 猫кот" in said
    finally:
        lettering._name_for.cache_clear()


def test_a_text_of_any_letters_is_drawn_without_an_error(grid: ModuleType) -> None:
    odd = "猫 кот قط 🐈 \u0301 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16") + "\x00\t"
    sheet = grid.draw([grid.Row(odd, [grid.Cell(np.zeros((60, 40, 3), np.uint8), odd)])], 64)
    assert sheet.shape[2] == 3 and torch.from_numpy(sheet.copy()).float().std() > 0
    assert isinstance(ImageFont.load_default(size=12), ImageFont.FreeTypeFont)
