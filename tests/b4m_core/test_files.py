"""Adapters on disk: bit-exact, the same bytes for the same adapter, an ordinary LoRA for everybody else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import tiny
import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from tiny_files import FACTS, parts, saved
from torch import Tensor

from b4m_core import Adapter, B4MError, Facts, PartlyLearnableProjection, load_adapter, lora_state_dict, read_facts, save_adapter
from b4m_core.files import FORMATS
from b4m_core.metadata import FILE_DTYPES, FORMAT
from b4m_core.splits import SPLITS, STARTS

GOLDEN = Path(__file__).with_name("golden")
GOLDEN_NAMES = sorted(file.stem for file in GOLDEN.glob("format_*.safetensors"))


@pytest.mark.parametrize("start", ["zero_start", "published"])
def test_a_round_trip_in_single_precision_is_bit_exact(start: str, tmp_path: Path) -> None:
    adapter, _ = saved(tmp_path, start=start)
    again = load_adapter(tmp_path / "bear.safetensors")
    assert again.facts == adapter.facts and list(again.layers) == list(adapter.layers)
    for name, layer in again.layers.items():
        for half in "ABCD":
            assert torch.equal(getattr(layer, half), getattr(adapter.layers[name], half))


@pytest.mark.parametrize("file_dtype", ["float16", "bfloat16"])
def test_rounding_to_half_precision_happens_once_and_never_again(file_dtype: str, tmp_path: Path) -> None:
    raw = tiny.filled(tiny.small_adapter(**FACTS).with_facts(file_dtype=file_dtype), seed=8)
    before = raw.digest()
    rounded = raw.rounded()
    assert rounded.digest() != before == raw.digest()
    save_adapter(rounded, tmp_path / "one.safetensors")
    again = load_adapter(tmp_path / "one.safetensors")
    assert again.digest() == rounded.digest() == again.rounded().digest()
    assert torch.equal(rounded.layers[tiny.LAYER].B, raw.layers[tiny.LAYER].B.to(getattr(torch, file_dtype)).float())


def test_equal_adapters_give_equal_bytes_and_no_date(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = saved(tmp_path)[1], saved(tmp_path / "other")[1]
    assert first == second


def test_the_names_alpha_and_factors_are_those_of_a_kohya_lora(tmp_path: Path) -> None:
    adapter, raw = saved(tmp_path)
    tensors = safetensors.torch.load(raw)
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    assert {name.partition(".")[0] for name in tensors} == {key, "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"}
    up, down, alpha = (tensors[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    assert up.shape == (8, 4) and down.shape == (4, 8) and float(alpha) == 4
    torch.testing.assert_close(up.double() @ down.double(), adapter.layers[tiny.LAYER].double().delta_weight())


@pytest.mark.parametrize("rank", [3, 257, 1000])
@pytest.mark.parametrize("file_dtype", ["float32", "float16", "bfloat16"])
def test_alpha_is_exactly_the_rank_of_the_factors_in_every_dtype(file_dtype: str, rank: int) -> None:
    layer = PartlyLearnableProjection(1100, 1100, rank, name=tiny.LAYER)
    tensors = lora_state_dict(Adapter({tiny.LAYER: layer}, Facts(role="content", rank=rank, file_dtype=file_dtype)))
    alpha = next(value for key, value in tensors.items() if key.endswith("alpha"))
    up = next(value for key, value in tensors.items() if key.endswith("up.weight"))
    assert float(alpha) == up.shape[1] and str(up.dtype) == f"torch.{file_dtype}"


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("content,style", [(1.0, 1.0), (0.6, 1.4), (0.0, 1.0)])
def test_diffusers_own_loader_adds_the_same_weights(kind: str, content: float, style: float) -> None:
    """Loaded through diffusers' kohya conversion and PEFT on one side, W + dW written into the weights on the other."""
    facts = Facts(role="merged", rank=3, **tiny.KINDS[kind])  # type: ignore[arg-type]
    adapter = tiny.filled(Adapter.for_unet(tiny.tiny_unet(levels=2), facts), seed=5)
    loaded, merged = tiny.tiny_unet(levels=2), tiny.tiny_unet(levels=2)
    tensors = lora_state_dict(adapter, content, style)
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(tensors, unet_config=loaded.config)
    StableDiffusionXLLoraLoaderMixin.load_lora_into_unet(state, alphas, loaded, adapter_name="b4m")
    for name, layer in adapter.layers.items():
        a, b, c, d = layer.A, style * layer.B.detach(), layer.C, content * layer.D.detach()
        if kind == "free":
            a, d, b, c = content * layer.A.detach(), layer.D.detach(), style * layer.B.detach(), layer.C.detach()
        if kind in ("full", "free"):
            merged.get_submodule(name).weight += a @ d + b @ c
            continue
        corner = max(content, style) * (a @ c) if kind == "published" else torch.zeros(len(a), c.shape[1])
        merged.get_submodule(name).weight += torch.cat([torch.cat([corner, a @ d], 1), torch.cat([b @ c, b @ d], 1)])
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = [run(unet, x) for unet in (loaded, merged, tiny.tiny_unet(levels=2))]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert float((outputs[1] - outputs[2]).abs().max()) > 1e-3


def run(unet: torch.nn.Module, x: Tensor) -> Tensor:
    added = {"text_embeds": torch.ones(2, tiny.POOLED), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    with torch.no_grad():
        return unet(x, torch.tensor(500), encoder_hidden_states=torch.ones(2, 5, tiny.TEXT_WIDTH), added_cond_kwargs=added).sample


def test_facts_are_read_without_reading_the_tensors(tmp_path: Path) -> None:
    adapter, raw = saved(tmp_path)
    (tmp_path / "bear.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert read_facts(tmp_path / "bear.safetensors") == adapter.facts


def test_other_tools_find_the_keys_that_they_show(tmp_path: Path) -> None:
    _, raw = saved(tmp_path)
    header = parts(raw)[0]["__metadata__"]
    assert header["modelspec.title"] == "bear"
    assert header["modelspec.trigger_phrase"] == "snq bear" and header["modelspec.resolution"] == "128x128"
    assert header["ss_network_module"] == "networks.lora" and header["ss_network_dim"] == "4" and header["ss_network_alpha"] == "4.0"
    assert header["ss_steps"] == "12" and header["ss_sd_model_name"] == "mini"
    assert all(isinstance(value, str) for value in header.values())


def test_the_published_data_hash_is_that_of_the_tensor_data(tmp_path: Path) -> None:
    import hashlib

    header, data = parts(saved(tmp_path)[1])
    assert header["__metadata__"]["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert header["__metadata__"]["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("half", ["B", "D"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_an_adapter_with_values_that_are_no_numbers_is_never_saved(half: str, value: float, tmp_path: Path) -> None:
    """1e6 is a number, but not in the float16 of the file."""
    adapter = tiny.small_adapter(file_dtype="float16")
    getattr(adapter.layers[tiny.OTHER_LAYER], half).data[0, 0] = value
    with pytest.raises(
        B4MError, match="was not saved: its layer lora_unet_middle_block.* not numbers; train again with a lower learning rate"
    ):
        save_adapter(adapter, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
@pytest.mark.parametrize("umask,mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_saved_file_has_the_mode_that_the_umask_asks_for(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        saved(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "bear.safetensors").stat().st_mode) == mode


def test_a_folder_that_is_a_file_gives_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "loras").write_text("not a folder")
    with pytest.raises(B4MError, match="could not be written"):
        save_adapter(tiny.small_adapter(), tmp_path / "loras" / "x.safetensors")


def test_missing_folders_are_made_on_the_way(tmp_path: Path) -> None:
    save_adapter(tiny.small_adapter(), tmp_path / "a" / "b" / "x.safetensors")
    assert load_adapter(tmp_path / "a" / "b" / "x.safetensors").facts.role == "content"


def test_an_adapter_loaded_and_saved_in_inference_mode_is_an_ordinary_one(tmp_path: Path) -> None:
    with torch.inference_mode():
        save_adapter(tiny.small_adapter(), tmp_path / "x.safetensors")
        layer = load_adapter(tmp_path / "x.safetensors").layers[tiny.LAYER]
        tensors = lora_state_dict(load_adapter(tmp_path / "x.safetensors"))
    assert not any(value.is_inference() for value in (layer.A, layer.B, layer.C, layer.D, *tensors.values()))


def test_there_are_golden_files_of_every_format_every_split_and_every_form() -> None:
    """A new format, split or form brings its golden file; none that was written is ever taken away."""
    facts = [read_facts(GOLDEN / f"{name}.safetensors") for name in GOLDEN_NAMES]
    assert {json.loads(each.to_json())["format"] for each in facts} == set(range(1, FORMAT + 1))
    assert {each.split for each in facts} == set(SPLITS) and {each.form for each in facts} == set(FORMATS)
    assert {each.file_dtype for each in facts} == set(FILE_DTYPES) and {each.start for each in facts} == set(STARTS)
    assert {f"{name}.json" for name in GOLDEN_NAMES} <= {file.name for file in GOLDEN.iterdir()} and len(GOLDEN_NAMES) >= 7


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_golden_file_is_read_for_ever(name: str) -> None:
    """Files of every format that was ever written. If this fails, adapters that people have trained cannot be read any more."""
    adapter = load_adapter(GOLDEN / f"{name}.safetensors")
    expected = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert json.loads(adapter.facts.to_json()) == expected["facts"]
    for path, halves in expected["layers"].items():
        for half, rows in halves.items():
            assert getattr(adapter.layers[path], half)[0].tolist() == rows
    assert adapter.facts.basis == expected["facts"]["basis"]


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_golden_file_is_also_what_the_present_version_writes(name: str, tmp_path: Path) -> None:
    save_adapter(load_adapter(GOLDEN / f"{name}.safetensors"), tmp_path / f"{name}.safetensors")
    old, new = ((folder / f"{name}.safetensors").read_bytes() for folder in (GOLDEN, tmp_path))
    assert parts(old)[1] == parts(new)[1] and parts(old)[0]["__metadata__"]["b4m.sha256"] == parts(new)[0]["__metadata__"]["b4m.sha256"]
