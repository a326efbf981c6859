"""Other layouts: diffusers' folder and PEFT's, each read by the library that it is for, and by us with both sliders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from peft import PeftModel
from test_apart import INK, answer
from tiny_files import CONCEPT, forged
from tiny_folder import write_folder

from b4m_core import Adapter, B4MError, Facts, load_adapter, save_adapter
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.files import save_in_layout
from b4m_core.layouts import FOLDER_LAYOUTS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("layouts") / "model")


def adapter_of(kind: str, role: str = "merged", **facts: Any) -> Adapter:
    known = Facts(role=role, rank=3, content=CONCEPT, style=INK, **{**tiny.KINDS[kind], **facts})
    return tiny.filled(Adapter.for_unet(tiny.tiny_unet(), known), seed=5).rounded()


def wanted(adapter: Adapter) -> torch.Tensor:
    unet = tiny.tiny_unet()
    for name, layer in adapter.layers.items():
        unet.get_submodule(name).weight += layer.delta_weight().detach()
    return answer(unet)


@pytest.mark.parametrize("layout", FOLDER_LAYOUTS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_diffusers_pipelines_read_either_folder(kind: str, layout: str, model: Path, tmp_path: Path) -> None:
    adapter = adapter_of(kind)
    save_in_layout(adapter, tmp_path / "lora", layout)
    pipeline = DiffusersFolder(model).pipeline
    base = answer(pipeline.unet)
    pipeline.load_lora_weights(tmp_path / "lora")
    expected = wanted(adapter)
    assert float((answer(pipeline.unet) - expected).abs().max()) < 1e-4 * float((expected - base).abs().max()) + 1e-5


@pytest.mark.parametrize("role", ["content", "together"])
def test_peft_reads_its_folder(role: str, tmp_path: Path) -> None:
    adapter = adapter_of("free", role)
    save_in_layout(adapter, tmp_path / "lora", "peft")
    read = PeftModel.from_pretrained(tiny.tiny_unet(), str(tmp_path / "lora"))
    torch.testing.assert_close(answer(read), wanted(adapter), rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] and config["peft_type"] == "LORA"


@pytest.mark.parametrize("layout", FOLDER_LAYOUTS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_from_a_folder_comes_back_the_same_adapter_and_the_same_file(kind: str, layout: str, tmp_path: Path) -> None:
    adapter = adapter_of(kind, file_dtype="float16")
    first = save_adapter(adapter, tmp_path / "a" / "x.safetensors")
    for file in save_in_layout(adapter, tmp_path / "lora", layout):
        if file.suffix == ".safetensors":
            assert load_adapter(file).digest() == adapter.digest()
    again = load_adapter(tmp_path / "lora")
    assert again.digest() == adapter.digest() and again.facts.file_format in FOLDER_LAYOUTS
    assert save_in_layout(again, tmp_path / "b" / "x.safetensors", "kohya")[0].read_bytes() == first.read_bytes()


def test_a_layout_that_is_a_folder_is_not_written_over_a_file(tmp_path: Path) -> None:
    for name in ("x.safetensors", "there"):
        (tmp_path / "there").write_text("a file")
        with pytest.raises(B4MError, match=f"{name} names a file, and the layout diffusers is a folder"):
            save_in_layout(adapter_of("free"), tmp_path / name, "diffusers")


@pytest.mark.parametrize("name", ["unet.x.lora_A.weight", "text_encoder.x.lora_A.weight", "unet.x.alpha", "lora_A.weight", ""])
def test_a_name_that_is_not_of_the_layout_is_refused(name: str, tmp_path: Path) -> None:
    adapter = adapter_of("free").with_facts(file_format="diffusers")
    file = forged(tmp_path / "x.safetensors", {name: torch.zeros(6, 8)}, adapter.facts.to_json())
    with pytest.raises(B4MError):
        load_adapter(file)


def test_the_tensors_of_a_folder_are_those_of_the_kohya_file(tmp_path: Path) -> None:
    adapter = adapter_of("free")
    save_adapter(adapter, tmp_path / "x.safetensors")
    save_in_layout(adapter, tmp_path / "lora", "diffusers")
    kohya = safetensors.torch.load_file(tmp_path / "x.safetensors")
    named = safetensors.torch.load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert len(named) == 2 * len(adapter.layers) and len(kohya) == 3 * len(adapter.layers)
    up = kohya["lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_up.weight"]
    assert torch.equal(named["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"], up)
