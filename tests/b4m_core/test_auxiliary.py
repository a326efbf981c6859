"""Auxiliary pictures: painted once by the base model, or the artist's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from b4m_core import B4MError
from b4m_core.auxiliary import own_auxiliary, prompts_for, sample_auxiliary
from b4m_core.pictures import PictureSet


def sample(
    base: tiny.TinyBase, cache: Path, kind: str = "styles", sets: int = 3, pictures: int = 2, **more: object
) -> tuple[PictureSet, ...]:
    return sample_auxiliary(base, kind, sets=sets, pictures=pictures, resolution=64, cache=cache, **more)  # type: ignore[arg-type]


def test_auxiliary_styles_share_contents_and_differ_in_style() -> None:
    prompts = prompts_for("styles", 3, 4)
    styles = [{prompt.split(" in ")[-1] for prompt in group} for group in prompts]
    assert [len(group) for group in styles] == [1, 1, 1] and len(set.union(*styles)) == 3
    assert all(len(set(group)) == 4 for group in prompts)


def test_auxiliary_contents_are_one_thing_a_set_in_varied_places() -> None:
    prompts = prompts_for("contents", 3, 4)
    things = [{" ".join(prompt.split()[:5]) for prompt in group} for group in prompts]
    assert [len(group) for group in things] == [1, 1, 1] and len(set.union(*things)) == 3
    assert all(prompt.startswith("a photo of a ") for group in prompts for prompt in group) and all(
        len(set(group)) == 4 for group in prompts
    )


def test_the_base_model_paints_each_picture_once_and_never_again(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    first = sample(base, tmp_path)
    assert len(base.painted) == 6 and [len(group.pictures) for group in first] == [2, 2, 2]
    fresh = tiny.TinyBase()
    second = sample(fresh, tmp_path)
    assert fresh.painted == []
    for left, right in zip(first, second, strict=True):
        assert [picture.digest() for picture in left.pictures] == [picture.digest() for picture in right.pictures]


def test_painted_pictures_are_the_base_model_s_in_eight_bits(tmp_path: Path) -> None:
    (group,) = sample(tiny.TinyBase(), tmp_path, sets=1, pictures=1)
    picture = group.pictures[0]
    expected = (tiny.TinyBase().sample(picture.caption, width=64, height=64, seed=0) * 255).round().numpy().astype(np.uint8)
    assert np.array_equal(picture.pixels, expected) and picture.caption == prompts_for("styles", 1, 1)[0][0]


def test_another_base_model_paints_its_own_pictures(tmp_path: Path) -> None:
    sample(tiny.TinyBase(), tmp_path)
    other = tiny.TinyBase(fingerprint="0" * 64)
    sample(other, tmp_path)
    assert len(other.painted) == 6


def test_another_resolution_is_painted_anew(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    for resolution in (64, 96):
        sample_auxiliary(base, "styles", sets=1, pictures=1, resolution=resolution, cache=tmp_path)
    assert len(base.painted) == 2


def test_a_damaged_painted_picture_is_painted_again(tmp_path: Path) -> None:
    first = sample(tiny.TinyBase(), tmp_path, sets=1, pictures=2)
    files = sorted((tmp_path / "auxiliary").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:50])
    base = tiny.TinyBase()
    again = sample(base, tmp_path, sets=1, pictures=2)
    assert len(base.painted) == 1 and [p.digest() for p in again[0].pictures] == [p.digest() for p in first[0].pictures]


def repainted(file: Path) -> None:
    """One pixel is another, in a PNG that is whole and carries the old checksum."""
    with Image.open(file) as image:
        facts = PngInfo()
        facts.add_text("b4m.sha256", image.info["b4m.sha256"])
        image.putpixel((3, 3), (1, 2, 3))
        image.save(file, pnginfo=facts)


def foreign(file: Path) -> None:
    Image.new("RGB", (64, 64)).save(file)


def enormous(file: Path) -> None:
    Image.new("1", (20000, 20000)).save(file)


def of_another_mode(file: Path) -> None:
    Image.new("RGBA", (64, 64)).save(file)


def exchanged(file: Path) -> None:
    """The picture of another prompt, whole and with its own checksum."""
    file.write_bytes(sorted(file.parent.iterdir())[-1].read_bytes())


def no_picture(file: Path) -> None:
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 100)


@pytest.mark.parametrize("change", [repainted, foreign, enormous, of_another_mode, exchanged, no_picture])
def test_what_is_not_the_picture_that_was_painted_is_painted_again(change: Callable[[Path], None], tmp_path: Path) -> None:
    first = sample(tiny.TinyBase(), tmp_path, sets=1, pictures=2)
    change(sorted((tmp_path / "auxiliary").iterdir())[0])
    base = tiny.TinyBase()
    again = sample(base, tmp_path, sets=1, pictures=2)
    assert len(base.painted) == 1 and [p.digest() for p in again[0].pictures] == [p.digest() for p in first[0].pictures]
    assert sample(base, tmp_path, sets=1, pictures=2) and len(base.painted) == 1


@pytest.mark.parametrize("numbers", [{"sets": 3, "pictures": 3_000_000}, {"sets": 2**40}, {"pictures": -1}, {"sets": True}])
def test_a_number_of_pictures_that_nobody_can_want_is_refused_before_a_list_is_made(numbers: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(B4MError, match="sets|pictures"):
        sample(tiny.TinyBase(), tmp_path, **numbers)  # type: ignore[arg-type]


def test_a_cancel_while_painting_keeps_what_was_painted(tmp_path: Path) -> None:
    def watch(done: int, total: int) -> None:
        assert total == 6
        if done == 4:
            raise tiny.Cancelled

    base = tiny.TinyBase()
    with pytest.raises(tiny.Cancelled):
        sample(base, tmp_path, watch=watch)
    assert len(base.painted) == 4
    sample(base, tmp_path)
    assert len(base.painted) == 6


@pytest.mark.parametrize("sets,pictures,expected", [(0, 4, []), (1, 2, [2]), (3, 0, []), (2, 9, [9, 9]), (9, 1, [1] * 6)])
def test_fewer_sets_or_none_also_work(sets: int, pictures: int, expected: list[int], tmp_path: Path) -> None:
    found = sample(tiny.TinyBase(), tmp_path, sets=sets, pictures=pictures)
    assert [len(group.pictures) for group in found] == expected


@pytest.mark.parametrize("kind", ["styles", "contents"])
def test_painting_inside_inference_mode_gives_the_same_pictures(kind: str, tmp_path: Path) -> None:
    with torch.inference_mode():
        inside = sample(tiny.TinyBase(), tmp_path / "a", kind)
    outside = sample(tiny.TinyBase(), tmp_path / "b", kind)
    assert [p.digest() for group in inside for p in group.pictures] == [p.digest() for group in outside for p in group.pictures]


def write_pictures(folder: Path, count: int, start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(tiny.picture(start + number).pixels).save(folder / f"{number}.png")


def test_every_subfolder_with_pictures_is_one_own_set(tmp_path: Path) -> None:
    write_pictures(tmp_path / "red_house", 2)
    write_pictures(tmp_path / "owl", 1, 5)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    sets = own_auxiliary(tmp_path, "contents")
    assert [(group.class_word, len(group.pictures), group.prompts()) for group in sets] == [
        ("owl", 1, ("a photo of a owl",)),
        ("red house", 2, ("a photo of a red house",)),
    ]


def test_a_folder_of_own_pictures_without_subfolders_is_one_set(tmp_path: Path) -> None:
    write_pictures(tmp_path / "mine", 3)
    assert [len(group.pictures) for group in own_auxiliary(tmp_path / "mine", "contents")] == [3]


def test_no_more_than_six_own_sets_are_used(tmp_path: Path) -> None:
    for name in "hgfedcba":
        write_pictures(tmp_path / name, 1)
    assert [group.class_word for group in own_auxiliary(tmp_path, "contents")] == [*"abcdef"]


@pytest.mark.parametrize("missing", [True, False])
def test_own_auxiliary_pictures_that_are_not_there_give_a_sentence(missing: bool, tmp_path: Path) -> None:
    with pytest.raises(B4MError):
        own_auxiliary(tmp_path / "gone" if missing else tmp_path, "contents")
