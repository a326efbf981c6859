"""A training that is cancelled, waits behind another, loses its tab or its server: the page says so, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_page import MODE, SETTINGS, Page
from PIL import Image
from small_training import LONG, SHOWN, WIRES, fresh_seed, nodes, says, trained, training

from launcher import server
from launcher.server import Server
from tests.conftest import free_port, host_in_question

STEP = "node('B4MTrainContent').b4mView.state.step"
SET = "node('B4MTrainContent').widgets.find((each) => each.name === '{}').value = {}"
FIRST_STEP = """() => {
    window.firstStep = null;
    window.app.api.addEventListener("b4m.training", ({ detail }) => { if (detail.state === "training") window.firstStep ??= detail.step; });
}"""
"""Notes the first step that is heard of from now on."""


def cancel(page: Page) -> None:
    """Presses the page's own button."""
    page.browser_page.get_by_role("button", name="Cancel current run").first.click()


def test_cancel_keeps_what_was_trained_and_run_goes_on_from_there(page: Page) -> None:
    page.open()
    page.build(nodes(seed=fresh_seed(), **LONG), WIRES)
    page.press_run()
    training(page)
    cancel(page)
    says(page, r"Stopped at step \d+ of 4000")
    assert "What was trained is kept: Run goes on from here." in page.read(SHOWN)
    reached = page.read(STEP)
    page.read(SET.format("steps", reached + 5))
    page.browser_page.evaluate(FIRST_STEP)
    page.press_run()
    trained(page, reached + 5)
    assert page.read("window.firstStep") > reached, "it went on, and did not begin again"
    assert page.read("node('B4MTrainContent').b4mView.state.curve.steps[0]") == 1, "the curve is whole"
    assert page.complaints == []


@pytest.mark.parametrize("page", [True], ids=["nodes_2"], indirect=True)  # the button is the page's own in both
def test_cancel_while_the_pictures_are_encoded_stops_at_once_and_run_begins_again(page: Page, comfyui: Server) -> None:
    folder = comfyui.input_folder / "sixty"
    folder.mkdir(exist_ok=True)
    for number in range(60):
        Image.new("RGB", (96, 96), (4 * number, 90, 160)).save(folder / f"{number}.png")
    many = {"folder": folder.name, "trigger": "snq", "class_word": "bird", "caption": "{name} of a {trigger} {class}"}  # all are encoded
    graph = nodes(seed=fresh_seed())
    page.open()
    page.build({**graph, "mine": (*graph["mine"][:2], many)}, WIRES)
    page.press_run()
    says(page, r"Encoding picture \d+ of \d+", seconds=120)
    cancel(page)
    before = time.monotonic()
    says(page, "Stopped before the first step")
    assert time.monotonic() - before < 5, "it does not encode the rest first"
    assert "Stopped. It had not come to its first step." in page.read(SHOWN)
    page.press_run()
    trained(page)
    assert page.complaints == []


@pytest.mark.parametrize("page", [False], ids=["classic"], indirect=True)  # which run is shown is the same in both: one of them each
def test_a_reload_in_mid_training_shows_it_again_and_a_second_run_waits_behind_it(page: Page) -> None:
    page.open()
    page.build(nodes(seed=fresh_seed(), **LONG), WIRES)
    page.press_run()
    training(page)
    before, workflow = page.read(STEP), page.workflow()
    page.browser_page.reload()
    page.open()
    page.load(workflow)
    training(page)
    assert page.read(STEP) >= before
    page.read(SET.format("steps", 4))
    page.read(SET.format("seed", fresh_seed()))
    page.press_run()
    page.wait("node('B4MTrainContent').b4mView.waits", seconds=60)
    assert "Step" in page.read(SHOWN), "what runs is shown, not what waits"
    page.browser_page.evaluate("async () => { await window.app.api.interrupt(); }")
    trained(page)
    assert not page.read("node('B4MTrainContent').b4mView.waits") and page.complaints == []


@pytest.mark.parametrize("page", [True], ids=["nodes_2"], indirect=True)
def test_two_tabs_show_each_its_own_training_and_closing_one_loses_nothing(page: Page, comfyui: Server) -> None:
    page.open()
    page.build(nodes(seed=fresh_seed(), steps=60, sample_every=0), WIRES)
    first = page.workflow()
    tab = Page(page.browser_page.context.new_page(), comfyui.address, nodes_2=page.nodes_2)
    tab.browser_page.on("pageerror", lambda error: page.complaints.append(str(error)))
    tab.open()
    second = {**first, "nodes": [{**each} for each in first["nodes"]]}  # of the same id, as a duplicated tab has it
    tab.load(second)
    tab.read(SET.format("seed", fresh_seed()))
    tab.read(SET.format("steps", 4))
    page.press_run()
    training(page)
    assert "Not trained yet" in tab.read(SHOWN) and "All trainings" not in tab.read(SHOWN)
    tab.press_run()
    says(tab, "In the queue")
    assert "Step" in page.read(SHOWN)
    page.browser_page.close()
    trained(tab)
    tab.load(first)
    trained(tab, 60)
    assert tab.alerts() == [] and page.complaints == []


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


def test_a_restart_of_the_server_in_mid_training_is_said_and_run_goes_on(chromium: Any, own_server: Any) -> None:
    first = own_server()
    first.client.request("/settings", SETTINGS | {MODE: False})
    page = Page(chromium.new_context(viewport={"width": 1600, "height": 1000}).new_page(), first.address)
    page.open()
    page.build(nodes(seed=3, sample_every=2), WIRES)
    page.press_run()
    trained(page)
    done = page.workflow()
    page.read(SET.format("steps", LONG["steps"]))
    page.press_run()
    page.wait(f"{STEP} >= 8 && {STEP} < 4000", seconds=120)
    own_server()  # the page stays open
    says(page, "ComfyUI was ended. Run goes on from what was kept.")
    reached = page.read(STEP)
    page.read(SET.format("steps", reached + 20))
    page.browser_page.evaluate(FIRST_STEP)
    page.press_run()
    trained(page, reached + 20)
    assert page.read("window.firstStep") > 4, "it went on from a step that was kept"
    page.open()
    page.load(done)
    trained(page)
    page.wait("node('B4MTrainContent').b4mView.strip.children.length > 4", seconds=60)  # what is kept of the longer one, too
    assert "sample at step 4" in page.read(SHOWN), "the new server knows what the old one trained"
    page.browser_page.context.close()
