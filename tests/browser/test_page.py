"""The page as an artist meets it: open a shipped workflow, press Run, see the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shipped
from host_page import Page, painting_workflow

from launcher.graphs import SDXL_BASE

ABOUT_A_MISSING_MODEL = (SDXL_BASE["name"], "Error fetching file size")
"""What pages say of the one workflow whose model is not there: its name, and that they asked for its size, in vain."""


def test_the_page_opens_without_an_error_of_the_packs_own(page: Page) -> None:
    page.open()
    assert page.complaints == []


def test_a_workflow_of_the_hosts_own_nodes_paints_on_the_page(page: Page) -> None:
    page.open()
    page.load(painting_workflow(page))
    page.press_run()
    page.wait_for_picture("PreviewImage", seconds=120)
    page.screenshot("blue_picture")
    assert page.complaints == []


@pytest.mark.parametrize("path", shipped.PAGES, ids=lambda path: path.stem)
def test_a_shipped_workflow_opens_with_every_node_known(page: Page, path: Path) -> None:
    page.hide_earlier_trainings()
    page.open_template(path.stem)
    assert page.missing_nodes() == []
    page.browser_page.keyboard.press("Escape")  # where the page offers a model that is not there
    page.wait_until_drawn()
    page.screenshot(path.stem)
    assert page.untidy() == []
    missing = ABOUT_A_MISSING_MODEL if "b4m_5" in path.stem else ()
    assert [each for each in page.alerts() + page.complaints if not any(words in each for words in missing)] == []


@pytest.mark.parametrize("path", shipped.PAGES, ids=lambda path: path.stem)
def test_a_shipped_workflow_paints_after_one_press_of_run(page: Page, path: Path) -> None:
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    if any(node["type"].startswith("Checkpoint") for node in nodes):
        pytest.skip("needs an SDXL checkpoint")
    page.open_template(path.stem)
    page.shorten(shipped.FEWER)
    page.press_run()
    page.wait_for_picture("SaveImage", seconds=900)
    page.screenshot(f"{path.stem}_after_run")
    if not page.nodes_2:  # which at times misplaces a node that grows while the view still moves
        assert page.untidy() == [], "what a run shows makes the nodes taller"
    assert page.alerts() == []
    assert page.complaints == []
