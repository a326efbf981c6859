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
    assert schema.is_input_list and schema.inputs[-1].id == "captions" and schema.inputs[-1].optional


def test_a_list_of_pictures_of_different_sizes_is_one_set(pack: ModuleType) -> None:
    output = gathered(pack, images=batch((64, 48), (40, 72), (64, 64)))
    found = output.result[0]
    assert [picture.pixels.shape[:2] for picture in found.pictures] == [(64, 48), (40, 72), (64, 64)]
    assert output.ui["text"] == ("3 pictures",) and found.trigger == "snq"
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
        assert [int(picture.mask.max(axis=1).argmax()) for picture in found.pictures] == [0, 20, 40]
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
