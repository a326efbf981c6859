"""A real training on the host's own objects: they stay as they were, and what is saved is what was trained."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.sd
import comfy.utils
import numpy as np
import pytest
import small_sdxl
import torch
from test_painting_and_identity import bytes_of

Trio = tuple[Any, Any, Any]


@pytest.fixture(scope="module")
def core() -> ModuleType:
    """b4m_core as the pack imports it."""
    return importlib.import_module("b4m_pack.b4m_core")


def plan(core: ModuleType, **settings: Any) -> Any:
    pictures = importlib.import_module("b4m_pack.b4m_core.pictures")
    rng = np.random.default_rng(0)
    sets = [
        pictures.from_arrays([rng.random((64, 64, 3)) for _ in range(2)], trigger=word, class_word="bird", pattern="a {trigger} {class}")
        for word in ("snq", "other")
    ]
    small = {"steps": 3, "rank": 4, "gradient_accumulation_steps": 1, "resolution": 64, "learning_rate": 1e-2} | settings
    return core.Plan("content", sets[0], (sets[1],), core.TrainingSettings(**small))


def filled(core: ModuleType, unet: Any, **kind: str) -> Any:
    """An adapter with something in every learned part."""
    adapter = core.Adapter.for_unet(unet, core.Facts("together", 4, **kind))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for projection in adapter.layers.values():
            for part in projection.parameters():
                part.normal_(std=0.3, generator=generator)
    return adapter


@pytest.mark.parametrize("kind", [{"start": "zero_start"}, {"start": "published"}, {"split": "full"}, {"split": "free"}], ids=str)
def test_an_attached_adapter_equals_its_saved_file_in_the_hosts_loader(
    host: ModuleType, core: ModuleType, tmp_path: Path, kind: dict[str, str]
) -> None:
    model, rows = small_sdxl.small_model(), small_sdxl.inputs()
    unet = host.training_network(model)
    plain = small_sdxl.network_output(unet, rows)
    adapter = filled(core, unet, **kind)
    path = core.save_adapter(adapter, tmp_path / "a.safetensors")
    adapter.attach(unet)
    ours = small_sdxl.network_output(unet, rows)
    patched, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0.0)
    assert small_sdxl.relative_difference(ours, plain) > 1e-2
    assert small_sdxl.relative_difference(ours, small_sdxl.host_output(patched, rows)) < 1e-4


def test_a_whole_training_leaves_model_clip_and_vae_bit_identical(host: ModuleType, core: ModuleType, mini: Trio, tmp_path: Path) -> None:
    before = bytes_of(mini)
    with torch.inference_mode():  # as the host runs its nodes
        base = host.HostBaseModel(*mini)
        adapter = core.train(plan(core), base, core.RunStore(tmp_path))
        base.sample_with(core.lora_state_dict(adapter), "a snq bird", width=64, height=64, seed=0)
    assert any(projection.D.abs().max() > 0 for projection in adapter.layers.values())
    assert bytes_of(mini) == before


def test_a_training_follows_the_lora_that_was_patched_in_upstream(host: ModuleType, core: ModuleType, mini: Trio, tmp_path: Path) -> None:
    model, clip, vae = mini
    lora = {key: 0.1 * value for key, value in small_sdxl.random_lora(model, rank=2).items() if not key.endswith("alpha")}
    patched = host.apply_lora(model, lora)
    store = core.RunStore(tmp_path)
    plain, changed = (core.train(plan(core), host.HostBaseModel(each, clip, vae), store) for each in (model, patched))
    assert plain.facts.base != changed.facts.base
    assert plain.digest() != changed.digest()
