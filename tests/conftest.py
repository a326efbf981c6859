"""What every test may use: the order of the tests, and a real ComfyUI for those that ask for it."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from launcher import carriers, hosts, places, ports, server
from launcher.hosts import Host
from launcher.server import Server

ROOT = Path(__file__).resolve().parent.parent
LAST = ("tests/host/", "tests/browser/")


def pytest_configure() -> None:
    """A polite kill ends the tests as Ctrl-C does, so that no server is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests first, then the real server, then the real page: a mistake shows early."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(ROOT).as_posix()
        return next((number for number, folder in enumerate(LAST, start=1) if path.startswith(folder)), 0)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What the tests import stays to the end: the collector of circles need not go through a million objects again and again."""
    gc.collect()
    gc.freeze()


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as attempt:
        attempt.bind((ports.ADDRESS, 0))
        port: int = attempt.getsockname()[1]
    return port


def host_in_question() -> Host:
    """The ComfyUI that this run is about: the one in B4M_COMFYUI, run by this Python, else the newest of those that we bring."""
    folder = os.environ.get("B4M_COMFYUI")
    if not folder:
        return carriers.bring(carriers.NEWEST, Path(sys.executable))
    return Host(Path(folder), Path(sys.executable), hosts.check_version(Path(folder)), ours=False)


def page_version() -> str:
    """The version of the web page: that of the package that B4M_PAGE lies in, else the one that is installed; 0 without one."""
    page = os.environ.get("B4M_PAGE")
    where = {"path": [str(Path(page).parents[1])]} if page else {}
    found = next(iter(metadata.distributions(name="comfyui-frontend-package", **where)), None)
    return found.version if found else "0"


@pytest.fixture(scope="session")
def version_of_page() -> str:
    """The version of the web page that the tests open."""
    return page_version()


def pytest_report_header() -> str:
    folder = os.environ.get("B4M_COMFYUI")
    return f"ComfyUI {hosts.version_of(Path(folder))}, page {page_version()}" if folder else "ComfyUI: the newest that we bring"


def real_comfyui(host: Host, base: Path, *options: str) -> Iterator[Server]:
    """Runs that ComfyUI with the pack in it. All it reads and writes is below the base folder."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing may be fetched while tests run, and nothing needs to be
    if page := os.environ.get("B4M_PAGE"):
        options = ("--front-end-root", page, *options)
    log = f"tests_{host.version}_{base.name}.log"
    with server.running(host, port=free_port(), base=base, log_name=log, options=["--disable-api-nodes", *options]) as running:
        yield running


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The ComfyUI that this run is about, with the pack in it."""
    yield from real_comfyui(host_in_question(), tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="session")
def comfyui_without_the_pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same ComfyUI, with no pack at all."""
    yield from real_comfyui(host_in_question(), tmp_path_factory.mktemp("comfyui_alone"), "--disable-all-custom-nodes")


@pytest.fixture(scope="session")
def oldest_comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The oldest ComfyUI that we support, beside the newest that we bring; its page is not looked at."""
    if host_in_question().folder != places.home() / f"comfyui-{carriers.NEWEST}":
        pytest.skip("this run is about one ComfyUI that was named: the oldest is met in the run without --comfyui")
    host = carriers.bring(hosts.OLDEST, Path(sys.executable))
    yield from real_comfyui(host, tmp_path_factory.mktemp("oldest_comfyui"))
