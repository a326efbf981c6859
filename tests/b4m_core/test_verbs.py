"""list, inspect, merge, split, convert and resize: the files that the core makes, and a sentence for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from test_apart import INK
from tiny_files import CONCEPT

from b4m_core import Adapter, Facts, load_adapter, merge, save_adapter
from b4m_core.apart import apart
from b4m_core.commandline import main
from b4m_core.models.sdxl.names import kohya_key as layer_names
from b4m_core.resize import resized


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A content and a style, and both merged."""
    made = {}
    for role, concept in (("content", CONCEPT), ("style", INK)):
        facts = Facts(role=role, rank=3, split="free", file_dtype="float16", base_name="mini", **{role: concept})  # type: ignore[arg-type]
        made[role] = tiny.filled(Adapter.for_unet(tiny.tiny_unet(), facts), seed=len(role)).rounded()
        save_adapter(made[role], tmp_path / f"{role}.safetensors")
    save_adapter(merge(made["content"], made["style"]), tmp_path / "both.safetensors")
    return tmp_path


def call(*words: object) -> int:
    return main([str(word) for word in words])


def test_merge_writes_what_the_merge_gives(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "both.safetensors"
    assert call("merge", "--content", place / "content.safetensors", "--style", place / "style.safetensors", "--out", out) == 0
    assert out.read_bytes() == (place / "both.safetensors").read_bytes() and capsys.readouterr().out.strip() == str(out)
    assert out.with_suffix(".json").is_file()


def test_merge_takes_any_number_of_details_and_strengths(place: Path, tmp_path: Path) -> None:
    pair = ("--content", place / "content.safetensors", "--style", place / "style.safetensors")
    details = ("--detail", place / "content.safetensors", "--detail", place / "style.safetensors", "--detail-strength", "0.5")
    assert call("merge", *pair, *details, "--content-strength", "-1", "--out", tmp_path / "new.safetensors") == 0
    content, style = (load_adapter(place / f"{name}.safetensors") for name in ("content", "style"))
    for name, (m, n) in content.shapes().items():
        key = layer_names(name)
        tensors = safetensors.torch.load_file(tmp_path / "new.safetensors")
        update = tensors[f"{key}.lora_up.weight"].float() @ tensors[f"{key}.lora_down.weight"].float()
        update = update * (float(tensors[f"{key}.alpha"]) / tensors[f"{key}.lora_down.weight"].shape[0])
        left, right = content.layers[name], style.layers[name]
        wanted = 0.5 * (left.delta_weight() + right.delta_weight()) - left.delta_weight(1, 0) + right.delta_weight(0, 1)
        assert update.shape == (m, n)
        torch.testing.assert_close(update, wanted.detach(), rtol=2e-3, atol=2e-4)


def test_split_writes_two_files_that_merge_gives_back(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("split", place / "both.safetensors") == 0
    assert "both sliders in every other tool, exactly" in capsys.readouterr().err
    pair = apart(load_adapter(place / "both.safetensors"))
    for concept, one in pair.items():
        assert load_adapter(place / f"both_{concept}.safetensors").digest() == one.digest()
    assert call("split", place / "both.safetensors", "--out", tmp_path / "x" / "other.safetensors") == 0
    assert sorted(file.name for file in (tmp_path / "x").glob("*.safetensors")) == ["other_content.safetensors", "other_style.safetensors"]
    assert call("split", place / "content.safetensors") == 1
    assert "only one that is merged or trained together can be taken apart" in capsys.readouterr().err


def test_resize_tells_the_error_and_writes_the_smaller_one(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("resize", place / "both.safetensors", "--rank", 2, "--out", tmp_path / "small.safetensors") == 0
    small, error = resized(load_adapter(place / "both.safetensors"), 2)
    assert load_adapter(tmp_path / "small.safetensors").digest() == small.digest()
    assert f"the whole is {error:.2%} off" in capsys.readouterr().err
    assert call("resize", place / "both.safetensors", "--rank", 0, "--out", tmp_path / "none.safetensors") == 1
    assert not (tmp_path / "none.safetensors").exists()


@pytest.mark.parametrize("layout", ["diffusers", "peft", "kohya"])
def test_convert_goes_there_and_back_to_the_same_bytes(layout: str, place: Path, tmp_path: Path) -> None:
    there = tmp_path / ("there.safetensors" if layout == "kohya" else "there")
    back = tmp_path / "back" / "both.safetensors"
    assert call("convert", place / "both.safetensors", "--to", layout, "--out", there) == 0
    assert call("convert", there, "--out", back) == 0
    assert back.read_bytes() == (place / "both.safetensors").read_bytes()


def test_convert_changes_the_precision(place: Path, tmp_path: Path) -> None:
    assert call("convert", place / "both.safetensors", "--dtype", "bfloat16", "--out", tmp_path / "x.safetensors") == 0
    tensors = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert {value.dtype for key, value in tensors.items() if key.endswith("up.weight")} == {torch.bfloat16}
    assert load_adapter(tmp_path / "x.safetensors").facts.file_dtype == "bfloat16"


def test_list_names_every_file_of_a_folder_and_inspect_says_it_all(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "deep").mkdir()
    safetensors.torch.save_file({"x": torch.zeros(1)}, place / "deep" / "other.safetensors")
    (place / "deep" / "broken.safetensors").write_bytes(b"no file")
    assert call("list", place) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split("  ")[0]).name for line in lines] == [
        "both.safetensors", "content.safetensors", "broken.safetensors", "other.safetensors", "style.safetensors"
    ]  # fmt: skip
    assert lines[0].endswith("merged, snq bear, w@z ink drawing, rank 3, mini") and "damaged" in lines[2]
    assert call("inspect", place / "both.safetensors") == 0
    told = capsys.readouterr().out
    assert "merged adapter, rank 3" in told and "content: snq bear" in told and "float16" in told


@pytest.mark.parametrize(
    "words,sentence",
    [
        (["list", "MISSING"], "is not there: name a file or a folder"),
        (["inspect", "MISSING"], "missing is not there any more"),
        (["merge", "--content", "style", "--style", "content", "--out", "MISSING.safetensors"], "swap the two"),
        (["merge", "--content", "content", "--style", "style", "--out", "MISSING"], "missing needs the ending .safetensors"),
        (["convert", "both", "--to", "peft", "--out", "MISSING.safetensors"], "is a folder: name one for it"),
        (["resize", "both", "--rank", "-1", "--out", "MISSING.safetensors"], "The rank is -1"),
    ],
)
def test_every_mistake_is_one_sentence(words: list[str], sentence: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {name: str(place / f"{name}.safetensors") for name in ("content", "style", "both")}
    spoken = [names.get(word, word.replace("MISSING", str(place / "missing"))) for word in words]
    assert main(spoken) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("b4m: ") and sentence in lines[0]
    assert not list(place.glob("missing*"))
