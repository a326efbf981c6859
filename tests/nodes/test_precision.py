"""Every way in which an SDXL is stored: the trained network is the host's, and what cannot be read is named."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import comfy.model_management
import comfy.model_patcher
import pytest
import small_sdxl
import stored_otherwise
import torch
from test_wires import Encoders, vae

from benchmarks.precision import actions, kinds, loading

MOST_DIFFERENCE = 1e-5
EVERYWHERE = {"fp32", "fp16", "bf16", "fp8 e4m3fn", "fp8 e5m2", "scaled fp8, scale_weight", "scaled fp8, header", *kinds.LOADED_AS}
DOUBLES = {"packed": stored_otherwise.packed, "nibbles": stored_otherwise.nibbles}
ATTENTION = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def weights(mini: tuple[Any, Any, Any]) -> kinds.Weights:
    """The embedded network by the names of a checkpoint; the host's loaders know its size from here on."""
    loading.let_the_host_recognise(mini[0])
    return loading.weights_of(mini[0])


def loaded(kind: str, weights: kinds.Weights) -> Any:
    """MODEL from a file of this kind; the test is skipped where only newer hosts know it."""
    try:
        name = loading.write(kind, weights)
        with torch.inference_mode():
            model = loading.load(name, kinds.LOADED_AS.get(kind, "default"))
    except Exception as error:
        if kind in EVERYWHERE:
            raise
        pytest.skip(f"this host does not load it ({type(error).__name__})")
    keys = {layer.quant_format for layer in model.model.modules() if "quant_format" in vars(layer)}
    if "comfy_quant" in kind and not keys:
        pytest.skip("this host takes no notice of the mark")
    return model


def weights_module(host: ModuleType) -> Any:
    return importlib.import_module(f"{host.__name__}.weights")


@pytest.mark.parametrize("kind", [kind for kind in kinds.FILES if kind != "nvfp4, smoothed"])
def test_the_trained_network_is_the_hosts_in_every_precision(
    host: ModuleType, mini: tuple[Any, Any, Any], weights: kinds.Weights, kind: str
) -> None:
    model = loaded(kind, weights)
    trio = actions.Trio(None, model, *mini[1:])
    assert actions.network_difference(trio, rounded=False) < MOST_DIFFERENCE
    behind = actions.Trio(None, actions.with_lora(model), *mini[1:])
    assert actions.network_difference(behind, rounded=False) < MOST_DIFFERENCE
    assert actions.network_difference(trio, behind.model, rounded=False) > 1e-3  # the host has the LoRA loaded now, and we have not


@pytest.mark.parametrize("kind", ["fp16 loaded as fp8_e4m3fn", "scaled fp8, scale_weight", "scaled fp8, header", "nvfp4"])
def test_a_fingerprint_and_a_run_key_are_the_same_idle_loaded_and_loaded_anew(host: ModuleType, weights: kinds.Weights, kind: str) -> None:
    prints, known = [], weights_module(host)
    for _ in range(2):
        model = loaded(kind, weights)
        patched = host.apply_lora(model, small_sdxl.random_lora(model))
        for _ in ("idle", "loaded"):
            known._digests.clear()
            prints.append([f(part) for part in (model, patched) for f in (known.weights_digest, host.network_fingerprint)])
            with torch.inference_mode():
                comfy.model_management.load_models_gpu([patched], force_full_load=True)
    assert prints[0] == prints[1] == prints[2] == prints[3] and len(set(prints[0])) == 4


def test_the_same_weights_loaded_in_other_ways_are_the_same_network(
    host: ModuleType, mini: tuple[Any, Any, Any], weights: kinds.Weights
) -> None:
    known = host.network_fingerprint(mini[0])
    assert {host.network_fingerprint(loaded(kind, weights)) for kind in ("fp32", "fp16")} == {known}
    small = {name: weight.to(torch.float8_e4m3fn).half() for name, weight in weights.items()}
    assert host.network_fingerprint(loaded("fp8 e4m3fn", weights)) == host.network_fingerprint(loaded("fp16", small))
    assert (
        host.network_fingerprint(loaded("fp16 loaded as fp8_e4m3fn", weights)) == host.network_fingerprint(loaded("fp16", small)) != known
    )


@pytest.mark.parametrize("kind", ["fp16 loaded as fp8_e4m3fn", "scaled fp8, header", "nvfp4"])
def test_every_node_does_its_work_in_this_precision(mini: tuple[Any, Any, Any], weights: kinds.Weights, kind: str) -> None:
    found: dict[str, Any] = {}
    trio = actions.Trio(actions.load_pack(), actions.with_lora(loaded(kind, weights)), *mini[1:])
    actions.readings(trio, found.__setitem__)
    assert found["weights alone"] < MOST_DIFFERENCE and found["sample"] == 0.0
    assert found["train"] == found["merge"] == found["sheet"] == "yes"


def test_a_layer_that_multiplies_by_more_than_its_weight_is_named(
    host: ModuleType, mini: tuple[Any, Any, Any], weights: kinds.Weights, error: type[Exception]
) -> None:
    model = loaded("fp16", weights)
    layer = model.get_model_object(ATTENTION)
    layer.quant_format = "nvfp4"
    layer.register_parameter("pre_quant_scale", torch.nn.Parameter(torch.ones(128), requires_grad=False))
    with pytest.raises(error, match="stored as nvfp4 with smoothed inputs .*attn1.to_q.*float16, bfloat16, fp8 or GGUF"):
        host.HostBaseModel(model, *mini[1:])


class Params4bit(torch.nn.Parameter):
    """A packed weight that nobody says how to read."""


def test_weights_that_nobody_can_read_are_named_before_anything_runs(host: ModuleType, error: type[Exception]) -> None:
    model = small_sdxl.small_model()
    layer = model.get_model_object(ATTENTION)
    layer._parameters["weight"] = Params4bit(torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(error, match=r"stored as Params4bit \(uint8\) \(here diffusion_model.*connect the same SDXL"):
        host.HostBaseModel(model, None, None)
    with pytest.raises(error, match="Params4bit"):
        host.training_network(model)


def test_a_network_that_was_rebuilt_is_named(host: ModuleType, error: type[Exception]) -> None:
    class FastUNet(torch.nn.Module):
        pass

    model = small_sdxl.small_model()
    model.add_object_patch("diffusion_model", FastUNet())
    with pytest.raises(error, match=r"is a FastUNet without .*attn.*connect the SDXL model as Load Checkpoint"):
        host.HostBaseModel(model, None, None)


@pytest.mark.parametrize("kind", DOUBLES)
def test_layers_that_store_their_weights_in_another_shape_are_trained_and_patched(host: ModuleType, kind: str) -> None:
    model, rows = small_sdxl.small_model(), small_sdxl.inputs()
    plain = small_sdxl.network_output(host.training_network(model), rows)
    DOUBLES[kind](model)
    fingerprint = host.network_fingerprint(model)
    ours = small_sdxl.network_output(host.training_network(model), rows)
    assert small_sdxl.relative_difference(ours, small_sdxl.host_output(model, rows)) < MOST_DIFFERENCE
    assert 1e-3 < small_sdxl.relative_difference(ours, plain) < 0.9
    lora = small_sdxl.random_lora(model)
    assert host.keys_not_loaded(model, lora) == [] and host.network_fingerprint(model) == fingerprint
    assert host.network_fingerprint(host.apply_lora(model, lora)) != fingerprint


def test_a_converted_weight_that_is_patched_is_stored_anew_as_the_host_stores_it(host: ModuleType) -> None:
    model, rows = small_sdxl.small_model(), small_sdxl.inputs()
    stored_otherwise.nibbles(model)
    patched = host.apply_lora(model, small_sdxl.random_lora(model), 2.0)
    idle = host.training_network(patched).state_dict()
    hosts = small_sdxl.host_output(patched, rows)
    unet = host.training_network(patched)
    assert small_sdxl.relative_difference(small_sdxl.network_output(unet, rows), hosts) < MOST_DIFFERENCE
    assert all(torch.equal(idle[name], weight) for name, weight in unet.state_dict().items())


def test_a_packed_weight_is_patched_after_it_was_unpacked_and_not_by_a_clone_that_is_loaded(host: ModuleType) -> None:
    model, rows = small_sdxl.small_model(), small_sdxl.inputs()
    stored_otherwise.packed(model)
    base = host.training_network(model).state_dict()
    lora = small_sdxl.random_lora(model)
    patched = host.apply_lora(model, lora)
    ours = small_sdxl.network_output(host.training_network(patched), rows)
    for key, patches in patched.patches.items():  # what the pack's own patcher does when it loads the clone
        model.get_model_object(key).patches = [(patches, key)]
    with torch.inference_mode():
        hosts = small_sdxl.host_output(model, rows)
    assert small_sdxl.relative_difference(ours, hosts) < MOST_DIFFERENCE
    assert all(torch.equal(base[name], weight) for name, weight in host.training_network(model).state_dict().items())


@pytest.mark.parametrize("kind", DOUBLES)
def test_a_card_without_room_gets_numbers_in_the_dtype_of_the_training(
    host: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = small_sdxl.small_model()
    DOUBLES[kind](model)
    monkeypatch.setattr(importlib.import_module(f"{host.__name__}.network"), "_is_too_large", lambda *_: True)
    unet = host.training_network(model, torch.bfloat16, beside=1)
    assert {weight.dtype for name, weight in unet.state_dict().items() if ".transformer_blocks." in name and weight.ndim == 2} == {
        torch.bfloat16
    }


def test_the_room_that_is_asked_for_is_that_of_the_numbers_and_not_of_the_storage(host: ModuleType, mini: tuple[Any, Any, Any]) -> None:
    model = small_sdxl.small_model()
    others = Encoders(small_sdxl.TEXT_WIDTH, small_sdxl.POOLED), vae()
    before = host.HostBaseModel(model, *others)
    before.expect(4, 2, 64)
    stored_otherwise.packed(model)
    after = host.HostBaseModel(model, *others)
    after.expect(4, 2, 64)
    assert after.room == before.room > sum(weight.numel() for weight in host.training_network(model).parameters()) * 4


def test_a_clones_own_submodule_counts_for_that_clone_and_for_no_other(host: ModuleType) -> None:
    model = small_sdxl.small_model()
    other = small_sdxl.small_model()
    for weight in other.model.parameters():
        weight.mul_(2)
    clone = model.clone()
    clone.add_object_patch("diffusion_model.out", other.model.diffusion_model.out)
    expected = {part: host.training_network(part).state_dict() for part in (model, other)}
    for when in ("idle", "loaded"):
        found = {part: host.training_network(part).state_dict()["conv_out.weight"] for part in (model, clone)}
        assert torch.equal(found[model], expected[model]["conv_out.weight"]), when
        assert torch.equal(found[clone], expected[other]["conv_out.weight"]), when
        comfy.model_management.load_models_gpu([clone], force_full_load=True)
    digests = [weights_module(host).weights_digest(part) for part in (model, clone, clone.clone())]
    comfy.model_management.unload_all_models()
    assert digests[0] != digests[1] == digests[2]


def test_a_compiled_network_has_the_weights_of_the_one_inside(host: ModuleType) -> None:
    model = small_sdxl.small_model()
    clone = model.clone()
    clone.add_object_patch("diffusion_model", torch.compile(model.model.diffusion_model))
    names = weights_module(host).weights_digest(model), host.network_fingerprint(model)
    assert (weights_module(host).weights_digest(clone), host.network_fingerprint(clone)) == names
    assert host.keys_not_loaded(model, small_sdxl.random_lora(model)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_a_wrapped_weight_is_what_the_host_multiplies_by(host: ModuleType, dtype: torch.dtype) -> None:
    model, rows = small_sdxl.small_model(dtype), small_sdxl.inputs()
    model.set_model_compute_dtype(torch.float32)
    wrapped = host.apply_lora(model, small_sdxl.random_lora(model))
    wrapped.add_weight_wrapper(f"{ATTENTION}.weight", lambda weight: weight * 1.2345)
    ours = small_sdxl.network_output(host.training_network(wrapped), rows)
    assert small_sdxl.relative_difference(ours, small_sdxl.host_output(wrapped, rows)) < MOST_DIFFERENCE
    assert small_sdxl.relative_difference(ours, small_sdxl.network_output(host.training_network(model), rows)) > 1e-3


class Streaming(comfy.model_patcher.ModelPatcher):
    """A patcher of newer hosts: it keeps the file's own numbers, and turns them into the model's dtype on their way to the card."""

    def is_dynamic(self) -> bool:
        return True


def test_a_host_that_keeps_the_files_numbers_counts_them_in_the_models_dtype(host: ModuleType) -> None:
    plain = small_sdxl.small_model()
    rounded = small_sdxl.small_model()
    for weight in rounded.model.diffusion_model.parameters():
        weight.copy_(weight.half())
    streaming = Streaming(plain.model, torch.device("cpu"), torch.device("cpu"))
    for module in plain.model.diffusion_model.modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            setattr(module, f"{name}_comfy_model_dtype", torch.float16)
    lora = small_sdxl.random_lora(plain)
    for ours, theirs in ((streaming, rounded), (host.apply_lora(streaming, lora), host.apply_lora(rounded, lora))):
        found, expected = host.training_network(ours).state_dict(), host.training_network(theirs).state_dict()
        assert all(torch.equal(found[name], weight.half().float()) for name, weight in expected.items())
    first = weights_module(host).weights_digest(streaming)
    for module in plain.model.diffusion_model.modules():  # loading replaces some of them for good
        for name, weight in list(module.named_parameters(recurse=False)):
            module._parameters[name] = torch.nn.Parameter(weight.half(), requires_grad=False)
    weights_module(host)._digests.clear()
    assert weights_module(host).weights_digest(streaming) == first


def test_a_weight_that_the_file_lacks_is_the_zeros_that_the_host_fills_in(host: ModuleType) -> None:
    model = small_sdxl.small_model()
    layer = model.get_model_object(ATTENTION)
    layer._parameters["weight"] = torch.nn.Parameter(layer.weight.to("meta"), requires_grad=False)
    found = host.training_network(model).state_dict()["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    assert found.shape == layer.weight.shape and not found.any()
