"""Two copies of the pack in custom_nodes: one is used, one says that it is not, and the host starts."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]
Load = Callable[[str, str], bool]


@pytest.fixture
def host_nodes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The host's own loader of packs, with empty tables."""
    import nodes

    for name in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "EXTENSION_WEB_DIRS", "LOADED_MODULE_DIRS"):
        monkeypatch.setattr(nodes, name, {})
    return nodes


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> web.RouteTableDef:
    """The routes of a server that is starting."""
    found = web.RouteTableDef()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=found))))
    return found


@pytest.fixture
def load(host_nodes: ModuleType, routes: web.RouteTableDef, tmp_path: Path) -> Iterator[Load]:
    """Makes a copy of the pack in a folder of a name, without one file, and loads it as the host does."""

    def copy_and_load(name: str, without: str = "") -> bool:
        place = tmp_path / "custom_nodes" / name
        place.mkdir(parents=True)
        shutil.copy(ROOT / "__init__.py", place)
        for folder in ("b4m_core", "nodes", "web"):
            shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("adapters", "mini", "workflows"):
            (place / folder).symlink_to(ROOT / folder)
        if without:
            (place / without).unlink()
        before = set(sys.modules)
        loaded: bool = asyncio.run(host_nodes.load_custom_node(str(place)))
        made.extend(set(sys.modules) - before)
        return loaded

    made: list[str] = []
    yield copy_and_load
    for name in made:
        sys.modules.pop(name, None)


def folders_of(host_nodes: ModuleType) -> set[str]:
    return {node.RELATIVE_PYTHON_MODULE for name, node in host_nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("B4M")}


def routes_can_be_added(routes: web.RouteTableDef) -> bool:
    """aiohttp raises where a route is there twice."""
    app = web.Application()
    app.add_routes(routes)
    return len([route for route in routes if route.path == "/b4m/shown"]) == 1  # type: ignore[attr-defined]


def test_of_two_copies_the_first_is_used_and_one_line_names_the_folder_to_delete(
    host_nodes: ModuleType, routes: web.RouteTableDef, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load("B4M-ComfyUI-main", "") and load("b4m", "")
    assert folders_of(host_nodes) == {"custom_nodes.B4M-ComfyUI-main"}
    assert len(host_nodes.NODE_CLASS_MAPPINGS) == len(importlib.import_module("b4m_pack.nodes").NODES)
    assert list(host_nodes.EXTENSION_WEB_DIRS) == ["B4M-ComfyUI-main"]
    assert routes_can_be_added(routes)
    (line,) = [record.getMessage() for record in caplog.records if "installed twice" in record.getMessage()]
    folder = tmp_path / "custom_nodes"
    assert f"{folder / 'B4M-ComfyUI-main'} is used, and {folder / 'b4m'} is not; delete the latter" in line


def test_two_links_to_one_folder_are_two_copies_to_the_host(
    host_nodes: ModuleType, routes: web.RouteTableDef, load: Load, tmp_path: Path
) -> None:
    assert load("b4m", "")
    (tmp_path / "custom_nodes" / "B4M").symlink_to(tmp_path / "custom_nodes" / "b4m")
    assert asyncio.run(host_nodes.load_custom_node(str(tmp_path / "custom_nodes" / "B4M")))
    assert folders_of(host_nodes) == {"custom_nodes.b4m"} and routes_can_be_added(routes)


@pytest.mark.parametrize("missing", ["b4m_core/metadata.py", "nodes/train.py", "nodes/host/server.py"])
def test_a_copy_that_fails_leaves_the_place_to_the_one_that_works(
    host_nodes: ModuleType, routes: web.RouteTableDef, load: Load, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not load("a_half_unpacked", missing)
    assert load("b4m", "")
    assert folders_of(host_nodes) == {"custom_nodes.b4m"}
    assert len(host_nodes.NODE_CLASS_MAPPINGS) == len(importlib.import_module("b4m_pack.nodes").NODES)
    assert routes_can_be_added(routes) and "installed twice" not in caplog.text
