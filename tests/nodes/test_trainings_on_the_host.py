"""A real training on the host's own objects: they stay as they were, and what is saved is what was trained."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.sd
import comfy.utils
import numpy as np
import pytest
import small_sdxl
import torch
from test_painting_and_identity import bytes_of

Trio = tuple[Any, Any, Any]
LOCON = "attention_and_convolutions"
KINDS = [
    *({"start": "zero_start"}, {"start": "published"}, {"split": "full"}, {"split": "free"}),
    {"split": "free", "layers": LOCON},
]


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


@pytest.mark.parametrize("kind", KINDS, ids=str)
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
    applied, _ = host.apply_adapter(model, None, core.load_adapter(path), {"content": 1.0, "style": 1.0})
    assert torch.equal(small_sdxl.host_output(applied, rows), small_sdxl.host_output(patched, rows))


def test_convolutions_that_a_node_trains_are_what_its_adapter_paints(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content with them, style without: trained together they have both; another picture than attention alone gives."""
    monkeypatch.setattr(host, "run_store_folder", lambda: tmp_path)
    made = plan(core)
    pictures, other = made.pictures, made.others[0]
    small = {"steps": 2, "resolution": 64, "rank": 4, "batch_size": 1, "sample_every": 0, "learning_rate": "1e-2"}
    found = {}
    for name, layers in (("B4MTrainContent", LOCON), ("B4MTrainContent", "attention"), ("B4MTrainStyle", "attention")):
        node = getattr(pack, name)
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None))
        sets = pictures if name == "B4MTrainContent" else other
        found[name, layers] = node.execute(*mini, sets, None, **widgets_of(node) | small | {"layers": layers}).result[0]
    content, style = found["B4MTrainContent", LOCON], found["B4MTrainStyle", "attention"]
    assert content.facts.layers == LOCON and style.facts.layers == "attention"
    node = pack.B4MTrainTogether
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None))
    both = node.execute(*mini, content, style, pictures, other, **widgets_of(node) | small).result[0]
    assert both.facts.layers == LOCON and both.facts.role == "together"
    moved = [name for name, layer in both.layers.items() if ".attn" not in name and bool(layer.A.any() and layer.B.any())]
    assert len(moved) == 48
    outputs = []
    for adapter in (content, found["B4MTrainContent", "attention"], both):
        applied, _ = host.apply_adapter(mini[0], None, adapter, {"content": 1.0, "style": 1.0})
        outputs.append(small_sdxl.host_output(applied, small_sdxl.inputs(text_width=160, pooled=96)))
    assert small_sdxl.relative_difference(outputs[0], outputs[1]) > 1e-3 and small_sdxl.relative_difference(outputs[2], outputs[0]) > 1e-3


def widgets_of(node: Any) -> dict[str, Any]:
    """The widgets of a node as they stand when it is put on the page."""
    return {
        each.id: each.options[0] if getattr(each, "default", None) is None else each.default
        for each in node.define_schema().inputs
        if getattr(each, "default", None) is not None or getattr(each, "options", None)
    }


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
