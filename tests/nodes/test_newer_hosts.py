"""What only newer ComfyUIs do, by doubles: configurations that answer None, weights of inference mode and of read-only files, new names."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import numpy as np
import pytest
import small_sdxl
import torch
from comfy_api.v0_0_2 import io
from test_painting_and_identity import bytes_of, our_picture
from test_trainings_on_the_host import plan

ROOT = Path(__file__).resolve().parents[2]
ASKING = ROOT / "nodes" / "host" / "asking.py"
NODES = sorted((ROOT / "nodes").rglob("*.py"))


class AnswersNone(comfy.supported_models.SDXL):
    """A model configuration as newer hosts have it: it has every attribute, None."""

    def __getattr__(self, name: str) -> None:
        return None


def guesses(source: str) -> list[str]:
    """Where an object is asked in a way that one which answers to every name, or in a property that fails, takes in."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            if len(node.args) > 2 or any(isinstance(argument, ast.Starred) for argument in node.args):
                found.append(f"getattr (line {node.lineno})")
        elif isinstance(node, ast.ExceptHandler) and node.type is not None and "AttributeError" in ast.dump(node.type):
            found.append(f"except AttributeError (line {node.lineno})")
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in ("hasattr", "attrgetter", "methodcaller"):
                found.append(f"{name} (line {node.lineno})")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "getattr(config, 'size', 1024)",
        "hasattr(config, 'size')",
        "getattr(*asked)",
        "try:\n    config.size\nexcept (KeyError, AttributeError):\n    pass",
        "operator.attrgetter('size')(config)",
    ],
)
def test_a_guess_is_found_in_the_syntax_tree(source: str) -> None:
    assert guesses(source)


@pytest.mark.parametrize("path", [path for path in NODES if path != ASKING], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_object_of_the_host_is_asked_by_getattr_with_a_default(path: Path) -> None:
    assert len(NODES) > 15 and guesses(path.read_text(encoding="utf-8")) == []


def test_asking_takes_what_an_object_or_its_class_has_and_nothing_that_is_made_up() -> None:
    ask = importlib.import_module("b4m_pack.nodes.host.asking").ask
    config = AnswersNone(small_sdxl.small_config())
    config.own = 3
    assert config.nowhere is None and ask(config, "nowhere", 5) == 5
    assert ask(config, "own", 5) == 3 and ask(config, "get_model")({}, "", None) is not None
    assert ask(None, "anything", 1) == 1 and ask(comfy.utils, "unet_to_diffusers") is comfy.utils.unet_to_diffusers


def test_a_configuration_that_answers_none_is_sdxl_of_the_usual_size(host: ModuleType) -> None:
    model, rows = small_sdxl.small_model(kind=AnswersNone), small_sdxl.inputs()
    unet = host.training_network(model)
    assert host.native_size(model) == 1024 and unet.config.sample_size == 128
    assert small_sdxl.relative_difference(small_sdxl.network_output(unet, rows), small_sdxl.host_output(model, rows)) < 1e-4


def test_a_configuration_that_answers_none_is_named_by_its_class(host: ModuleType, error: type[Exception]) -> None:
    model = small_sdxl.small_model(kind=AnswersNone, in_channels=9)
    with pytest.raises(error, match="AnswersNone"):
        host.require_sdxl(model)


def as_a_newer_loader(network: Any, folder: Path) -> None:
    """Give a network weights as newer hosts load them: inference tensors over a read-only map of a file. Writing to one ends a process."""
    with torch.inference_mode():
        for number, module in enumerate(network.modules()):
            for name, weight in list(module.named_parameters(recurse=False)):
                path = folder / f"{number}.{name}"
                path.write_bytes(weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
                mapped = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="r")).view(weight.dtype).view(weight.shape)
                module._parameters[name] = torch.nn.Parameter(mapped, requires_grad=False)


def backward_pass(unet: Any) -> torch.Tensor:
    """The gradient of what goes in."""
    rows = small_sdxl.inputs()
    latents = rows["latents"].requires_grad_()
    added = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
    unet(latents, rows["timesteps"], encoder_hidden_states=rows["text"], added_cond_kwargs=added).sample.sum().backward()
    assert latents.grad is not None
    return latents.grad


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("apart", [False, True], ids=["with room", "without room"])
def test_weights_of_inference_mode_and_of_read_only_files_are_trained_through(
    host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    plain = small_sdxl.small_model()
    expected = backward_pass(host.training_network(plain))
    monkeypatch.setattr(importlib.import_module(f"{host.__name__}.network"), "_is_too_large", lambda *_: apart)
    with torch.inference_mode():
        model = small_sdxl.small_model()
        as_a_newer_loader(model.model.diffusion_model, tmp_path)
        unet = host.training_network(model, beside=1)
    shared = {weight.data_ptr() for weight in unet.parameters()} & {weight.data_ptr() for weight in model.model.parameters()}
    assert bool(shared) == apart and not any(weight.is_inference() or weight.requires_grad for weight in unet.parameters())
    assert torch.equal(backward_pass(unet), expected)
    for patched in (model, host.apply_lora(model, small_sdxl.random_lora(model))):  # a patch is no reason to write either
        backward_pass(host.training_network(patched, beside=1))
        assert len(host.network_fingerprint(patched)) > 60


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_whole_training_on_weights_of_read_only_files_leaves_them_as_they_were(host: ModuleType, tmp_path: Path) -> None:
    core = importlib.import_module("b4m_pack.b4m_core")
    mini = host.mini_model.__wrapped__()
    as_a_newer_loader(mini[0].model.diffusion_model, tmp_path)
    before = bytes_of(mini)
    with torch.inference_mode():
        base = host.HostBaseModel(*mini)
        adapter = core.train(plan(core), base, core.RunStore(tmp_path))
        base.sample_with(core.lora_state_dict(adapter), "a snq bird", width=64, height=64, seed=0)
    assert base.fingerprint == host.fingerprint(*host.mini_model()) and bytes_of(mini) == before


NEW_NAMES = [
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: out of memory. Search for `cudaErrorMemoryAllocation'"),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("VRAM grow failed: 126484480 bytes"),  # the memory manager of 0.33.0
]


@pytest.mark.parametrize("raised", NEW_NAMES, ids=lambda error: type(error).__name__)
def test_painting_for_lack_of_memory_is_known_by_every_name(
    host: ModuleType, mini: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    monkeypatch.setattr("comfy.sample.sample", _raising(raised))
    with pytest.raises(host.PictureDoesNotFit, match="64 x 48"):
        our_picture(host, mini, 1)


def test_a_host_that_knows_lack_of_memory_itself_is_asked(
    host: ModuleType, mini: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy.model_management, "is_oom", lambda error: "code 2" in str(error), raising=False)
    monkeypatch.setattr("comfy.sample.sample", _raising(LookupError("code 2")))
    with pytest.raises(host.PictureDoesNotFit):
        our_picture(host, mini, 1)


def test_another_failure_of_the_card_is_not_taken_for_lack_of_memory(
    host: ModuleType, mini: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy.sample.sample", _raising(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")))
    with pytest.raises(torch.AcceleratorError, match="illegal"):
        our_picture(host, mini, 1)


def _raising(error: Exception) -> Any:
    def sample(*_: Any, **__: Any) -> None:
        raise error

    return sample


def test_weights_are_rounded_by_the_seed_of_the_place_where_the_host_has_it_now(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_of = importlib.import_module(f"{host.__name__}.weights")._seed
    old = comfy.model_patcher.string_to_seed("diffusion_model.out.2.weight")
    monkeypatch.setattr(comfy.utils, "string_to_seed", lambda name: len(name), raising=False)
    monkeypatch.delattr(comfy.model_patcher, "string_to_seed")
    assert seed_of("diffusion_model.out.2.weight") == len("diffusion_model.out.2.weight") != old


@dataclasses.dataclass
class SchemaThatRepeats(io.Schema):
    """A node's face as hosts since 2026 have it."""

    has_intermediate_output: bool = False


def test_what_a_node_says_is_said_again_where_the_host_answers_from_its_cache(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host repeats the words of an output, and a newer one of whatever says that it has some."""
    widgets = importlib.import_module("b4m_pack.nodes.widgets")
    monkeypatch.setattr(widgets, "io", SimpleNamespace(**{**vars(io), "Schema": SchemaThatRepeats}))
    faces = {node: node.define_schema() for node in pack.NODES}
    speaking = {node for node in pack.NODES if re.search(r"\bui=|\bresult\(|\.sheet\(", inspect.getsource(inspect.unwrap(node.execute)))}
    assert {pack.B4MLoadAdapter, pack.B4MMergeAdapters, pack.B4MContactSheet, pack.B4MTrainStyle} <= speaking
    assert [node for node in speaking if not (faces[node].is_output_node or faces[node].has_intermediate_output)] == []
    assert faces[pack.B4MMergeAdapters].is_output_node and not faces[pack.B4MMiniModel].has_intermediate_output
