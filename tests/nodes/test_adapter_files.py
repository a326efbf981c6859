"""The list of adapters and the files that are saved: quick with thousands, and true after a file was taken away."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_faces import adapter_for

Trio = tuple[Any, Any, Any]


@pytest.fixture
def nodes_adapter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("b4m_pack.nodes.adapter")
    monkeypatch.setattr(module, "_listed", {})
    for name in ("_saved", "_lost"):
        monkeypatch.setattr(importlib.import_module("b4m_pack.nodes.save"), name, {})
    return module


def read_files(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read from now on."""
    read: list[str] = []
    original = module.read_facts
    monkeypatch.setattr(module, "read_facts", lambda path: read.append(os.path.basename(path)) or original(path))
    return read


def test_three_thousand_loras_are_read_once_and_listed_at_once_after_that(
    core: ModuleType, nodes_adapter: ModuleType, host: ModuleType, mini: Trio, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"x": torch.zeros(1)}, loras / "foreign.safetensors")
    foreign = (loras / "foreign.safetensors").read_bytes()
    for number in range(2997):
        folder = loras / f"sub{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.safetensors").write_bytes(foreign)
    core.save_adapter(adapter_for(host, core, mini, "content"), loras / "sub3" / "ours.safetensors")
    read = read_files(nodes_adapter, monkeypatch)
    listed = nodes_adapter.adapter_files()
    assert len(read) == 2999 and listed[0] == os.path.join("sub3", "ours.safetensors")  # ours, the examples, everybody else's
    assert listed[1] in nodes_adapter.EXAMPLES and len(listed) == 2999 + len(nodes_adapter.EXAMPLES)
    assert listed.index("foreign.safetensors") > listed.index(list(nodes_adapter.EXAMPLES)[-1])
    read.clear()
    before = time.perf_counter()
    assert nodes_adapter.adapter_files() == listed
    assert time.perf_counter() - before < 0.1 and read == []  # 5 ms alone on a machine; the old list took 1.5 s
    os.rename(loras / "sub3" / "ours.safetensors", loras / "sub4" / "moved.safetensors")
    before = time.perf_counter()
    assert os.path.join("sub4", "moved.safetensors") in nodes_adapter.adapter_files()
    assert time.perf_counter() - before < 0.5 and read == ["moved.safetensors"]


def test_the_list_follows_files_that_come_go_and_change(
    core: ModuleType, nodes_adapter: ModuleType, host: ModuleType, mini: Trio, loras: Path
) -> None:
    adapter = adapter_for(host, core, mini, "content")
    assert "one.safetensors" not in nodes_adapter.adapter_files()
    core.save_adapter(adapter, loras / "one.safetensors")
    assert "one.safetensors" in nodes_adapter.adapter_files()
    save_file({"x": torch.zeros(1)}, loras / "other.safetensors")
    os.replace(loras / "other.safetensors", loras / "one.safetensors")
    assert nodes_adapter.adapter_files()[-1] == "one.safetensors"
    (loras / "deep").mkdir()
    core.save_adapter(adapter, loras / "deep" / "two.safetensors")
    assert os.path.join("deep", "two.safetensors") in nodes_adapter.adapter_files()
    (loras / "deep" / "two.safetensors").unlink()
    assert os.path.join("deep", "two.safetensors") not in nodes_adapter.adapter_files()


@pytest.mark.parametrize("replace", [False, True])
def test_a_saved_file_that_is_gone_or_anothers_is_saved_again_and_otherwise_left(
    core: ModuleType, pack: ModuleType, nodes_adapter: ModuleType, host: ModuleType, mini: Trio, loras: Path, replace: bool
) -> None:
    adapter = adapter_for(host, core, mini, "content")
    node = pack.B4MSaveAdapter
    key = {"filename": "mine", "replace": replace}
    ask = lambda: node.fingerprint_inputs(adapter=None, **key)  # noqa: E731
    first = ask()
    node.execute(adapter, **key)
    assert ask() == ask() == first
    (loras / "mine.safetensors").unlink()
    gone = ask()
    assert gone != first and ask() == gone
    node.execute(adapter, **key)
    assert (loras / "mine.safetensors").is_file() and ask() == gone
    (loras / "mine.safetensors").write_bytes(b"another program's")
    replaced = ask()
    assert replaced not in (first, gone)
    name = node.execute(adapter, **key).result[1]
    assert name == ("mine.safetensors" if replace else "mine_2.safetensors")
    assert core.load_adapter(loras / name).digest() == adapter.digest() and ask() == replaced


def test_two_save_nodes_of_one_name_keep_watch_over_both_files(
    core: ModuleType, pack: ModuleType, nodes_adapter: ModuleType, host: ModuleType, mini: Trio, loras: Path
) -> None:
    for role in ("content", "style"):
        pack.B4MSaveAdapter.execute(adapter_for(host, core, mini, role), "both", False)
    before = pack.B4MSaveAdapter.fingerprint_inputs("both", False)
    (loras / "both_2.safetensors").unlink()
    assert pack.B4MSaveAdapter.fingerprint_inputs("both", False) != before


def test_a_name_that_comes_by_wire_is_watched_too(
    core: ModuleType, pack: ModuleType, nodes_adapter: ModuleType, host: ModuleType, mini: Trio, loras: Path
) -> None:
    pack.B4MSaveAdapter.execute(adapter_for(host, core, mini, "content"), "wired", False)
    before = pack.B4MSaveAdapter.fingerprint_inputs(filename=None, replace=False, adapter=None)
    (loras / "wired.safetensors").unlink()
    assert pack.B4MSaveAdapter.fingerprint_inputs(filename=None, replace=False, adapter=None) != before
