"""Masks by every trainer's name, in every depth and mode, and masks from the graph the right way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from b4m_core import B4MError
from b4m_core.masks import kept_by
from b4m_core.pictures import PictureSet, from_arrays, load_folder


def load(folder: Path) -> PictureSet:
    return load_folder(folder, trigger="snq", class_word="bear", pattern="a {trigger}")


def picture(folder: Path, name: str = "a.png", seed: int = 0) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / name)


def half() -> np.ndarray:
    """White, where to train, in the right half."""
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[:, 24:] = 255
    return mask


NAMES = [
    "a_mask.png", "a-mask.PNG", "a.mask.png", "a mask.bmp", "A_MASK.TIF", "a-masklabel.png", "a_matte.webp", "a_alpha.png",
    "mask_a.png", "a.png_mask.png", "a.png.mask.png", "masks/a.png", "mask/a.bmp", "Masks/a_mask.png", "masks/a.png.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_by_every_name_belongs_to_its_picture_and_is_none(name: str, tmp_path: Path) -> None:
    picture(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(half()).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    pictures = load(tmp_path)
    assert len(pictures.pictures) == 1 and not pictures.notes
    mask = pictures.pictures[0].mask
    assert mask is not None and np.array_equal(mask, half())


def as_mode(mode: str) -> Image.Image:
    grey = half()
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray((grey / 255).astype(np.float32))
    if mode == "labels":  # 0 and 1, as segmentations write them
        return Image.fromarray(grey // 255)
    if mode == "white with alpha":
        return Image.merge("LA", (Image.new("L", (48, 40), 255), Image.fromarray(grey)))
    if mode == "black with alpha":
        return Image.merge("RGBA", (*Image.new("RGB", (48, 40)).split(), Image.fromarray(grey)))
    return Image.fromarray(grey).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "labels", "white with alpha", "black with alpha"])
def test_a_mask_of_every_depth_and_mode_says_the_same(mode: str, tmp_path: Path) -> None:
    picture(tmp_path)
    as_mode(mode).save(tmp_path / ("a_mask.tif" if mode in ("I", "F", "CMYK") else "a_mask.png"))
    mask = load(tmp_path).pictures[0].mask
    assert mask is not None and np.abs(mask.astype(int) - half()).max() <= 1


def test_a_mask_of_another_shape_is_said_and_one_of_another_size_fits(tmp_path: Path) -> None:
    picture(tmp_path)
    picture(tmp_path, "b.png", 1)
    Image.fromarray(half()).resize((96, 80)).save(tmp_path / "a_mask.png")
    Image.fromarray(half()).resize((40, 80)).save(tmp_path / "b_mask.png")
    notes = load(tmp_path).notes
    assert notes == ("The mask b_mask.png is 40 x 80 and has another shape than its picture, so it was stretched to fit.",)


def test_a_mask_without_its_picture_is_not_trained_as_one(tmp_path: Path) -> None:
    picture(tmp_path)
    Image.fromarray(half()).save(tmp_path / "gone_mask.png")
    pictures = load(tmp_path)
    assert [each.name for each in pictures.pictures] == ["a.png"]
    assert "gone_mask.png was left out: it is a mask, and there is no picture of that name." in pictures.notes


def test_a_mask_with_an_ending_of_its_own_goes_to_the_picture_of_its_full_name(tmp_path: Path) -> None:
    picture(tmp_path, "a.png", 0)
    picture(tmp_path, "a.jpg", 1)
    Image.fromarray(half()).save(tmp_path / "a.jpg.mask.png")
    assert [each.mask is not None for each in load(tmp_path).pictures] == [True, False]


def arrays(mask: np.ndarray, sense: str = "detect") -> PictureSet:
    images = [np.random.default_rng(0).random((64, 64, 3))]
    return from_arrays(images, trigger="x", class_word="", pattern="x", masks=[mask.astype(np.float32)], mask_sense=sense)


def test_a_mask_from_the_graph_is_what_is_left_out(tmp_path: Path) -> None:
    mask = np.ones((64, 64))
    mask[16:48, 16:48] = 0
    kept = arrays(mask).pictures[0].mask
    assert kept is not None and kept[32, 32] == 255 and kept[2, 2] == 0
    assert arrays(np.zeros((64, 64))).pictures[0].mask is None
    empty = arrays(np.ones((64, 64)))
    assert empty.pictures[0].mask is None and "is empty and was not used" in " ".join(empty.notes)


@pytest.mark.parametrize(
    ("top", "left", "bottom", "right", "subject"),
    [
        (12, 12, 52, 52, True), (12, 12, 64, 52, True),  # a subject; one that stands on the edge
        (0, 0, 64, 20, False), (28, 28, 38, 38, False), (40, 40, 64, 64, False),  # a margin, a blemish, a signature
    ],
)  # fmt: skip
def test_only_a_mask_that_plainly_marks_the_subject_is_turned_round(top: int, left: int, bottom: int, right: int, subject: bool) -> None:
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[top:bottom, left:right] = 1
    notes: list[str] = []
    kept = kept_by(mask, "detect", "image 1", notes)
    assert (kept[(top + bottom) // 2, (left + right) // 2] == 1) == subject == bool(notes)


@pytest.mark.parametrize("count", [2, 4])
def test_numbers_of_masks_that_do_not_match_are_a_sentence(count: int) -> None:
    images, masks = [np.zeros((64, 64, 3), dtype=np.float32)] * 3, [np.ones((64, 64), dtype=np.float32)] * count
    with pytest.raises(B4MError, match=f"There are {count} masks for 3 pictures"):
        from_arrays(images, trigger="", class_word="", pattern="x", masks=masks)
