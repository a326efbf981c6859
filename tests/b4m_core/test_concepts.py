"""Sets and concepts that are equal, crossed or of the wrong kind; pictures that are doubled, alike, blurred or enlarged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
from PIL import Image, ImageFilter

from b4m_core import B4MError
from b4m_core.concepts import check_apart, check_together, same_trigger_note
from b4m_core.metadata import Concept
from b4m_core.pictures import Picture, PictureSet
from b4m_core.remarks import enlarged, is_blurred, remarks

CONTENT, STYLE = tiny.picture_set(1, 2, trigger="snq"), tiny.picture_set(3, 4, trigger="w@z")
TAUGHT = Concept("snq"), Concept("w@z")


def of_kind(kind: str, *seeds: int) -> PictureSet:
    return dataclasses.replace(tiny.picture_set(*seeds, trigger="", class_word="owl"), kind=kind)


def together(
    content: PictureSet = CONTENT, style: PictureSet = STYLE, auxiliary: tuple[tuple[PictureSet, ...], ...] = ((), ())
) -> list[str]:
    return check_together(content, style, TAUGHT, *auxiliary)


def test_two_concepts_as_they_should_be_get_no_note() -> None:
    assert together() == [] and check_apart("content", CONTENT, [of_kind("styles", 9)], "output_preservation") == []


@pytest.mark.parametrize("trigger", ["snq", "SNQ"])
def test_one_trigger_for_both_is_refused(trigger: str) -> None:
    with pytest.raises(B4MError, match="the same trigger word, snq"):
        together(style=dataclasses.replace(STYLE, trigger=trigger))


def test_a_merge_of_two_adapters_with_one_trigger_is_noted_since_the_sliders_part_them() -> None:
    assert "same trigger word, snq" in same_trigger_note(Concept("snq"), Concept("Snq"))[0]
    for pair in ((Concept("snq"), Concept("w@z")), (Concept(""), Concept("")), (None, None)):
        assert same_trigger_note(*pair) == []


def test_exchanged_sets_are_refused() -> None:
    with pytest.raises(B4MError, match="exchanged: content_pictures got those of w@z, which is the style.*Swap the two wires"):
        together(STYLE, CONTENT)


def test_a_set_with_another_word_than_its_adapter_is_noted() -> None:
    assert together(dataclasses.replace(CONTENT, trigger="other")) == [
        "The content adapter learned the trigger snq, and these content pictures have other."
    ]


def test_the_same_pictures_for_both_are_refused_and_shared_ones_noted() -> None:
    with pytest.raises(B4MError, match="have the same pictures"):
        together(style=tiny.picture_set(2, 1, trigger="w@z"))
    assert "learns both" in together(style=tiny.picture_set(2, 5, trigger="w@z"))[0]


@pytest.mark.parametrize(("role", "kind", "wants"), [("content", "contents", "other styles"), ("style", "styles", "other contents")])
def test_auxiliary_pictures_of_the_wrong_kind_are_noted_or_refused_where_they_train(role: str, kind: str, wants: str) -> None:
    assert wants in check_apart(role, CONTENT, [of_kind(kind, 9)], "output_preservation")[0]
    with pytest.raises(B4MError, match=f"wants {wants}: with multi_correspondence they would train the wrong half"):
        check_apart(role, CONTENT, [of_kind(kind, 9)], "multi_correspondence")
    sets = ((of_kind(kind, 9),), ()) if role == "content" else ((), (of_kind(kind, 9),))
    assert wants in together(auxiliary=sets)[0]


def test_auxiliary_pictures_that_are_to_be_learned_are_refused() -> None:
    with pytest.raises(B4MError, match="The auxiliary set owl holds pictures that are to be learned"):
        check_apart("content", CONTENT, [of_kind("styles", 9, 2)], "output_preservation")
    with pytest.raises(B4MError, match="to be learned"):
        together(auxiliary=((of_kind("styles", 4),), ()))


def noise(seed: int, size: tuple[int, int] = (256, 256)) -> Image.Image:
    """Coarse shapes with sharp edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def pictures(*images: Image.Image) -> list[Picture]:
    return [Picture(f"{'abcdef'[number]}.png", np.asarray(image), "x") for number, image in enumerate(images)]


def test_equal_nearly_equal_empty_and_blurred_pictures_are_pointed_out() -> None:
    near = noise(1).resize((200, 200), Image.Resampling.LANCZOS)
    soft = noise(2).filter(ImageFilter.GaussianBlur(4))
    notes = remarks(pictures(noise(1), noise(1), near, noise(3), Image.new("RGB", (200, 200), "white"), soft))
    assert notes == [
        "b.png is the same picture as a.png; it counts twice.",
        "c.png is nearly the same picture as a.png.",
        "Of one colour all over: e.png. Look whether that is meant.",
        "Blurred, or enlarged from a small picture: f.png. The blur is learned too.",
    ]


def test_different_pictures_get_no_remark() -> None:
    assert remarks(pictures(*(noise(seed) for seed in range(6)))) == []
    assert remarks(pictures(noise(1), noise(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT))) == []


@pytest.mark.parametrize("side", [256, 512, 1500])
def test_a_picture_enlarged_from_a_small_one_counts_as_blurred(side: int) -> None:
    small = noise(5, (96, 96)).resize((24, 24), Image.Resampling.BOX)
    assert is_blurred(small.resize((min(side, 512),) * 2, Image.Resampling.BICUBIC).convert("L"))
    assert not is_blurred(noise(5, (min(side, 512),) * 2).convert("L"))


def test_pictures_that_a_training_enlarges_are_told_with_the_factor() -> None:
    found = enlarged(pictures(noise(1, (128, 128)), noise(2, (512, 512)), noise(3, (400, 400))), 512)
    assert len(found) == 1 and "enlarged up to 4.0 times: a.png." in found[0]
    assert enlarged(pictures(noise(1)), 256) == []
