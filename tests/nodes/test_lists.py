"""B4M Pictures takes what gathers in a graph: lists of pictures, masks and captions are one set."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

WIDGETS: dict[str, list[Any]] = {
    "folder": ["(pictures from the graph)"], "trigger": ["snq"], "class_word": ["bird"], "caption": ["a {trigger} {class}"],
    "use_masks": [True],
}  # fmt: skip


def batch(*sizes: tuple[int, int], count: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(count, height, width, 3, generator=generator) for height, width in sizes]


def gathered(pack: ModuleType, **inputs: Any) -> Any:
    return pack.B4MPictures.execute(**(WIDGETS | inputs))


def test_the_node_tells_the_host_that_it_takes_lists_and_its_new_input_stands_last(pack: ModuleType) -> None:
    schema = pack.B4MPictures.define_schema()
    assert schema.is_input_list and [each.id for each in schema.inputs[-2:]] == ["captions", "mask_sense"]
    assert all(each.optional for each in schema.inputs[-2:])


def test_a_list_of_pictures_of_different_sizes_is_one_set(pack: ModuleType) -> None:
    output = gathered(pack, images=batch((64, 48), (40, 72), (64, 64)))
    found = output.result[0]
    assert [picture.pixels.shape[:2] for picture in found.pictures] == [(64, 48), (40, 72), (64, 64)]
    assert output.ui["text"] == ("3 pictures, no captions, the trigger is in 3",) and found.trigger == "snq"
    assert found.prompts() == ("a snq bird",)


def test_a_list_of_batches_and_one_batch_are_one_set_too(pack: ModuleType) -> None:
    assert len(gathered(pack, images=[*batch((64, 48), count=3), *batch((40, 72))]).result[0].pictures) == 4
    assert len(gathered(pack, images=batch((64, 48), count=3)).result[0].pictures) == 3
    plain = {name: values[0] for name, values in WIDGETS.items()}
    assert len(pack.B4MPictures.execute(**plain, images=batch((64, 48), count=3)[0]).result[0].pictures) == 3


def test_captions_by_wire_are_one_for_each_and_filled_in(pack: ModuleType) -> None:
    captions = ["a {trigger} {class} in the snow", "", "a red {class}"]
    for inputs in ({"captions": captions}, {"caption": captions}):
        found = gathered(pack, images=batch((64, 48), count=3), **inputs).result[0]
        plain = "a snq bird" if "captions" in inputs else "a snq bird in the snow"
        assert [picture.caption for picture in found.pictures] == ["a snq bird in the snow", plain, "a red bird"]


def test_masks_by_wire_in_any_batches_go_to_their_pictures(pack: ModuleType) -> None:
    masks = torch.zeros(3, 64, 48)
    for index in range(3):
        masks[index, index * 20 : index * 20 + 20] = 1
    for given in ([masks], [masks[:2], masks[2]], list(masks)):
        found = gathered(pack, images=batch((64, 48), count=3), masks=given).result[0]
        assert [int(picture.mask.max(axis=1).argmin()) for picture in found.pictures] == [0, 20, 40]  # 1 is left out, as in ComfyUI
    learned = gathered(pack, images=batch((64, 48), count=3), masks=[masks], mask_sense=["1 is learned"]).result[0]
    assert [int(picture.mask.max(axis=1).argmax()) for picture in learned.pictures] == [0, 20, 40]
    unmasked = gathered(pack, images=batch((64, 48), count=3), masks=[masks], use_masks=[False]).result[0]
    assert all(picture.mask is None for picture in unmasked.pictures)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "has no pictures: choose a folder, or connect images"),
        ({"images": [None]}, "has no pictures"),
        ({"images": batch((64, 48), count=3), "masks": [torch.ones(2, 64, 48)]}, "There are 2 masks for 3 pictures"),
        ({"images": batch((64, 48), (64, 48)), "captions": ["a", "b", "c"]}, "There are 3 captions for 2 pictures"),
        ({"images": batch((64, 48)), "captions": [3]}, "captions got something else than text"),
        ({"images": batch((64, 48)), "trigger": ["snq", "w@z"]}, "trigger got 2 different values"),
        ({"images": batch((64, 48)), "trigger": []}, "trigger got nothing"),
        ({"images": batch((64, 48)), "class_word": [None]}, "class_word got nothing"),
        ({"images": batch((64, 48)), "trigger": [7]}, "trigger got something else than text .int"),
        ({"images": batch((64, 48)), "caption": []}, "caption got nothing"),
        ({"images": []}, "has no pictures"),
        ({"images": [{"samples": torch.zeros(1, 4, 8, 8)}]}, "images got something else than pictures .dict.*connect the right output"),
        ({"images": [torch.zeros(64, 48, 3)]}, "images has 3 dimensions"),
        ({"images": [torch.zeros(1, 64, 48, 1)]}, "Image 1 has 1 channel"),
        ({"images": [*batch((64, 48)), torch.full((1, 64, 48, 3), torch.nan)]}, "Image 2 holds NaN"),
        ({"images": [torch.zeros(0, 64, 48, 3)]}, "images is an empty batch"),
        ({"images": [torch.zeros(1, 64, 48, 3, dtype=torch.uint8)]}, "uint8"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(pack: ModuleType, error: type[Exception], inputs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        gathered(pack, **inputs)


def test_half_precision_pictures_are_read(pack: ModuleType) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert len(gathered(pack, images=[batch((64, 48))[0].to(dtype)]).result[0].pictures) == 1


def test_a_chosen_folder_says_that_the_wires_are_not_used(pack: ModuleType) -> None:
    output = gathered(pack, folder=["(demo content)"], images=batch((64, 48)), captions=["x"])
    assert "What came on images and captions was not used, since a folder is chosen" in output.ui["text"][0]
    assert "not used" not in gathered(pack, folder=["(demo content)"]).ui["text"][0]


def test_the_host_asks_for_the_fingerprint_with_lists_too(pack: ModuleType) -> None:
    ask = pack.B4MPictures.fingerprint_inputs
    assert ask(folder=["(demo content)"], images=(None,)) == ask(folder="(demo content)") != ask(folder=["(demo style)"])


def test_the_hosts_own_folder_node_gives_one_set_through_the_host(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the host does it: the widgets as lists of one, the list output of another node as it is."""
    import asyncio

    import execution

    inputs = {**WIDGETS, "images": batch((64, 48), (40, 72))}
    call = execution._async_map_node_over_list("p", "1", pack.B4MPictures, inputs, "EXECUTE_NORMALIZED")
    results = asyncio.run(call)
    assert len(results) == 1 and len(results[0].result[0].pictures) == 2


def test_the_fingerprint_of_a_folder_sees_renamed_sets_and_what_lies_behind_a_link(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    (tmp_path / "input" / "sets" / "owls").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    (tmp_path / "input" / "sets" / "owls" / "a.png").write_bytes(b"a")
    (tmp_path / "input" / "sets" / "linked").symlink_to(tmp_path / "disk")
    ask = lambda: pack.B4MAuxiliaryPictures.fingerprint_inputs(folder="sets")  # noqa: E731
    seen = [ask(), ask()]
    (tmp_path / "input" / "sets" / "owls").rename(tmp_path / "input" / "sets" / "cars")
    seen.append(ask())
    (tmp_path / "disk" / "b.png").write_bytes(b"b")
    seen.append(ask())
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_the_mask_of_load_image_leaves_out_what_is_transparent(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut-out and a picture without transparency, through the host's own Load Image, whose MASK is 1 where nothing is to be seen."""
    import folder_paths
    import numpy as np
    from PIL import Image

    import nodes

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[16:48, 16:48, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    Image.fromarray(pixels[..., :3]).save(tmp_path / "whole.png")
    loaded = [nodes.LoadImage().load_image(name) for name in ("cut.png", "whole.png")]
    output = gathered(pack, images=[each[0] for each in loaded], masks=[each[1] for each in loaded])
    cut, whole = output.result[0].pictures
    assert np.array_equal(cut.mask, pixels[..., 3]) and whole.mask is None and "mask" not in output.ui["text"][0]


def test_a_segmentation_s_mask_is_taken_as_the_subject_and_said(pack: ModuleType) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 12:64, 16:48] = 1  # a subject that stands on the lower edge
    output = gathered(pack, images=batch((64, 64)), masks=[mask])
    assert output.result[0].pictures[0].mask[40, 30] == 255 and output.result[0].pictures[0].mask[2, 2] == 0
    assert "what it marks is learned" in output.ui["text"][0] and "mask_sense" in output.ui["text"][0]
    told = gathered(pack, images=batch((64, 64)), masks=[mask], mask_sense=["1 is left out"])
    assert told.result[0].pictures[0].mask[40, 30] == 0 and "is learned" not in told.ui["text"][0]
    corner = torch.zeros(1, 64, 64)
    corner[:, 50:, 50:] = 1  # a signature that is to be left out
    assert gathered(pack, images=batch((64, 64)), masks=[corner]).result[0].pictures[0].mask[60, 60] == 0


def test_triggers_that_the_text_encoders_know_or_shred_are_told_with_a_better_word(pack: ModuleType) -> None:
    def told(trigger: str, class_word: str = "bird") -> str:
        return str(gathered(pack, images=batch((64, 64)), trigger=[trigger], class_word=[class_word]).ui["text"][0])

    assert "The model knows cat already" in told("cat") and "The model knows teapot already" in told("Teapot".lower())
    assert "read w@z in 3 pieces: w + @ + z" in told("w@z") and "read woodcut as wood + cut" in told("woodcut")
    assert "both bird" in told("bird") and "brackets" in told("snq(1)")
    assert "There is no trigger word" in told("")
    for quiet in ("snq", "ohwx", "sks"):
        assert told(quiet).count("\n") == 0, told(quiet)


def test_a_suggested_word_stays_whole(host: ModuleType) -> None:
    import importlib

    concepts = importlib.import_module("b4m_pack.b4m_core.concepts")
    words = host.vocabulary()
    for trigger in ("w@z", "cat", "żółw", "my_style_2024", "snq", "茶"):
        assert len(words.pieces(concepts.suggestion(trigger, words))) == 1


def test_a_misspelt_placeholder_is_a_sentence_before_anything_runs(pack: ModuleType, error: type[Exception]) -> None:
    with pytest.raises(error, match="Nothing fills in {trigerr} in the caption: write {trigger}"):
        gathered(pack, images=batch((64, 64)), caption=["a {trigerr} bird"])
    assert gathered(pack, images=batch((64, 64)), captions=["a {mood} {trigger}"]).result[0].pictures[0].caption == "a {mood} snq"


def test_auxiliary_pictures_come_out_as_images_and_the_node_says_what_it_took(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    import folder_paths
    from PIL import Image

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    for name, count in (("owl", 2), ("red_house", 1), ("@eaDir", 1), ("__MACOSX", 1), (".thumbnails", 1)):
        (tmp_path / "sets" / name).mkdir(parents=True)
        for number in range(count):
            Image.effect_noise((64, 48 + number), 90).convert("RGB").save(tmp_path / "sets" / name / f"{number}.png")
    (tmp_path / "sets" / "bad").mkdir()
    (tmp_path / "sets" / "bad" / "x.png").write_bytes(b"no")
    (tmp_path / "sets" / "lost+found").mkdir()
    options = next(each for each in pack.B4MAuxiliaryPictures.define_schema().inputs if each.id == "folder").options
    assert options[1:] == ["sets", "sets/bad", "sets/owl", "sets/red_house"]
    kind = "other contents (for a style)"
    output = pack.B4MAuxiliaryPictures.execute(None, None, None, kind, "sets", 1, 1, 64)
    sets, images = output.result
    assert [each.class_word for each in sets] == ["owl", "red house"] and {each.kind for each in sets} == {"contents"}
    assert [tuple(image.shape) for image in images] == [(1, 48, 64, 3), (1, 49, 64, 3), (1, 48, 64, 3)]
    text = output.ui["text"][0]
    assert text.startswith("2 sets, 3 pictures\n1. owl: 2\n2. red house: 1\n") and "The set bad was left out" in text
    with pytest.raises(error, match="x.png was left out"):
        pack.B4MAuxiliaryPictures.execute(None, None, None, kind, "sets/bad", 1, 1, 64)
