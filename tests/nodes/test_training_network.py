"""The training network is the host's UNet: same weights, same output, and the host's MODEL stays as it was."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.model_management
import pytest
import small_sdxl
import torch
from safetensors.torch import save_file
from torch import Tensor

MOST_DIFFERENCE = 1e-4


def _add_to_network(unet: Any, lora: dict[str, Tensor], model: Any) -> None:
    """Add the LoRA's products to the diffusers network by hand: the host's table names the layers, nothing of B4M is used."""
    import comfy.utils

    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    for name, weight in unet.state_dict().items():
        layer = "lora_unet_" + names[name].removesuffix(".weight").replace(".", "_")
        if f"{layer}.lora_up.weight" in lora:
            weight += lora[f"{layer}.lora_up.weight"] @ lora[f"{layer}.lora_down.weight"]


def test_training_network_and_host_network_give_the_same_output(host: ModuleType) -> None:
    model, rows = small_sdxl.small_model(), small_sdxl.inputs()
    unet = host.training_network(model)
    assert small_sdxl.relative_difference(small_sdxl.network_output(unet, rows), small_sdxl.host_output(model, rows)) < MOST_DIFFERENCE


def test_training_network_has_the_lora_that_was_patched_in_upstream(host: ModuleType) -> None:
    model, rows = small_sdxl.small_model(), small_sdxl.inputs()
    patched = host.apply_lora(model, small_sdxl.random_lora(model), 0.7)
    output = small_sdxl.network_output(host.training_network(patched), rows)
    assert small_sdxl.relative_difference(output, small_sdxl.host_output(patched, rows)) < MOST_DIFFERENCE
    assert small_sdxl.relative_difference(output, small_sdxl.host_output(model, rows)) > 100 * MOST_DIFFERENCE


def test_a_file_loaded_by_the_hosts_own_lora_loader_equals_the_delta_on_the_training_network(host: ModuleType) -> None:
    import nodes

    model, rows = small_sdxl.small_model(), small_sdxl.inputs()
    lora = small_sdxl.random_lora(model)
    save_file(lora, host.loras_folder() / "by_hand.safetensors")
    host.refresh_lora_list()
    (loaded,) = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "by_hand.safetensors", 1.0)
    unet = host.training_network(model)
    _add_to_network(unet, lora, model)
    assert small_sdxl.relative_difference(small_sdxl.network_output(unet, rows), small_sdxl.host_output(loaded, rows)) < MOST_DIFFERENCE


def test_weights_come_out_the_same_whether_the_model_is_loaded_patched_or_idle(host: ModuleType) -> None:
    model = small_sdxl.small_model()
    patched = host.apply_lora(model, small_sdxl.random_lora(model))
    idle = host.training_network(patched).state_dict()
    small_sdxl.host_output(patched, small_sdxl.inputs())
    busy = host.training_network(patched).state_dict()
    base = host.training_network(model).state_dict()  # while the shared network holds the patched clone's weights
    comfy.model_management.unload_all_models()
    assert all(torch.equal(idle[name], busy[name]) for name in idle)
    again = host.training_network(model).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in base.items())
    assert any(not torch.equal(base[name], busy[name]) for name in base)


def test_a_model_loaded_in_part_gives_the_same_weights(host: ModuleType) -> None:
    model = small_sdxl.small_model()
    patched = host.apply_lora(model, small_sdxl.random_lora(model))
    whole = host.training_network(patched).state_dict()
    patched.patch_model(torch.device("cpu"), lowvram_model_memory=300_000)
    assert patched.model.model_lowvram
    part = host.training_network(patched).state_dict()
    patched.unpatch_model(torch.device("cpu"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_a_card_without_room_gets_the_same_weights_in_two_parts(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_sdxl.small_model()
    patched = host.apply_lora(model, small_sdxl.random_lora(model))
    whole = host.training_network(patched).state_dict()
    own = importlib.import_module(f"{host.__name__}.network")
    monkeypatch.setattr(own, "_is_too_large", lambda *_: True)
    with torch.inference_mode():
        apart = host.training_network(patched, dtype=torch.float64, beside=1)
    parts = apart.state_dict()
    in_blocks = {name for name, weight in parts.items() if weight.dtype == torch.float32}
    assert len(in_blocks) > 20 and all(".transformer_blocks." in name and parts[name].ndim == 2 for name in in_blocks)
    assert parts.keys() == whole.keys() and all(torch.equal(whole[name], parts[name].float()) for name in whole)
    assert {parts[name].data_ptr() for name in in_blocks} & {weight.data_ptr() for weight in patched.model.parameters()}
    assert not any(weight.requires_grad for weight in apart.parameters())


def test_weights_loaded_as_inference_tensors_can_be_trained_through(host: ModuleType) -> None:
    with torch.inference_mode():
        model = small_sdxl.small_model()
        unet = host.training_network(model)
    rows = small_sdxl.inputs()
    latents = rows["latents"].requires_grad_()
    added = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
    unet(latents, rows["timesteps"], encoder_hidden_states=rows["text"], added_cond_kwargs=added).sample.sum().backward()
    assert latents.grad is not None and not any(weight.is_inference() for weight in unet.parameters())


def test_the_training_network_shares_no_memory_with_the_model_and_is_frozen(host: ModuleType) -> None:
    model = small_sdxl.small_model()
    unet = host.training_network(model)
    ours = {weight.data_ptr() for weight in unet.parameters()}
    assert ours.isdisjoint(weight.data_ptr() for weight in model.model.parameters())
    assert not any(weight.requires_grad for weight in unet.parameters()) and not unet.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32])
def test_on_the_cpu_every_dtype_becomes_float32_copies_of_the_stored_weights(host: ModuleType, dtype: torch.dtype) -> None:
    model = small_sdxl.small_model(dtype)
    unet = host.training_network(model)
    stored = model.model.diffusion_model.state_dict()["input_blocks.0.0.weight"]
    assert unet.dtype == torch.float32 and torch.equal(unet.state_dict()["conv_in.weight"], stored.float())


def test_patched_fp8_weights_are_rounded_as_the_host_rounds_them(host: ModuleType) -> None:
    model = small_sdxl.small_model(torch.float8_e4m3fn)
    patched = host.apply_lora(model, small_sdxl.random_lora(model))
    unet = host.training_network(patched)
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    name = "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    hosts = copy.deepcopy(patched.model.diffusion_model.state_dict()[name]).float()
    comfy.model_management.unload_all_models()
    assert torch.equal(unet.state_dict()["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"], hosts)


def test_every_kohya_key_finds_its_layer_and_foreign_ones_are_reported(host: ModuleType, error: type[Exception]) -> None:
    model = small_sdxl.small_model()
    lora = small_sdxl.random_lora(model)
    assert host.keys_not_loaded(model, lora) == []
    strange = {**lora, "lora_unet_nowhere.lora_up.weight": torch.zeros(2, 2), "lora_unet_nowhere.lora_down.weight": torch.zeros(2, 2)}
    assert host.keys_not_loaded(model, strange) == ["lora_unet_nowhere.lora_up.weight", "lora_unet_nowhere.lora_down.weight"]
    with pytest.raises(error, match="lora_unet_nowhere"):
        host.apply_lora(model, strange)


def test_an_adapter_of_another_width_is_refused_in_a_sentence(host: ModuleType, error: type[Exception]) -> None:
    model = small_sdxl.small_model()
    lora = small_sdxl.random_lora(model)
    key = next(iter(lora))
    with pytest.raises(error, match="do not fit the model"):
        host.apply_lora(model, {**lora, key: torch.zeros(77, 4)})


def test_diffusers_configuration_of_the_mini_model_is_the_one_in_its_folder(host: ModuleType, mini: tuple[Any, Any, Any]) -> None:
    from diffusers import UNet2DConditionModel

    folder = Path(__file__).resolve().parents[2] / "mini" / "unet"
    stored = UNet2DConditionModel.load_config(str(folder))
    ours = host.training_network(mini[0]).config
    assert {key: stored[key] for key in stored if not key.startswith("_") and stored[key] != ours.get(key)} == {}
