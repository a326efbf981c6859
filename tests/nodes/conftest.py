"""These tests run inside a ComfyUI: B4M_COMFYUI names its folder. They load the pack as the host does, as a package of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMFYUI = os.environ.get("B4M_COMFYUI", "")
PACK = "b4m_pack"


class _WithoutHost(pytest.Module):
    """A test file that cannot be imported for want of a ComfyUI."""

    def collect(self) -> Iterable[pytest.Item]:
        raise pytest.skip.Exception("B4M_COMFYUI is not set to the folder of a ComfyUI", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return None if COMFYUI else _WithoutHost.from_parent(parent, path=module_path)


def _start_host() -> None:
    """Make ComfyUI importable on the CPU, with its folders in a temporary place."""
    sys.path.insert(0, COMFYUI)
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = tempfile.mkdtemp(prefix="b4m-host-")
    import folder_paths

    for folder in (folder_paths.get_input_directory(), folder_paths.get_folder_paths("loras")[0]):
        Path(folder).mkdir(parents=True, exist_ok=True)


def _load_pack() -> ModuleType:
    spec = importlib.util.spec_from_file_location(PACK, REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)])
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    return pack


sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests, in every import mode of pytest
sys.path.append(str(REPOSITORY))  # benchmarks; last, since the host has a module `nodes` and we a folder of that name
if COMFYUI:
    _start_host()
    _load_pack()


@pytest.fixture(scope="session")
def host() -> ModuleType:
    """nodes.host of the pack."""
    return importlib.import_module(f"{PACK}.nodes.host")


@pytest.fixture(scope="session")
def error() -> type[Exception]:
    """B4MError as the pack raises it."""
    return importlib.import_module(f"{PACK}.b4m_core").B4MError


@pytest.fixture(scope="session")
def mini(host: ModuleType) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the embedded model."""
    return host.mini_model()


@pytest.fixture(scope="session")
def core() -> ModuleType:
    """b4m_core as the pack has it."""
    return importlib.import_module(f"{PACK}.b4m_core")


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """nodes of the pack, as if called without a graph."""
    module = importlib.import_module(f"{PACK}.nodes")
    for node in module.NODES:
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None, prompt=None), raising=False)
    return module


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's only folder of LoRAs, empty."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"}))
    folder_paths.filename_list_cache.clear()
    return folder
