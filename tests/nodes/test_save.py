"""B4M Save LoRA: content and style apart, a smaller rank, and what lies beside the file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import folder_paths
import pytest
import torch
from PIL import Image
from test_faces import adapter_for

Trio = tuple[Any, Any, Any]
APART = "content and style apart"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(patched: Any) -> dict[str, torch.Tensor]:
    """The weights that a MODEL computes with, after all of its patches."""
    import comfy.lora

    state = patched.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(patches, state[key].float().clone(), key) for key, patches in patched.patches.items()
    }


@pytest.mark.parametrize("split", ["free", "full"])
def test_two_lora_loaders_of_the_host_are_the_two_sliders(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, loras: Path, split: str
) -> None:
    import nodes as host_nodes

    adapter = adapter_for(host, core, mini, "together", split=split)
    assert pack.B4MSaveAdapter.execute(adapter, "both", False, also_save=APART).result[1] == "both.safetensors"
    files = [name for name in names(loras) if name.endswith(".safetensors")]
    assert files == ["both.safetensors", "both_content.safetensors", "both_style.safetensors"]
    assert set(files) <= set(folder_paths.get_filename_list("loras"))
    for content, style in ((1.0, 1.0), (0.4, 1.6), (-0.5, 1.0)):
        model = mini[0]
        for name, strength in (("both_content.safetensors", content), ("both_style.safetensors", style)):
            model = host_nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]
        ours = host.apply_lora(mini[0], core.lora_state_dict(adapter, content, style))
        left, right, plain = weights(model), weights(ours), mini[0].model.state_dict()
        assert left.keys() == right.keys() and len(left) > 20
        off = sum(float((left[key] - right[key]).square().sum()) for key in left)
        effect = sum(float((right[key] - plain[key].float()).square().sum()) for key in right)
        assert (off / effect) ** 0.5 < (1e-3 if split == "free" else 2e-3)


def test_what_is_off_with_halves_is_told_on_the_node(host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, loras: Path) -> None:
    adapter = adapter_for(host, core, mini, "merged", split="halves")
    told = str(pack.B4MSaveAdapter.execute(adapter, "both", False, also_save=APART).ui.as_dict())
    assert "both_content.safetensors" in told and "% off" in told and "not the whole" in told


def test_files_of_the_same_names_are_kept_and_the_same_ones_are_not_written_again(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, loras: Path
) -> None:
    adapter = adapter_for(host, core, mini, "merged", split="free")
    (loras / "both_style.safetensors").write_bytes(b"somebody's")
    for _ in range(2):
        pack.B4MSaveAdapter.execute(adapter, "both", False, also_save=APART)
        files = ["both.safetensors", "both_content.safetensors", "both_style.safetensors", "both_style_2.safetensors"]
        assert names(loras) == files
    assert (loras / "both_style.safetensors").read_bytes() == b"somebody's"
    ask = lambda: pack.B4MSaveAdapter.fingerprint_inputs("both", False, also_save=APART)  # noqa: E731
    before = ask()
    (loras / "both_content.safetensors").unlink()
    assert ask() != before


def test_a_content_alone_is_saved_and_it_is_said_that_there_is_nothing_to_take_apart(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, loras: Path
) -> None:
    adapter = adapter_for(host, core, mini, "content", split="free")
    out = pack.B4MSaveAdapter.execute(adapter, "one", False, also_save=APART)
    assert names(loras) == ["one.safetensors"] and "nothing to take apart" in str(out.ui.as_dict())


def test_a_smaller_rank_is_told_with_its_error_and_the_wire_keeps_the_whole(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, loras: Path
) -> None:
    adapter = adapter_for(host, core, mini, "merged", split="free")
    out = pack.B4MSaveAdapter.execute(adapter, "small", False, reduce_rank=1)
    assert core.load_adapter(loras / "small.safetensors").facts.rank == 1 and out.result[0] is adapter
    assert "Rank 1 for each concept: the whole is" in str(out.ui.as_dict())


def test_the_picture_on_the_wire_is_in_the_header_and_beside_the_file(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, error: type[Exception], loras: Path
) -> None:
    concept = core.Concept("snq", "bear", ("a snq bear",))
    adapter = adapter_for(host, core, mini, "content", split="free", content=concept)
    red, blue = torch.zeros(2, 48, 64, 3), torch.zeros(1, 48, 64, 3)
    red[..., 0], blue[..., 2] = 1.0, 1.0
    pack.B4MSaveAdapter.execute(adapter, "bear", False, thumbnail=red)
    with Image.open(loras / "bear.preview.png") as picture:
        assert picture.size == (64, 48) and picture.getpixel((5, 5))[0] > 240
    assert json.loads((loras / "bear.json").read_text())["activation text"] == "snq bear"
    first = core.load_adapter(loras / "bear.safetensors").thumbnail
    pack.B4MSaveAdapter.execute(adapter, "bear", False, thumbnail=blue)  # the same adapter keeps its name and gets the picture
    assert core.load_adapter(loras / "bear.safetensors").thumbnail not in ("", first) and not (loras / "bear_2.safetensors").exists()
    with Image.open(loras / "bear.preview.png") as picture:
        assert picture.getpixel((5, 5))[2] > 240
    pack.B4MSaveAdapter.execute(adapter, "bear", False)
    assert core.load_adapter(loras / "bear.safetensors").thumbnail != ""
    for wrong in (torch.zeros(3), "picture", torch.zeros(0, 4, 4, 3)):
        with pytest.raises(error, match="The input thumbnail got no picture"):
            pack.B4MSaveAdapter.execute(adapter, "bear", False, thumbnail=wrong)


def test_a_compact_file_is_listed_by_b4m_and_by_no_lora_loader(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, loras: Path
) -> None:
    import nodes as host_nodes

    adapter = adapter_for(host, core, mini, "content", split="full")
    assert pack.B4MSaveAdapter.execute(adapter, "small", False, compact=True).result[1] == "small.b4m"
    listed = host_nodes.LoraLoader.INPUT_TYPES()["required"]["lora_name"][0]
    assert "small.b4m" not in listed and "small.b4m" in pack.B4MLoadAdapter.define_schema().inputs[0].options
    loaded = pack.B4MLoadAdapter.execute("small.b4m").result[0]
    assert loaded.facts.compact and loaded.digest() == adapter.compacted().digest()
    before = pack.B4MSaveAdapter.fingerprint_inputs("small", False, compact=True)
    (loras / "small.b4m").rename(loras / "moved.b4m")
    host.refresh_lora_list()
    assert "moved.b4m" in host.lora_files() and pack.B4MSaveAdapter.fingerprint_inputs("small", False, compact=True) != before


def test_the_command_line_writes_the_same_bytes_under_the_same_names(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, loras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """merge, split, resize and convert against B4M Merge LoRAs and B4M Save LoRA, side files too."""
    main = importlib.import_module("b4m_pack.b4m_core.commandline").main
    for role, word in (("content", "snq"), ("style", "w@z")):
        concept = {role: core.Concept(word, "", (f"a {word}",))}
        core.save_adapter(adapter_for(host, core, mini, role, split="full", **concept), tmp_path / f"{role}.safetensors")
    content, style = (core.load_adapter(tmp_path / f"{role}.safetensors") for role in ("content", "style"))
    both = pack.B4MMergeAdapters.execute(content, style).result[0]
    pack.B4MSaveAdapter.execute(both, "both", False, also_save=APART)
    pack.B4MSaveAdapter.execute(both, "small", False, reduce_rank=1)
    pack.B4MSaveAdapter.execute(both, "taught", False, compact=True)
    out = tmp_path / "out"
    pair = ["--content", tmp_path / "content.safetensors", "--style", tmp_path / "style.safetensors"]
    for words in (
        ["merge", *pair, "--out", out / "both.safetensors"],
        ["split", out / "both.safetensors"],
        ["resize", out / "both.safetensors", "--rank", 1, "--out", out / "small.safetensors"],
        ["convert", out / "both.safetensors", "--to", "compact", "--out", out / "taught.b4m"],
    ):
        assert main([str(word) for word in words]) == 0
    assert names(out) == names(loras) and len(names(out)) == 10
    for name in names(out):
        assert (out / name).read_bytes() == (loras / name).read_bytes(), name
