"""One fingerprint of a network however it is loaded, another for every other network."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_folder import write_folder
from torch import Tensor

from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.fingerprint import network_fingerprint, sampled_layers, surely_differ
from b4m_core.models.sdxl import attention_projections


def of(unet: torch.nn.Module, dtype: torch.dtype = torch.float32) -> str:
    layers = {name: linear.weight for name, linear in attention_projections(unet)}
    return network_fingerprint({name: weight.shape for name, weight in layers.items()}, {n: w.to(dtype) for n, w in layers.items()})


def test_a_folder_has_the_fingerprint_of_its_network(tmp_path: Path) -> None:
    assert DiffusersFolder(write_folder(tmp_path / "m")).network_fingerprint == of(tiny.tiny_unet())


def test_a_network_in_float16_or_in_bfloat16_made_from_it_is_the_same_network() -> None:
    half = tiny.tiny_unet().half()
    assert of(tiny.tiny_unet()) == of(half) == of(half, torch.bfloat16) == of(half, torch.float32)


def test_a_folder_stored_in_float16_has_the_fingerprint_of_the_one_in_float32(tmp_path: Path) -> None:
    write_folder(tmp_path / "single")
    shutil.copytree(tmp_path / "single", tmp_path / "half")
    (file,) = (tmp_path / "half" / "unet").glob("*.safetensors")
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    single, half = (DiffusersFolder(tmp_path / name) for name in ("single", "half"))
    assert single.fingerprint != half.fingerprint and single.network_fingerprint == half.network_fingerprint


def test_other_weights_and_another_topology_have_other_fingerprints() -> None:
    assert len({of(unet) for unet in (tiny.tiny_unet(), tiny.tiny_unet(seed=1), tiny.tiny_unet((1, 1, 2)))}) == 3


def test_a_lora_in_the_weights_gives_another_fingerprint() -> None:
    changed = tiny.tiny_unet()
    for _, linear in attention_projections(changed):
        m, n = linear.weight.shape
        linear.weight += 0.1 * torch.randn(m, 1) @ torch.randn(1, n) / n**0.5
    assert of(changed) != of(tiny.tiny_unet())


def test_every_kind_of_layer_and_every_part_of_the_network_is_looked_at() -> None:
    names = [f"block.{k}.attn{a}.to_{p}" for k in range(70) for a in (1, 2) for p in ("q", "k", "v", "out.0")]
    sampled = sampled_layers(reversed(names))
    assert 40 <= len(sampled) <= 60 and {name.split(".", 2)[2] for name in sampled} == {name.split(".", 2)[2] for name in names}
    assert sampled_layers(names[:5]) == sorted(names[:5])


def test_the_fingerprint_of_all_of_sdxl_s_layers_takes_no_time() -> None:
    weight: Tensor = torch.randn(1280, 1280)
    layers = {f"block.{k}": weight for k in range(560)}
    started = time.process_time()
    network_fingerprint(dict.fromkeys(layers, weight.shape), layers)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "left,right,differ",
    [("n1-aa", "n1-bb", True), ("n1-aa", "n1-aa", False), ("aa", "n1-bb", False), ("n1-aa", "", False), ("aa", "bb", False)],
)
def test_only_fingerprints_of_one_kind_are_compared(left: str, right: str, differ: bool) -> None:
    assert surely_differ(left, right) is surely_differ(right, left) is differ
