"""A folder of pictures that is looked after: order, captions, small views, taking out; nothing is ever lost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from b4m_core import B4MError
from b4m_core import picture_care as kept
from b4m_core.pictures import load_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """c.png with a mask and a caption, a.jpg, b.webp, and a text without a picture."""
    place = tmp_path / "cats"
    place.mkdir()
    for name, colour in (("a.jpg", "red"), ("b.webp", "blue"), ("c.png", "white")):
        Image.new("RGB", (80, 60), colour).save(place / name)
    mask = np.zeros((60, 80), np.uint8)
    mask[:, :40] = 255
    Image.fromarray(mask).save(place / "c_mask.png")
    (place / "c.txt").write_text("a white\ncat", encoding="utf-8")
    (place / "notes.txt").write_text("mine")
    return place


def names(folder: Path) -> list[str]:
    return [entry.name for entry in kept.entries(folder)]


def trained_on(folder: Path) -> list[tuple[str, str]]:
    pictures = load_folder(folder, trigger="snq", class_word="cat", pattern="by the pattern").pictures
    return [(picture.name, picture.caption) for picture in pictures]


def test_what_is_shown_is_what_is_trained_on(folder: Path) -> None:
    shown = [(entry.name, entry.caption or "by the pattern") for entry in kept.entries(folder)]
    assert shown == trained_on(folder) == [("a.jpg", "by the pattern"), ("b.webp", "by the pattern"), ("c.png", "a white cat")]
    assert [entry.mask for entry in kept.entries(folder)] == ["", "", "c_mask.png"]


def test_an_order_is_kept_and_trained_in_and_new_pictures_come_after_it(folder: Path) -> None:
    kept.write_order(folder, ["c.png", "a.jpg"])
    Image.new("RGB", (80, 60), "green").save(folder / "0.png")
    assert names(folder) == [name for name, _ in trained_on(folder)] == ["c.png", "a.jpg", "0.png", "b.webp"]
    with pytest.raises(B4MError):
        kept.write_order(folder, ["c.png", "../x.png"])
    (folder / "a.jpg").unlink()
    assert names(folder) == ["c.png", "0.png", "b.webp"]


def test_a_caption_is_written_beside_its_picture_and_an_empty_one_gives_the_pattern_back(folder: Path) -> None:
    kept.write_caption(folder, "a.jpg", "  a red\n\0 cat, Käse 猫 ")
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a red cat, Käse 猫\n"
    assert dict(trained_on(folder))["a.jpg"] == "a red cat, Käse 猫"
    kept.write_caption(folder, "a.jpg", " ")
    kept.write_caption(folder, "b.webp", "")
    assert not (folder / "a.txt").exists() and dict(trained_on(folder))["a.jpg"] == "by the pattern"


@pytest.mark.parametrize("name", ["", ".", "..", "../cats/a.jpg", "notes.txt", "c_mask.png", "gone.png", "/etc/passwd", "a.jpg\0", "A.JPG"])
def test_only_the_pictures_of_the_folder_have_captions_views_and_a_place(folder: Path, name: str) -> None:
    before = sorted((each.name, each.read_bytes()) for each in folder.iterdir())
    for act in (
        lambda: kept.write_caption(folder, name, "x"),
        lambda: kept.view(folder, name, False),
        lambda: kept.take_out(folder, name),
        lambda: kept.put_back(folder, name),
        lambda: kept.write_order(folder, [name]),
    ):
        with pytest.raises(B4MError, match="no picture of that name"):
            act()
    assert sorted((each.name, each.read_bytes()) for each in folder.iterdir()) == before


def test_a_picture_that_is_taken_out_moves_with_what_belongs_to_it_and_comes_back(folder: Path) -> None:
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    kept.take_out(folder, "c.png")
    assert names(folder) == ["a.jpg", "b.webp"] and kept.removed(folder) == ["c.png"]
    assert {each.name for each in (folder / kept.REMOVED).iterdir()} == {"c.png", "c.txt", "c_mask.png"}
    kept.put_back(folder, "c.png")
    assert {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()} == before and kept.removed(folder) == []


def test_another_picture_of_the_same_name_that_was_taken_out_earlier_is_not_lost(folder: Path) -> None:
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (80, 60), colour).save(folder / "d.png")
        (folder / "d.txt").write_text(colour)
        kept.take_out(folder, "d.png")
    inner = folder / kept.REMOVED
    assert kept.removed(folder) == ["d.png", "d_2.png", "d_3.png"]
    assert [(inner / f"d{number}.txt").read_text() for number in ("", "_2", "_3")] == ["red", "green", "blue"]


def test_a_view_is_small_upright_and_dark_where_nothing_is_learned(folder: Path) -> None:
    shown = np.asarray(Image.open(io.BytesIO(kept.view(folder, "c.png", True)))).astype(int)
    assert shown[:, :30].mean() > 240 and shown[:, 50:].mean() < 80
    assert np.asarray(Image.open(io.BytesIO(kept.view(folder, "c.png", False)))).mean() > 250
    large = Image.new("RGB", (1200, 600), "red")
    exif = large.getexif()
    exif[274] = 6  # lies on its side
    large.save(folder / "phone.jpg", exif=exif)
    assert Image.open(io.BytesIO(kept.view(folder, "phone.jpg", True))).size == (128, 256)


def test_a_view_follows_its_file(folder: Path) -> None:
    first, stamp = kept.view(folder, "a.jpg", False), kept.entries(folder)[0].stamp
    Image.new("RGB", (90, 60), "green").save(folder / "a.jpg")
    assert kept.view(folder, "a.jpg", False) != first and kept.entries(folder)[0].stamp != stamp


def test_a_damaged_picture_is_a_sentence(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(B4MError, match="broken.png cannot be shown"):
        kept.view(folder, "broken.png", True)


def test_what_was_taken_out_is_no_set_of_auxiliary_pictures(folder: Path) -> None:
    from b4m_core.auxiliary import own_auxiliary

    kept.take_out(folder, "a.jpg")
    (one,) = own_auxiliary(folder, "styles")
    assert [picture.name for picture in one.pictures] == ["b.webp", "c.png"]
