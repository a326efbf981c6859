"""Pictures and captions broken at random: each is read or named, and nothing but our own sentences comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.inputs import fuzz, paper


@pytest.mark.parametrize("seed", [1, 2])
def test_broken_pictures_are_read_or_named(seed: int, tmp_path: Path) -> None:
    found = fuzz.pictures(100, tmp_path, seed)
    assert found.silent == [] and found.read.total() + found.named.total() == 100
    assert found.read.total() > 10 and found.named.total() > 10


@pytest.mark.parametrize("seed", [1, 2])
def test_broken_captions_are_read_or_named(seed: int, tmp_path: Path) -> None:
    found = fuzz.captions(100, tmp_path, seed)
    assert found.silent == [] and found.read.total() + found.named.total() == 100
    assert found.read.total() > 10 and found.named.total() > 10


def test_a_file_that_is_neither_read_nor_named_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fuzz.load_folder
    from dataclasses import replace

    monkeypatch.setattr(fuzz, "load_folder", lambda *given, **words: replace(original(*given, **words), notes=()))
    assert len(fuzz.pictures(20, tmp_path, 1).silent) > 3


def test_the_paper_names_everything_in_a_folder_in_which_everything_is_wrong(tmp_path: Path) -> None:
    place = tmp_path / "wrong"
    place.mkdir()
    paper.make_wrong(place)
    told = "\n".join(paper.wrong_folder(tmp_path / "again" / "wrong"))
    quiet = {"owl.jpg", "._owl.jpg", "Thumbs.db", "IMG_2041.AAE", "@eaDir", "ship.txt", "woodcut-ship.caption", "red_house small.png"}
    for entry in sorted(place.iterdir()):
        assert entry.name in quiet or entry.name in told, entry.name
    written = (Path(__file__).resolve().parents[2] / "docs" / "inputs.md").read_text(encoding="utf-8")
    assert " ".join(told.split()) in " ".join(written.split())
