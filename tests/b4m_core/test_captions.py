"""Captions in the habits of every trainer, and what the node says about them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from b4m_core import B4MError
from b4m_core.pictures import PictureSet, load_folder
from b4m_core.text_files import clean, decoded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        picture(tmp_path, f"{name}.png", number)
    return tmp_path


def picture(folder: Path, name: str, seed: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / name)


def load(folder: Path, **changes: object) -> PictureSet:
    return load_folder(folder, **{"trigger": "snq", "class_word": "bear", "pattern": "a {trigger} {class}", **changes})  # type: ignore[arg-type]


def captions(folder: Path) -> list[str]:
    return [each.caption for each in load(folder).pictures]


@pytest.mark.parametrize(
    "name",
    [
        "a.txt", "a.caption", "A.TXT", "a.png.txt", "a.PNG.caption", "a.cap", "a.tags", "a.caption.txt", "captions/a.txt",
        "Captions/a.png.txt",
    ],
)  # fmt: skip
def test_a_caption_of_every_name_is_found(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("a snq, in snow, 1bear")
    assert captions(folder) == ["a snq, in snow, 1bear", "a snq bear", "a snq bear"]


def test_names_in_either_form_of_accents_and_case_belong_together(tmp_path: Path) -> None:
    picture(tmp_path, unicodedata.normalize("NFD", "Bär.JPG"))
    (tmp_path / unicodedata.normalize("NFC", "bÄR.txt")).write_text("snq found")
    assert captions(tmp_path) == ["snq found"]


LISTS = {
    "metadata.jsonl": '{"file_name": "a.png", "text": "snq one"}\n{"file_name": "sub/b.png", "text": "snq two"}\n',
    "captions.jsonl": '{"image": "A.PNG", "caption": "snq one"}\n\n{"image": "b", "prompt": "snq two"}',
    "metadata.csv": "file_name,text\na.png,snq one\nb.png,snq two\n",
    "captions.tsv": "Image\tCaption\na.png\tsnq one\nb.png\tsnq two\n",
    "meta_cap.json": json.dumps({"C:\\pics\\a.png": {"caption": "snq one", "tags": "x"}, "/pics/b": {"tags": ["snq two"]}}),
    "plain.json": json.dumps({"a.png": "snq one", "b.png": "snq two"}),
    "rows.json": json.dumps([{"file": "a.png", "description": "snq one"}, {"file": "b.png", "txt": "snq two"}]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_captions_of_every_kind_is_read(name: str, folder: Path) -> None:
    (folder / name).write_text(LISTS[name])
    assert captions(folder) == ["snq one", "snq two", "a snq bear"]


def test_a_json_beside_a_picture_is_its_caption(folder: Path) -> None:
    (folder / "a.json").write_text('{"prompt": "a snq asleep", "seed": 3}')
    assert captions(folder)[0] == "a snq asleep"


def test_bad_lines_and_pictures_that_are_not_here_are_named_and_the_rest_goes_on(folder: Path) -> None:
    lines = ['{"file_name": "a.png", "text": "snq one"}', "{broken", '{"text": "whose"}', '["x"]', '{"file_name": "z.png", "text": "gone"}']
    (folder / "metadata.jsonl").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    pictures = load(folder)
    notes = " ".join(pictures.notes)
    assert pictures.pictures[0].caption == "snq one"
    assert "In metadata.jsonl, line 2, 3, 4 cannot be read" in notes and "not here: z.png" in notes


def test_what_lies_beside_a_picture_goes_before_a_list_and_a_second_caption_is_said(folder: Path) -> None:
    (folder / "a.txt").write_text("snq beside")
    (folder / "a.caption").write_text("snq other")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "snq listed"}')
    pictures = load(folder)
    assert pictures.pictures[0].caption == "snq beside"
    assert "a.png has several captions; a.txt was used, not a.caption." in pictures.notes


def test_the_set_says_how_many_captions_there_are_and_names_the_rest(folder: Path) -> None:
    (folder / "a.txt").write_text("a snq")
    (folder / "b.txt").write_text("a bear")
    (folder / "zebra.txt").write_text("who")
    pictures = load(folder)
    assert pictures.told == "3 pictures, 2 captions, the trigger is in 2"
    notes = " ".join(pictures.notes)
    assert 'Without a caption of their own: c.png. They get "a snq bear".' in notes
    assert "Without the trigger snq: b.png." in notes and "No picture belongs to the captions zebra.txt." in notes


def test_a_trigger_counts_as_a_word_alone(folder: Path) -> None:
    for name, text in (("a", "SNQ sleeps"), ("b", "snqs"), ("c", "a (snq:1.2), red")):
        (folder / f"{name}.txt").write_text(text)
    assert load(folder).told == "3 pictures, 3 captions, the trigger is in 2"


def test_captions_made_from_names_are_shown_and_names_that_do_not_help_are_pointed_out(tmp_path: Path) -> None:
    names = ["IMG_2041.png", "download (3).png", "ref 2.png", "woodcut-ship.png", "red_house.png", "9f8a7b6c5d4e3f2a.png"]
    for number, name in enumerate(names):
        picture(tmp_path, name, number)
    notes = " ".join(load(tmp_path, pattern="a {name} in {trigger} style", trigger="w@z").notes)
    assert '"a woodcut-ship in w@z style"' in notes and '"a red house in w@z style"' in notes
    nothing = notes.split("do not say what is in the picture: ")[1].split(" Rename")[0]
    assert all(name in nothing for name in ("IMG_2041", "download (3)", "ref 2", "9f8a7b6c5d4e3f2a"))
    assert "red_house" not in nothing and "woodcut-ship" not in nothing
    assert "name the style (woodcut), and what a caption names is not learned: woodcut-ship.png." in notes


def test_a_word_that_all_names_share_is_taken_for_the_style(tmp_path: Path) -> None:
    for number, name in enumerate(("zorn ship.png", "Zorn-tree.png", "zorn_owl.png")):
        picture(tmp_path, name, number)
    assert "name the style (zorn)" in " ".join(load(tmp_path, pattern="a {name} in {trigger} style").notes)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("a {trigerr}", "write {trigger}"), ("{clas} x", "write {class}"), ("{x}", "there are {trigger}, {class} and {name}"),
        ("{Name_}", "write {name}"),
    ],
)
def test_a_placeholder_that_nothing_fills_in_is_refused(pattern: str, sentence: str, folder: Path) -> None:
    with pytest.raises(B4MError, match=sentence):
        load(folder, pattern=pattern)


def test_a_set_without_words_says_so(folder: Path) -> None:
    notes = " ".join(load(folder, trigger="", class_word="", pattern="").notes)
    assert "Nothing is said about a.png, b.png, c.png" in notes and "There is no trigger word" in notes


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "une théière bleue, été"), ("cp932", "猫の写真"), ("cp932", "青いティーポット、木のテーブル"), ("gbk", "一只猫"),
        ("gbk", "蓝色的茶壶在木桌上"),
        ("big5", "藍色的茶壺"), ("euc_kr", "파란 찻주전자"), ("cp1251", "синий чайник"), ("utf-16-le", "ein Bär"), ("utf-16-be", "plain"),
        ("utf-8", "猫"), ("utf-8-sig", "猫"), ("utf-16", "猫"), ("utf-32", "猫"), ("cp1252", "Äpfel"), ("cp1253", "μπλε τσαγιέρα"),
    ],
)  # fmt: skip
def test_an_encoding_without_a_mark_is_recognised(encoding: str, text: str) -> None:
    texts, guessed, broken = decoded({"a.txt": text.encode(encoding)})
    assert texts == {"a.txt": text} and not broken and bool(guessed) == (not encoding.startswith("utf"))


def test_captions_of_one_machine_are_recognised_together() -> None:
    """One of them alone is a single letter."""
    raw = {"a": "茶".encode("gbk"), "b": "一只红色的机器人站在雪地里".encode("gbk"), "c": b"plain"}
    assert decoded(raw)[0] == {"a": "茶", "b": "一只红色的机器人站在雪地里", "c": "plain"}


def test_what_no_one_sees_is_taken_out_of_a_caption() -> None:
    assert clean("\ufeffa\u200b \0snq\r\n\tbear\u2028x \ud800") == "a snq bear x"
