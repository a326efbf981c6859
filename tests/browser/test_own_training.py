"""A node shows the training of its own graph: through a reload, beside another graph, in another tab, after a restart of the server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_page import MODE, Page

from launcher import server
from tests.conftest import free_port, host_in_question

QUICK = {"steps": 4, "sample_every": 2, "sample_steps": 2, "resolution": 64, "rank": 2, "batch_size": 1, "gradient_accumulation_steps": 1}
WIRES = [("model", 0, "train", 0), ("model", 1, "train", 1), ("model", 2, "train", 2), ("mine", 0, "train", 3), ("train", 1, "save", 0)]
SHOWN = "node('B4MTrainContent').b4mView.root.innerText"
_seeds = itertools.count(int(time.time()) % 1_000_000)


def nodes(**widgets: Any) -> dict[str, Any]:
    return {
        "model": ("B4MMiniModel", (40, 60, 300, 100), {}),
        "mine": ("B4MPictures", (40, 220, 300, 460), {"folder": "(demo content)", "trigger": "snq", "class_word": "bird"}),
        "train": ("B4MTrainContent", (400, 60, 340, 1040), QUICK | widgets),
        "save": ("SaveImage", (800, 60, 300, 380), {"filename_prefix": "own_training"}),
    }


def trained(page: Page) -> None:
    page.wait(f"{SHOWN}.includes('Trained')", seconds=240)


def test_a_training_is_shown_where_its_graph_is_open_and_nowhere_else(page: Page, comfyui: server.Server) -> None:
    seed = next(_seeds)
    page.open()
    page.build(nodes(seed=seed), WIRES)
    sizes = "window.app.graph.nodes.filter((each) => each.type.startsWith('B4M')).map((each) => [...each.size])"
    before = page.read(sizes)
    page.press_run()
    trained(page)
    page.wait_for_picture("SaveImage", seconds=60)
    assert page.read(sizes) == before, "none of ours grows"
    assert [each for each in page.untidy() if "Save Image" not in each] == []  # the host's grows, and older pages misplace it then
    page.screenshot("own_training")
    workflow = page.workflow()
    page.browser_page.reload()  # the page opens what it had open
    page.open()
    page.load(workflow)
    trained(page)
    picture = page.read("node('B4MTrainContent').b4mView.state.sample.url")
    assert picture.startswith(("data:image/", "/b4m/"))
    page.build(nodes(seed=seed + 500_000), WIRES)  # the same numbers
    page.load(page.workflow())
    page.wait("node('B4MTrainContent').b4mView")
    page.browser_page.wait_for_timeout(1000)
    assert "Not trained yet" in page.read(SHOWN)
    picture_file = max((comfyui.output_folder).glob("own_training*.png"), key=lambda path: path.stat().st_mtime)
    if not page.nodes_2:  # whose layer of nodes lies over the canvas that this drops on
        page.drop({"back.png": picture_file.read_bytes()})
        trained(page)  # the picture brings its graph, and the graph its training
    assert page.alerts() == [] and page.complaints == []


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Any]:
    """Starts a server of the test's own, as often as it is called, at one address and with one base folder."""
    running: list[server.Server] = []
    port = free_port()

    def start() -> server.Server:
        for each in running:
            each.stop()
        log = f"tests_restart_{port}.log"
        running[:] = [server.start(host_in_question(), port=port, base=tmp_path, log_name=log, options=["--disable-api-nodes"])]
        return running[0]

    yield start
    for each in running:
        each.stop()


def test_a_training_is_shown_after_a_restart_of_the_server(chromium: Any, own_server: Any) -> None:
    first = own_server()
    first.client.request("/settings", {"Comfy.TutorialCompleted": True, MODE: False})
    page = Page(chromium.new_context(viewport={"width": 1600, "height": 1000}).new_page(), first.address)
    page.open()
    page.build(nodes(seed=3), WIRES)
    page.press_run()
    trained(page)
    workflow = page.workflow()
    own_server()
    page.open()
    page.load(workflow)
    trained(page)
    assert "sample at step 4" in page.read(SHOWN)
    page.browser_page.context.close()
