"""Graphs as somebody sends them who means harm, or who wired the wrong thing: a real server answers with our sentences alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.server import Server
from tests.conftest import host_in_question, real_comfyui

sys.path.append(str(Path(__file__).resolve().parents[2]))
from benchmarks.reliability import escapes  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a right there")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own: what is done to it concerns no other test."""
    yield from real_comfyui(host_in_question(), tmp_path_factory.mktemp("attacked") / "base")


def test_no_name_leads_out_of_the_servers_folders_in_any_input(attacked: Server) -> None:
    tried = escapes.names(attacked.base.parent / "private")
    assert len(set(tried)) >= 60
    found = escapes.try_names(attacked.client, attacked.base, tried[::5])
    assert [each for came in found.values() for each in came.lost] == []
    assert {place.split(".")[1] for place in found} == {"folder", "filename"} and sum(came.tries for came in found.values()) >= 4 * 12


def test_no_value_of_any_widget_ends_in_a_raw_error(attacked: Server) -> None:
    came = escapes.try_values(attacked.client, escapes.VALUES[::9])
    assert came.lost == [] and came.tries > 100


def test_every_input_that_is_a_name_is_tried(attacked: Server) -> None:
    """A list or a text whose name says that it is a file's or a folder's must be among those that are attacked."""
    endings = ("folder", "filename", "file", "path")
    named = {f"{node}.{name}" for node, name, _ in escapes.widgets(attacked.client) if name.endswith(endings)}
    assert named == {place for place, _, _ in escapes.graphs("x")}
