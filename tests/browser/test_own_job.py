"""The artist's own pictures in the first workflow, by hand: real drops, real typing, the page's own Run button, counted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from host_page import Page
from PIL import Image

from launcher.server import Server

MOST_ACTS = 6
CONTENT = ("IMG_2041.JPG", "IMG_2042.JPG", "IMG_2043.png", "teapot (4).webp")
STYLE = ("house.png", "boat.jpg", "owl.png")
CLASS_WORD, PROMPT = "teapot", "a {content} on the moon in {style}"
IDS = "window.app.graph.nodes.filter((each) => each.type === 'B4MPictures').map((each) => each.id).sort()"
ABOUT = "window.app.graph.getNodeById({}).b4mPictures.about.textContent"
SHOWN = "window.app.graph.getNodeById({}).b4mPictures.known.pictures"  # the classic page reorders its nodes when one is clicked


class Hand:
    """Does what a person does, and counts: one drop, one text typed into a field, one press."""

    def __init__(self, page: Page) -> None:
        self.page, self.acts = page, 0

    def drop(self, paths: list[Path], node: int) -> None:
        self.acts += 1
        self.page.drop_files(paths, node)

    def write(self, node: int, widget: str, text: str) -> None:
        """Into a field of Nodes 2.0, or into what the classic page opens over a widget that is clicked."""
        self.acts += 1
        page: Any = self.page.browser_page
        if self.page.nodes_2:
            field = page.locator(f"[data-node-id='{node}']").get_by_label(widget, exact=True).first
            field.click()
        else:
            page.mouse.click(*self.page.place(node, widget))
            field = page.locator(".graphdialog input")
        field.fill(text)
        field.press("Enter")

    def rewrite(self, old: str, text: str) -> None:
        """The text of a large field, which is one of the page's own in both ways to draw nodes."""
        self.acts += 1
        page: Any = self.page.browser_page
        fields = [each for each in page.locator("textarea:visible").all() if each.input_value() == old]
        fields[0].click()
        page.keyboard.press("Control+A")
        page.keyboard.type(text)

    def press_run(self) -> None:
        self.acts += 1
        self.page.press_run()


def made(folder: Path, names: tuple[str, ...], green: int) -> list[Path]:
    for number, name in enumerate(names):
        Image.new("RGB", (300 + 40 * number, 260), (40 * number, green, 160)).save(folder / name)
    return [folder / name for name in names]


def running(comfyui: Server) -> dict[str, Any]:
    """The graph that the server is at."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if there := comfyui.client.request("/queue")["queue_running"]:
            return dict(there[-1][2])
        time.sleep(0.01)
    raise AssertionError(f"nothing runs; the server's last graphs: {comfyui.client.request('/history?max_items=1')}")


def test_own_pictures_take_six_acts_at_most_and_none_outside_the_page(page: Page, comfyui: Server, tmp_path: Path) -> None:
    content, style = made(tmp_path, CONTENT, 90), made(tmp_path, STYLE, 200)
    page.open_template("b4m_1_first_minute")
    page.wait_until_drawn()
    content_node, style_node = page.read(IDS)
    hand = Hand(page)
    hand.drop(content, content_node)
    page.wait(f"{SHOWN.format(content_node)}[3]?.name === {CONTENT[3]!r}", seconds=60)
    page.wait(f"{ABOUT.format(content_node)}.includes('class_word still says bird')")
    hand.write(content_node, "class_word", CLASS_WORD)
    page.wait(f"!{ABOUT.format(content_node)}.includes('class_word')")
    hand.drop(style, style_node)
    page.wait(f"{SHOWN.format(style_node)}.length === {len(STYLE)}", seconds=60)
    hand.rewrite("a {content} in {style}", PROMPT)
    captions = [page.read(SHOWN.format(node) + ".map((picture) => picture.caption)") for node in (content_node, style_node)]
    page.screenshot("own_job")
    hand.press_run()
    graph = running(comfyui)
    said = page.alerts() + page.complaints
    comfyui.client.interrupt()
    asked = {node["class_type"]: node["inputs"] for node in graph.values() if node["class_type"] != "B4MPictures"}
    folders = [graph[str(node)]["inputs"]["folder"] for node in (content_node, style_node)]
    assert asked["B4MPaint"]["prompt"] == PROMPT
    assert [{path.name for path in (comfyui.input_folder / each).iterdir()} for each in folders] == [set(CONTENT), set(STYLE)]
    assert captions == [["a photo of a snq teapot"] * 4, ["a boat in w@z style", "a house in w@z style", "a owl in w@z style"]]
    assert hand.acts <= MOST_ACTS
    print(f"{hand.acts} acts in the page, 0 outside")
    assert said == []
