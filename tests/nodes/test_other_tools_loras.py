"""Other tools' LoRAs through the nodes: loaded, applied, merged and worn, each weight as the host's own LoraLoader makes it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_faces import adapter_for, pictures
from torch import Tensor

from benchmarks.formats.layouts import WRITERS

Trio = tuple[Any, Any, Any]
READ_BY_THE_HOST = [
    "kohya, feed-forward and text encoders",
    "kohya, LoCon",
    "kohya, DoRA by columns",
    "kohya, LoHa",
    "kohya, LoKr of whole factors",
]


@pytest.fixture(scope="module")
def network(host: ModuleType, mini: Trio) -> Any:
    return host.training_network(mini[0])


def encoders(clip: Any) -> list[Any]:
    return [getattr(clip.cond_stage_model, name).transformer for name in ("clip_l", "clip_g")]


def put(name: str, network: Any, mini: Trio, loras: Path, as_name: str = "theirs", dtype: torch.dtype = torch.float32) -> str:
    """A file of that layout in the loras folder, by its name there."""
    os.replace(WRITERS[name](network, encoders(mini[1]), loras.parent / as_name, dtype), loras / f"{as_name}.safetensors")
    folder_paths.filename_list_cache.clear()
    return f"{as_name}.safetensors"


def two_of_a_kind(keys: Iterable[str]) -> set[str]:
    """Of the weights that differ in numbers alone, such as one projection in all blocks, the first and the last."""
    kinds: dict[str, list[str]] = {}
    for key in sorted(keys):
        kinds.setdefault(re.sub(r"\d+", "#", key), []).append(key)
    return {key for alike in kinds.values() for key in (alike[0], alike[-1])}


def changed(patcher: Any, before: Any, keys: Collection[str] | None = None) -> dict[str, Tensor]:
    """What the patches of a MODEL or a CLIP's patcher add to its weights, by name, float64; of two of a kind, unless `keys` are named."""
    weights, found = before.model.state_dict(), {}
    for key in two_of_a_kind(patcher.patches) if keys is None else keys:
        patches = patcher.patches[key]
        weight = weights[key].double()
        found[key] = comfy.lora.calculate_weight(patches, weight.clone(), key, torch.float64) - weight
    return found


def shown(output: Any) -> str:
    """What a node's text says."""
    return str(output.ui.as_dict()["text"][0])


def applied_alike(mine: Any, theirs: Any, before: Any) -> None:
    """Both patch the same weights, and add the same to them."""
    assert mine.patches.keys() == theirs.patches.keys()
    assert off(changed(mine, before), changed(theirs, before)) < 1e-6


def off(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The relative difference of all together."""
    assert mine.keys() == theirs.keys() and mine
    total = sum(float((mine[key] - theirs[key]).square().sum()) for key in mine)
    return float((total / sum(float(value.square().sum()) for value in theirs.values())) ** 0.5)


@pytest.mark.parametrize("name", READ_BY_THE_HOST)
def test_what_the_host_reads_is_applied_as_its_own_loader_does_with_both_sliders(
    name: str, pack: ModuleType, mini: Trio, network: Any, loras: Path
) -> None:
    file = put(name, network, mini, loras)
    loaded = pack.B4MLoadAdapter.execute(file, "style")
    assert "taken as style" in shown(loaded)
    state = comfy.utils.load_torch_file(str(loras / file))
    for style in (1.0, -2.0):
        model, clip = pack.B4MApplyAdapter.execute(mini[0], loaded.result[0], 3.0, style, clip=mini[1]).result
        theirs = comfy.sd.load_lora_for_models(mini[0], mini[1], state, style, style)
        applied_alike(model, theirs[0], mini[0])
        if theirs[1].patcher.patches:
            applied_alike(clip.patcher, theirs[1].patcher, mini[1].patcher)
    nothing = pack.B4MApplyAdapter.execute(mini[0], loaded.result[0], 3.0, 0.0, clip=mini[1]).result
    assert not nothing[0].patches or not any(value.any() for value in changed(nothing[0], mini[0]).values())


@pytest.mark.parametrize("name", ["kohya, OFT", "PEFT, OFT", "PEFT, DoRA", "diffusers, processors", "the paper's code"])
def test_what_the_host_does_not_read_is_applied_as_the_method_adds_it(
    name: str, core: ModuleType, pack: ModuleType, mini: Trio, network: Any, loras: Path
) -> None:
    adapter = pack.B4MLoadAdapter.execute(put(name, network, mini, loras), "content").result[0]
    model, _ = pack.B4MApplyAdapter.execute(mini[0], adapter, 0.5, 1.0).result
    names = {
        f"diffusion_model.{key}": layer for layer, key in comfy.utils.unet_to_diffusers(mini[0].model.model_config.unet_config).items()
    }
    found, weights = changed(model, mini[0]), mini[0].model.state_dict()
    pieces = {f"{piece.key}.weight": piece for piece in adapter.carried}
    assert len(model.patches) == len(pieces) + len(adapter.layers) > 100
    for key, value in found.items():
        path = names[key].removesuffix(".weight")
        piece = pieces.get(f"lora_unet_{path.replace('.', '_')}.weight")
        expected = 0.5 * piece.added(weights[key].double()) if piece else adapter.layers[path].double().delta_weight(0.5, 1.0).detach()
        assert float((value - expected).norm()) < 1e-5 * float(expected.norm()), key


def test_every_layer_of_sdxl_has_the_names_of_the_hosts_own_table() -> None:
    import comfy.supported_models

    config = {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth_middle": 10}
    config["transformer_depth"], config["transformer_depth_output"] = [0, 0, 2, 2, 10, 10], [0, 0, 0, 2, 2, 2, 10, 10, 10]
    modules = importlib.import_module("b4m_pack.b4m_core.models.sdxl.modules")
    known = comfy.utils.unet_to_diffusers({**comfy.supported_models.SDXL.unet_config, **config})
    table = {path.rpartition(".")[0]: key.rpartition(".")[0] for path, key in known.items()}
    checked = 0
    for path in sdxl_paths():
        if path in table:
            layer, original = "lora_unet_" + path.replace(".", "_"), "lora_unet_" + table[path].replace(".", "_")
            assert modules.layer_key(original) == layer == modules.layer_key(f"unet.{path}")
            assert modules.original_key(layer) == original
            checked += 1
    assert checked > 1000


def sdxl_paths() -> list[str]:
    """diffusers' paths of all layers of the real SDXL."""
    from diffusers import UNet2DConditionModel

    sys.path.append(str(Path(__file__).resolve().parents[1] / "b4m_core"))
    from test_sdxl_size import SDXL

    with torch.device("meta"):
        network = UNet2DConditionModel(**SDXL)
    return [name for name, module in network.named_modules() if hasattr(module, "weight")]


def test_a_patch_of_ours_that_a_newer_host_makes_anew_adds_the_same(
    core: ModuleType, pack: ModuleType, mini: Trio, network: Any, loras: Path
) -> None:
    """They make it of `loaded_keys` and `weights`, in which tensors have moved."""
    from comfy.weight_adapter.base import WeightAdapterBase

    def moved(value: Any) -> Any:
        if isinstance(value, WeightAdapterBase):
            return type(value)(value.loaded_keys, moved(value.weights))
        if isinstance(value, (tuple, list)):
            return type(value)(moved(item) for item in value)
        return value.clone() if isinstance(value, Tensor) else value

    turned, normed = (
        pack.B4MLoadAdapter.execute(put(name, network, mini, loras, name[:9]), "style").result[0]
        for name in ("kohya, OFT", "kohya, DoRA by rows")
    )
    merged = pack.B4MMergeAdapters.execute(turned.with_facts(role="content"), normed, turned).result[0]
    model = pack.B4MApplyAdapter.execute(mini[0], merged, 1.0, 0.5).result[0]
    key = next(iter(model.patches))
    weight = model.model.state_dict()[key].double()
    entries = [(strength, moved(patch), *rest) for strength, patch, *rest in model.patches[key]]
    for patches in (model.patches[key], entries):
        added = comfy.lora.calculate_weight(patches, weight.clone(), key, torch.float64) - weight
        assert added.any() and torch.equal(added, changed(model, mini[0], [key])[key])


def test_a_merge_of_ours_with_two_of_others_adds_up_what_each_adds_alone(
    core: ModuleType, host: ModuleType, pack: ModuleType, mini: Trio, network: Any, loras: Path
) -> None:
    ours = adapter_for(host, core, mini, "content", split="halves")
    style = pack.B4MLoadAdapter.execute(put("kohya, DoRA by columns", network, mini, loras, "dora"), "style").result[0]
    detail = pack.B4MLoadAdapter.execute(put("kohya, LoHa", network, mini, loras, "loha"), "style").result[0]
    merged = pack.B4MMergeAdapters.execute(ours, style, detail, style_strength=1.5)
    assert "were added up, exactly" in shown(merged)
    apply = pack.B4MApplyAdapter.execute
    both = apply(mini[0], merged.result[0], 1.0, 0.5, mini[1], -1.0).result[0]
    alone = [
        apply(mini[0], adapter, *strengths, mini[1]).result[0]
        for adapter, strengths in ((ours, (1.0, 0.0)), (style, (0.0, 0.75)), (detail, (0.0, -1.0)))
    ]
    assert set(both.patches) == set().union(*(each.patches for each in alone))
    keys, zero = two_of_a_kind(both.patches), torch.zeros(())
    parts = [changed(each, mini[0], keys & each.patches.keys()) for each in alone]
    expected = {key: sum((each.get(key, zero) for each in parts), zero) for key in keys}
    assert off(changed(both, mini[0], keys), expected) < 2e-4  # our own file alone has its frozen parts in half precision


def test_many_updates_are_put_on_a_model_in_as_many_calls_as_there_are_strengths(
    pack: ModuleType, mini: Trio, network: Any, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host lists all weights of the model at every call."""
    ours = pack.B4MLoadAdapter.execute(put("kohya, LoHa", network, mini, loras), "content").result[0]
    other = pack.B4MLoadAdapter.execute(put("kohya, LoCon", network, mini, loras, "other"), "style").result[0]
    merged = pack.B4MMergeAdapters.execute(ours, other).result[0]
    calls: list[int] = []
    add = comfy.model_patcher.ModelPatcher.add_patches

    def counted(self: Any, patches: Any, *strengths: float) -> Any:
        calls.append(len(patches))
        return add(self, patches, *strengths)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "add_patches", counted)
    pack.B4MApplyAdapter.execute(mini[0], merged, 0.5, 1.5)
    assert sum(calls) > 300 and len(calls) <= 5


def test_a_lokr_with_a_core_is_applied_where_the_hosts_own_class_stops(
    core: ModuleType, pack: ModuleType, mini: Trio, network: Any, loras: Path
) -> None:
    adapter = pack.B4MLoadAdapter.execute(put("kohya, LoKr", network, mini, loras), "content").result[0]
    found = changed(pack.B4MApplyAdapter.execute(mini[0], adapter, 1.0, 1.0).result[0], mini[0])
    weight = mini[0].model.state_dict()["diffusion_model.input_blocks.0.0.weight"].double()
    (piece,) = (piece for piece in adapter.carried if piece.key == "lora_unet_conv_in")
    assert "lokr_t2" in piece.tensors and all(value.any() for value in found.values())
    assert torch.allclose(found["diffusion_model.input_blocks.0.0.weight"], piece.added(weight), atol=1e-7)


def test_block_weights_take_out_what_they_say(
    core: ModuleType, pack: ModuleType, mini: Trio, network: Any, loras: Path, error: Any
) -> None:
    content = pack.B4MLoadAdapter.execute(put("kohya, LoCon", network, mini, loras), "content").result[0]
    style = pack.B4MLoadAdapter.execute(put("kohya, attention", network, mini, loras, "other"), "style").result[0]
    weights = "0,1,1,1,1,0,0.5,1,1,1,1,1"  # BASE, IN04, IN05, IN07, IN08, MID, OUT00 ...
    merged = pack.B4MMergeAdapters.execute(content, style, content_blocks=weights).result[0]
    apply = pack.B4MApplyAdapter.execute
    whole, part = (apply(mini[0], each, 1.0, 0.0, mini[1]).result[0] for each in (content, merged))
    keys = two_of_a_kind(whole.patches)
    whole, part = changed(whole, mini[0], keys), changed(part, mini[0], keys & part.patches.keys())
    for key, value in whole.items():
        factor = 0.0 if ".middle_block." in key else 0.5 if ".output_blocks.0." in key else 1.0
        if not any(part in key for part in (".time_embed", ".label_emb", ".out.")):
            assert torch.allclose(part.get(key, torch.zeros(()).double()), factor * value, atol=1e-7), key
    assert not any(piece.of_text_encoder and piece.strength for piece in merged.carried)
    for text, words in (
        ("1,2,3", "have 3 numbers: write 12 .BASE, IN04"),
        (weights.replace("0.5", "half"), "block weight of OUT00 is 'half'"),
    ):
        with pytest.raises(error, match=words):
            pack.B4MMergeAdapters.execute(content, style, content_blocks=text)


def test_text_encoders_without_a_clip_are_named_and_a_model_of_another_kind_is_not_half_patched(
    pack: ModuleType, mini: Trio, network: Any, loras: Path, error: type[Exception]
) -> None:
    adapter = pack.B4MLoadAdapter.execute(put("kohya, feed-forward and text encoders", network, mini, loras), "content").result[0]
    output = pack.B4MApplyAdapter.execute(mini[0], adapter, 1.0, 1.0)
    assert "updates of the text encoders. Connect clip here" in shown(output) and output.result[1] is None
    state = load_file(loras / "theirs.safetensors")
    key = next(key for key in state if "_ff_net_0_proj.lora_down" in key)
    state[key] = torch.zeros(state[key].shape[0], 7)
    save_file(state, loras / "theirs.safetensors")
    broken, before = pack.B4MLoadAdapter.execute("theirs.safetensors", "content").result[0], len(mini[0].patches)
    with pytest.raises(error, match="1 of .* updates of the adapter do not fit the model connected here"):
        pack.B4MApplyAdapter.execute(mini[0], broken, 1.0, 1.0)
    assert len(mini[0].patches) == before


def test_a_pair_of_others_is_trained_together_with_what_they_carry_worn(
    core: ModuleType,
    pack: ModuleType,
    host: ModuleType,
    mini: Trio,
    network: Any,
    loras: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = pack.B4MLoadAdapter.execute(put("kohya, feed-forward and text encoders", network, mini, loras), "content").result[0]
    style = pack.B4MLoadAdapter.execute(put("kohya, LoHa", network, mini, loras, "loha"), "style").result[0]
    said: list[str] = []
    live = importlib.import_module("b4m_pack.nodes.live")
    monkeypatch.setattr(live.TrainingDisplay, "say", lambda self, sentence: said.append(sentence))
    settings = {
        "steps": 1,
        "learning_rate": 1e-2,
        "resolution": 64,
        "seed": 0,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
    }
    samples = {"sample_every": 0, "sample_prompt": "", "sample_steps": 1, "sample_cfg": 1.0, "run": "continue or reuse"}
    rest = {"weight_decay": 0.0, "flip": False, "file_dtype": "float32", "preconditioner_damping": 1e-4}
    pair = pictures("snq"), pictures("w@z")
    trained = pack.B4MTrainTogether.execute(*mini, content, style, *pair, **settings, **samples, **rest).result[0]
    assert any("Worn during the training" in sentence for sentence in said)
    assert len(trained.carried) == len(content.carried) + len(style.carried) and trained.facts.role == "together"
    name = next(iter(trained.layers))
    assert len(trained.layers) == 176
    assert not torch.allclose(trained.layers[name].delta_weight(1.0, 0.0), content.layers[name].delta_weight(1.0, 0.0), atol=1e-6)
    assert trained.layers[name].delta_weight(0.0, 1.0).any()  # the style had no up and down there: it learns from where a fresh one begins
    assert trained.facts.base == host.network_fingerprint(mini[0])
