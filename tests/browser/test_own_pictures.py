"""An artist's own pictures: dropped on the node, seen, captioned, ordered, taken out and put back, without leaving the page."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from host_page import Page
from PIL import Image

from launcher.server import Server

NODES = {
    "mine": ("B4MPictures", (60, 60, 320, 460), {"trigger": "snq", "class_word": "teapot"}),
    "other": ("B4MPictures", (460, 60, 320, 460), {"folder": "(demo style)"}),
}
NAMES = "[...node('B4MPictures').b4mPictures.grid.children].map((card) => card.dataset.name)"
ABOUT = "node('B4MPictures').b4mPictures.about.textContent"


def picture(colour: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (120, 90), colour).save(buffer, kind)
    return buffer.getvalue()


FILES = {
    "blue one.jpg": picture("blue", "JPEG"),
    "red.png": picture("red", "PNG"),
    "red_mask.png": picture("white", "PNG"),
    "red.txt": b"a red {trigger} {class}",
    "film.mov": b"moving",
}


@pytest.fixture
def folder(page: Page, comfyui: Server) -> Path:
    """The input subfolder that the dropped files make; both ways to draw nodes share a server."""
    taken = {path.name for path in comfyui.input_folder.glob("teapot*")}
    page.open()
    page.build(NODES, [])
    page.drop(FILES, page.read("node('B4MPictures').id"))
    page.wait(f"{NAMES}.length === 2 && {ABOUT}.includes('brought')")
    (made,) = [path for path in comfyui.input_folder.glob("teapot*") if path.name not in taken]
    assert page.read("node('B4MPictures').widgets[0].value") == made.name
    return made


def test_dropped_pictures_are_copied_shown_and_listed(page: Page, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"blue one.jpg", "red.png", "red_mask.png", "red.txt"}
    assert "film.mov was left out" in page.read(ABOUT) and "2 pictures brought" in page.read(ABOUT)
    page.wait("[...node('B4MPictures').b4mPictures.grid.querySelectorAll('img')].every((image) => image.naturalWidth > 0)")
    captions = "[...node('B4MPictures').b4mPictures.grid.querySelectorAll('textarea')].map((field) => field.value || field.placeholder)"
    assert page.read(captions) == ["a photo of a snq teapot", "a red {trigger} {class}"]
    assert page.read("node('B4MPictures').b4mPictures.grid.querySelectorAll('.b4m-mask').length") == 1
    lists = "window.app.graph.nodes.map((each) => each.widgets[0].options.values)"
    assert all(folder.name in values for values in page.read(lists)), "the other node's list has it too"
    if page.nodes_2:  # what is chosen stands in the list that Nodes 2.0 has of it, too
        number = page.read("node('B4MPictures').id")
        colours = "(field) => [...field.querySelectorAll('span')].map((each) => getComputedStyle(each).color).join()"
        field = page.browser_page.locator(f"[data-node-id='{number}'] .lg-node-widget").first
        assert "248, 113, 113" not in field.evaluate(colours), "red is what no list has"
    page.screenshot("own_pictures")
    assert page.untidy() == [] and page.alerts() == [] and page.complaints == []


def test_a_caption_typed_under_its_picture_is_the_text_beside_it(page: Page, folder: Path) -> None:
    field = page.browser_page.locator(".b4m-card textarea").first
    field.fill("a blue {trigger} of Käse")
    field.press("Enter")
    page.wait("node('B4MPictures').b4mPictures.known.pictures[0].caption === 'a blue snq of Käse'")
    assert (folder / "blue one.txt").read_text(encoding="utf-8") == "a blue {trigger} of Käse\n"
    assert page.complaints == []


def test_the_order_is_kept_and_what_is_taken_out_comes_back(page: Page, folder: Path) -> None:
    def press(card: int, what: str) -> None:
        selector = f".b4m-card:nth-child({card}) .b4m-button"
        page.browser_page.evaluate(
            "([selector, text]) => [...document.querySelectorAll(selector)].find((each) => each.textContent === text).click()",
            [selector, what],
        )

    press(2, "◀")
    page.wait(f"{NAMES}.join() === 'red.png,blue one.jpg'")
    press(1, "✕")
    page.wait(f"{NAMES}.join() === 'blue one.jpg'")
    assert {path.name for path in (folder / "b4m_removed").iterdir()} == {"red.png", "red_mask.png", "red.txt"}
    page.browser_page.get_by_role("button", name="Put back").first.click()
    page.wait(f"{NAMES}.join() === 'red.png,blue one.jpg'")
    assert page.complaints == []
