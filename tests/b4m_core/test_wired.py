"""Pictures, masks and captions by wire: used as they are meant, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from b4m_core import B4MError
from b4m_core.pictures import PictureSet, from_arrays
from b4m_core.wired import single


def image(*shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(0).random(shape or (40, 48, 3)).astype(np.float32)
    values.flat[0], values.flat[1] = 0, 1
    return (low + values * (high - low)).astype(np.float32)


def made(*images: np.ndarray, **more: Any) -> PictureSet:
    return from_arrays(images, trigger="snq", class_word="bear", pattern="a {trigger}", **more)


def with_value(value: float) -> np.ndarray:
    broken = image()
    broken[3, 4, 1] = value
    return broken


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (image(40, 48, 1), "Image 2 has 1 channel, and a picture has 3.*convert it to RGB"),
        (image(40, 48, 2), "Image 2 has 2 channels"),
        (image(40, 48, 16), "Image 2 has 16 channels"),
        (image(high=255), "Image 2 has values from 0 to 255, and they should lie from 0 to 1"),
        (image(low=-1), "Image 2 has values from -1 to 1"),
        (with_value(np.nan), "Image 2 holds NaN"),
        (with_value(np.inf), "Image 2 holds NaN or infinity"),
    ],
)
def test_a_picture_that_cannot_be_one_is_named_in_a_sentence(bad: np.ndarray, sentence: str) -> None:
    with pytest.raises(B4MError, match=sentence):
        made(image(), bad)


def test_what_resizing_overshoots_is_cut_off_with_a_note_only_where_it_can_be_seen() -> None:
    slight, seen = made(image(low=-0.001, high=1.001)), made(image(low=-0.1, high=1.1))
    assert slight.notes == () and seen.notes == ("Image 1 has values from -0.1 to 1.1; they were cut to 0 to 1.",)
    assert seen.pictures[0].pixels.min() == 0 and seen.pictures[0].pixels.max() == 255


def test_transparency_in_an_image_is_laid_on_white_and_serves_as_its_mask() -> None:
    see_through = image(40, 48, 4)
    see_through[:20, :, 3], see_through[20:, :, 3] = 0, 1
    (picture,) = made(see_through).pictures
    assert picture.mask is not None and (picture.pixels[:20] == 255).all()
    assert (picture.mask[:20] == 0).all() and (picture.mask[20:] == 255).all()
    assert made(see_through, use_masks=False).pictures[0].mask is None
    see_through[..., 3] = 1
    assert made(see_through).pictures[0].mask is None


@pytest.mark.parametrize("count", [2, 4, 7])
def test_masks_and_captions_that_do_not_match_in_number_are_refused(count: int) -> None:
    with pytest.raises(B4MError, match=f"There are {count} masks for 3 pictures: connect one for all, or one for each"):
        made(image(), image(), image(), masks=[image(40, 48)] * count)
    with pytest.raises(B4MError, match=f"There are {count} captions for 3 pictures"):
        made(image(), image(), image(), captions=["x"] * count)


def test_a_mask_of_another_shape_is_refused_unless_it_is_the_empty_one_of_a_picture_without() -> None:
    with pytest.raises(B4MError, match="The mask of image 1 is 64 x 64 and the picture 48 x 40, which is another shape"):
        made(image(), masks=[image(64, 64)])
    empty = made(image(), masks=[np.zeros((64, 64), dtype=np.float32)])
    assert empty.pictures[0].mask is None and "empty" in empty.notes[0]


@pytest.mark.parametrize(("value", "sentence"), [(np.nan, "holds NaN"), (9.0, "has values from 0 to 9")])
def test_a_mask_that_holds_no_mask_is_refused(value: float, sentence: str) -> None:
    mask = image(40, 48)
    mask[5, 5] = value
    with pytest.raises(B4MError, match=f"The mask of image 1 {sentence}"):
        made(image(), masks=[mask])


def test_each_picture_gets_its_own_mask_and_caption_in_order() -> None:
    masks = [np.zeros((40, 48), dtype=np.float32) for _ in range(3)]
    for number, mask in enumerate(masks):
        mask[number * 10 : number * 10 + 10] = 1
    pictures = made(image(), image(), image(), masks=masks, captions=["{trigger} one", "", "three"]).pictures
    assert [picture.caption for picture in pictures] == ["snq one", "a snq", "three"]
    assert [int(np.argmax(picture.mask.max(axis=1))) for picture in pictures if picture.mask is not None] == [0, 10, 20]


def test_batches_of_any_number_come_apart_in_order() -> None:
    batches = [image(2, 40, 48, 3), image(1, 64, 32, 3), image(3, 32, 32, 4)]
    assert [each.shape for each in single(batches, "image")] == [(40, 48, 3)] * 2 + [(64, 32, 3)] + [(32, 32, 4)] * 3
    assert [each.shape for each in single([image(8, 9), image(2, 8, 9)], "mask")] == [(8, 9)] * 3


@pytest.mark.parametrize(
    ("batch", "what", "sentence"),
    [
        (image(40, 48, 3), "image", "images has 3 dimensions and should have 4.*connect an IMAGE"),
        (image(1, 3, 40, 48, 3), "image", "5 dimensions"),
        (image(1, 1, 40, 48), "mask", "masks has 4 dimensions.*connect a MASK"),
        (np.zeros((0, 40, 48, 3), dtype=np.float32), "image", "images is an empty batch"),
        (np.zeros((1, 0, 48, 3), dtype=np.float32), "image", "empty batch"),
        (np.zeros((1, 40, 48, 3), dtype=np.uint8), "image", "images holds uint8 numbers"),
    ],
)
def test_a_batch_that_is_none_is_refused_in_a_sentence(batch: np.ndarray, what: str, sentence: str) -> None:
    with pytest.raises(B4MError, match=sentence):
        single([batch], what)
