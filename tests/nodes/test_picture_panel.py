"""The page's door to a folder of pictures opens nothing else."""

from __future__ import annotations

import importlib
import io
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import folder_paths
import pytest
from PIL import Image
from test_folders import ESCAPES

WORDS = {"trigger": "snq", "class_word": "cat", "caption": "a {trigger} {class}, {name}"}


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """nodes.picture_panel with an input folder of its own: cats inside, a link to secrets outside."""
    for name in ("input/cats", "secrets"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (64, 48), "red").save(tmp_path / name / "my_cat.png")
    os.symlink(tmp_path / "secrets", tmp_path / "input" / "link_out")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    return importlib.import_module("b4m_pack.nodes.picture_panel")


def outside(tmp_path: Path) -> list[str]:
    return sorted(path.as_posix() for path in (tmp_path / "secrets").rglob("*"))


def test_a_folder_is_shown_with_the_captions_that_will_be_trained_on(panel: ModuleType) -> None:
    answer = panel.answer({"folder": "cats", **WORDS})
    (picture,) = answer["pictures"]
    assert (picture["name"], picture["text"], picture["caption"]) == ("my_cat.png", "", "a snq cat, my cat")
    assert answer["fixed"] == "" and ".png" in answer["endings"]
    (picture,) = panel.answer({"folder": "cats", **WORDS, "do": "caption", "name": "my_cat.png", "text": "{trigger} asleep"})["pictures"]
    assert (picture["text"], picture["caption"]) == ("{trigger} asleep", "snq asleep")


def test_a_view_is_a_small_jpeg(panel: ModuleType) -> None:
    assert Image.open(io.BytesIO(panel.view({"folder": "cats", "name": "my_cat.png", "masked": "true"}))).format == "JPEG"


def test_what_comes_with_b4m_and_what_comes_by_wire_is_shown_and_left_alone(panel: ModuleType, error: type[Exception]) -> None:
    demo = panel.answer({"folder": "(demo content)"})
    assert len(demo["pictures"]) == 4 and demo["fixed"]
    assert panel.answer({"folder": "(pictures from the graph)"})["pictures"] == []
    for folder in ("(demo content)", "(pictures from the graph)"):
        with pytest.raises(error):
            panel.answer({"folder": folder, "do": "remove", "name": "1_flamingo.png"})


def test_behind_a_link_out_of_the_input_folder_is_read_and_never_written(panel: ModuleType, error: type[Exception], tmp_path: Path) -> None:
    before = outside(tmp_path)
    answer = panel.answer({"folder": "link_out", **WORDS})
    assert len(answer["pictures"]) == 1 and "outside the input folder" in answer["fixed"]
    for do in ({"do": "caption", "text": "x"}, {"do": "remove"}, {"do": "order", "names": ["my_cat.png"]}, {"do": "restore"}):
        with pytest.raises(error, match="outside the input folder"):
            panel.answer({"folder": "link_out", "name": "my_cat.png", **do})
    assert outside(tmp_path) == before


def test_a_caption_that_is_a_link_out_is_replaced_and_not_written_through(panel: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "notes.txt").write_text("mine")
    os.symlink(tmp_path / "secrets" / "notes.txt", tmp_path / "input" / "cats" / "my_cat.txt")
    panel.answer({"folder": "cats", "do": "caption", "name": "my_cat.png", "text": "new"})
    assert (tmp_path / "secrets" / "notes.txt").read_text() == "mine"


def test_a_subfolder_for_what_is_taken_out_that_leads_elsewhere_takes_nothing(
    panel: ModuleType, error: type[Exception], tmp_path: Path
) -> None:
    before = outside(tmp_path)
    os.symlink(tmp_path / "secrets", tmp_path / "input" / "cats" / "b4m_removed")
    with pytest.raises(error):
        panel.answer({"folder": "cats", "do": "remove", "name": "my_cat.png"})
    with pytest.raises(error):
        panel.answer({"folder": "cats", "do": "restore", "name": "my_cat.png"})
    assert outside(tmp_path) == before and (tmp_path / "input" / "cats" / "my_cat.png").is_file()


@pytest.mark.parametrize("folder", ESCAPES)
@pytest.mark.parametrize("do", [None, "caption", "order", "remove", "restore"])
def test_a_name_that_leads_out_is_a_sentence(
    panel: ModuleType, error: type[Exception], tmp_path: Path, folder: str, do: str | None
) -> None:
    before = outside(tmp_path)
    with pytest.raises(error):
        panel.answer({"folder": folder, "do": do, "name": "my_cat.png", "text": "x", "names": ["my_cat.png"]})
    with pytest.raises(error):
        panel.view({"folder": folder, "name": "my_cat.png"})
    assert outside(tmp_path) == before


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"folder": 3},
        {"folder": "cats", "do": "burn"},
        {"folder": "cats", "do": "order", "names": "x"},
        {"folder": "cats", "trigger": []},
    ],
)
def test_what_is_no_question_is_a_sentence(panel: ModuleType, error: type[Exception], asked: dict[str, Any]) -> None:
    with pytest.raises(error):
        panel.answer(asked)
