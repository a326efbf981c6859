"""The examples in the loader's list, as the host calls it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import folder_paths
import pytest

Trio = tuple[Any, Any, Any]
NAME = "(example content) teddy bear"


@pytest.fixture
def nodes(host: ModuleType, mini: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """nodes.adapter of the pack with one small example."""
    core, nodes = (importlib.import_module(f"b4m_pack.{name}") for name in ("b4m_core", "nodes.adapter"))
    adapter = core.Adapter.for_unet(host.training_network(mini[0]), core.Facts("content", 1, file_dtype="float16", split="free"))
    monkeypatch.setattr(nodes, "EXAMPLES", {NAME: core.save_adapter(adapter, tmp_path / "teddy_bear.safetensors")})
    return nodes


def test_an_example_is_listed_and_loaded_by_its_name(nodes: ModuleType) -> None:
    assert NAME in nodes.adapter_files()
    assert nodes.B4MLoadAdapter.execute(NAME).result[0].facts.role == "content"
    before = nodes.B4MLoadAdapter.fingerprint_inputs(NAME)
    nodes.EXAMPLES[NAME].touch()
    assert nodes.B4MLoadAdapter.fingerprint_inputs(NAME) != before


def test_the_examples_stand_behind_the_artists_own_and_in_no_other_loaders_list(
    nodes: ModuleType, host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "loras"
    own.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(own)], {".safetensors"}))
    host.refresh_lora_list()
    assert nodes.adapter_files() == [NAME]
    (own / "zebra.safetensors").write_bytes(nodes.EXAMPLES[NAME].read_bytes())
    host.refresh_lora_list()
    assert nodes.adapter_files() == ["zebra.safetensors", NAME]
    assert folder_paths.get_filename_list("loras") == ["zebra.safetensors"]
    host.refresh_lora_list()


def test_without_examples_and_adapters_the_list_says_so(
    nodes: ModuleType, host: ModuleType, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "EXAMPLES", {})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "none")], {".safetensors"}))
    host.refresh_lora_list()
    assert nodes.adapter_files() == [nodes.NONE_YET]
    with pytest.raises(error, match="train one"):
        nodes.B4MLoadAdapter.execute(nodes.NONE_YET)
    with pytest.raises(error):
        nodes.B4MLoadAdapter.execute(NAME)
    host.refresh_lora_list()


def test_every_shipped_example_is_of_the_embedded_model_as_the_host_knows_it(host: ModuleType, mini: Trio) -> None:
    nodes, core = (importlib.import_module(f"b4m_pack.{name}") for name in ("nodes.adapter", "b4m_core"))
    known = host.network_fingerprint(mini[0]), host.describe_model(mini[0])
    for path in nodes.EXAMPLES.values():
        facts = core.read_facts(path)
        assert (facts.base, facts.base_name) == known
