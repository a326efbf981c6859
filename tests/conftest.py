"""What every test may use: the order of the tests, and a real ComfyUI of each supported age for those that ask for it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import hosts, server
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


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as attempt:
        attempt.bind((server.ADDRESS, 0))
        port: int = attempt.getsockname()[1]
    return port


def real_comfyui(version: str, base: Path) -> Iterator[Server]:
    """Runs that ComfyUI with the pack in it. All it reads and writes is below the base folder."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing may be fetched while tests run, and nothing needs to be
    host = hosts.bring(version, Path(sys.executable))
    options = ["--disable-api-nodes"]
    with server.running(host, port=free_port(), base=base, log_name=f"tests_{version}.log", options=options) as running:
        yield running


@pytest.fixture(scope="session")
def newest_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The newest ComfyUI that we know."""
    yield from real_comfyui(hosts.NEWEST, tmp_path_factory.mktemp("newest_host"))


@pytest.fixture(scope="session")
def oldest_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The oldest ComfyUI that we support."""
    yield from real_comfyui(hosts.OLDEST, tmp_path_factory.mktemp("oldest_host"))
