"""Main memory and time that painting and reading weights do not take: texts encoded once, mapped files let go, copies unloaded."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import comfy.model_management
import pytest
import torch
from test_painting_and_identity import PROMPT, Trio


class MappedFile:
    """As a newer host has it: a map of a file that counts how often its pages were let go."""

    def __init__(self) -> None:
        self.bounced = 0

    def bounce(self) -> bool:
        self.bounced += 1
        return True


def mapped(file: MappedFile, *shape: int) -> torch.Tensor:
    weight = torch.ones(*shape, dtype=torch.uint8)
    storage: Any = weight.untyped_storage()
    storage._comfy_tensor_mmap_refs = (file, None)
    return weight


def test_the_pages_of_a_mapped_file_are_let_go_while_it_is_read_and_afterwards(host: ModuleType, monkeypatch: Any) -> None:
    weights = importlib.import_module(f"{host.__name__}.weights")
    monkeypatch.setattr(weights, "_PAGES_AT_ONCE", 1000)
    file, other = MappedFile(), MappedFile()
    read = [("a", mapped(file, 600)), ("b", mapped(file, 600)), ("c", mapped(other, 600)), ("d", torch.ones(9000, dtype=torch.uint8))]
    digest = weights._digest(iter(read))
    assert (file.bounced, other.bounced) == (1, 1)
    plain = [(name, torch.ones(len(tensor), dtype=torch.uint8)) for name, tensor in read]
    assert digest == weights._digest(iter(plain))


def test_pages_are_let_go_while_a_network_is_copied_out_of_a_mapped_file(host: ModuleType, mini: Trio, monkeypatch: Any) -> None:
    weights = importlib.import_module(f"{host.__name__}.weights")
    monkeypatch.setattr(weights, "_PAGES_AT_ONCE", 10_000_000)
    file = MappedFile()
    for weight in mini[0].model.parameters():
        storage: Any = weight.untyped_storage()
        storage._comfy_tensor_mmap_refs = (file, None)
    total = sum(weight.nbytes for _, weight in weights.real_weights(mini[0], "diffusion_model.", "cpu", fresh=True))
    assert file.bounced >= total // 20_000_000 >= 2
    file.bounced = 0
    for _ in weights.real_weights(mini[0], "diffusion_model.", "cpu", fresh=False):  # who reads these is not known
        pass
    assert file.bounced == 0
    for weight in mini[0].model.parameters():
        del weight.untyped_storage()._comfy_tensor_mmap_refs  # type: ignore[attr-defined]


def test_what_the_host_ends_its_nodes_with_ends_every_adapters_pictures(host: ModuleType, mini: Trio, monkeypatch: Any) -> None:
    ended = []
    monkeypatch.setattr(comfy.model_management, "reset_cast_buffers", lambda: ended.append(1), raising=False)
    base = host.HostBaseModel(*mini, sampling=host.Sampling(1))
    base.sample(PROMPT, width=64, height=64, seed=1)
    assert not ended
    base.sample_with({}, PROMPT, width=64, height=64, seed=1)
    assert ended == [1]
    monkeypatch.delattr(comfy.model_management, "reset_cast_buffers")
    host.end_passes()  # an older host has nothing to end


def test_a_network_is_gone_when_its_training_is_over(host: ModuleType, mini: Trio) -> None:
    import weakref

    base = host.HostBaseModel(*mini)
    network = weakref.ref(base.unet)
    base.release()
    assert network() is None


def test_the_maps_are_found_through_a_models_own_parameters(host: ModuleType) -> None:
    weights = importlib.import_module(f"{host.__name__}.weights")
    file = MappedFile()
    layer = torch.nn.Linear(2, 2)
    layer.weight = torch.nn.Parameter(mapped(file, 4).float().view(2, 2), requires_grad=False)
    weights.let_go_of_pages(layer.parameters())
    assert file.bounced == 0  # a copy is not the file
    layer.weight = torch.nn.Parameter(mapped(file, 2, 2), requires_grad=False)
    weights.let_go_of_pages(layer.parameters())
    assert file.bounced == 1


@pytest.mark.parametrize(("free", "unloads"), [(10, 1), (100, 0)])
def test_a_card_that_stays_too_small_has_every_model_unloaded(host: ModuleType, monkeypatch: Any, free: int, unloads: int) -> None:
    runtime = importlib.import_module(f"{host.__name__}.runtime")
    seen = []
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda wanted, device: [])
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free)
    monkeypatch.setattr(comfy.model_management, "soft_empty_cache", lambda: None)
    monkeypatch.setattr(comfy.model_management, "unload_all_models", lambda: seen.append(1))
    trimmed = []
    monkeypatch.setattr(runtime, "trim_main_memory", lambda: trimmed.append(1))
    assert runtime.make_room(50) == free and len(seen) == unloads and trimmed == [1]


def test_a_prompt_is_encoded_once_for_many_pictures_and_with_every_adapter(host: ModuleType, mini: Trio, monkeypatch: Any) -> None:
    encoded = []
    own = type(mini[1]).encode_from_tokens_scheduled

    def counted(self: Any, tokens: Any, *rest: Any, **more: Any) -> Any:
        encoded.append(1)
        return own(self, tokens, *rest, **more)

    monkeypatch.setattr(type(mini[1]), "encode_from_tokens_scheduled", counted)
    base = host.HostBaseModel(*mini, sampling=host.Sampling(1))
    first = base.sample(PROMPT, width=64, height=64, seed=1)
    assert torch.equal(first, base.sample(PROMPT, width=64, height=64, seed=1)) and len(encoded) == 2
    base.with_adapter({}).sample(PROMPT, width=64, height=64, seed=1)
    assert len(encoded) == 2
    base.sample("another", width=64, height=64, seed=1)
    assert len(encoded) == 3


def test_lack_of_memory_while_a_prompt_is_encoded_is_told_as_a_pictures(host: ModuleType, mini: Trio, monkeypatch: Any) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    monkeypatch.setattr(type(mini[1]), "encode_from_tokens_scheduled", no_memory)
    with pytest.raises(host.PictureDoesNotFit, match="prompt"):
        host.HostBaseModel(*mini).sample(PROMPT, width=64, height=64, seed=1)


def test_the_model_is_settled_once_the_training_runs(host: ModuleType, mini: Trio, monkeypatch: Any) -> None:
    weights = importlib.import_module(f"{host.__name__}.base_model")
    seen = []
    monkeypatch.setattr(weights, "let_go_of_pages", lambda found: seen.extend(found))
    host.HostBaseModel(*mini).settle()
    assert len(seen) == len(list(mini[0].model.parameters()))
