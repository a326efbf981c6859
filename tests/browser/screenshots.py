"""Pictures of every shipped workflow on the page of a running ComfyUI: before, while and after it runs, in both ways to draw nodes.

    python tests/browser/screenshots.py http://127.0.0.1:8188 FOLDER [NAME ...] [--before]

writes FOLDER/NAME_MODE_{before,while,after}.png at 1280 x 800, the view as the workflow opens, and says what lies over what. Trainings are
shortened; with --before nothing runs. A workflow for a checkpoint is pictured before as it is, while and after with the small model and the
pictures that come with B4M.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "host"), str(Path(__file__).parents[2])]

import shipped  # noqa: E402
from host_page import ALL_NODES, MODE, QUIET, SETTINGS, Page  # noqa: E402
from small_training import fresh_seed  # noqa: E402

from launcher import testing  # noqa: E402
from launcher.client import Client  # noqa: E402

SIZE = {"width": 1280, "height": 800}
SHORT: dict[str, dict[str, int]] = shipped.FEWER | {
    "B4MTrain": {"steps": 24, "together_steps": 12, "sample_every": 6, "sample_steps": 4},
    "B4MAuxiliary": {"sets": 1, "pictures": 1},
}
SMALL_MODEL = """() => {
    const graph = window.app.graph, old = graph.nodes.find((node) => node.type.startsWith("Checkpoint"));
    if (!old) return;
    const model = window.LiteGraph.createNode("B4MMiniModel");
    [model.pos, model.title] = [[...old.pos], old.title];
    graph.add(model);
    model.setSize([...old.size]);
    const wires = old.outputs.flatMap((output, slot) => (output.links ?? []).map((id) => [slot, graph.links.get(id)]));
    for (const [slot, link] of wires) model.connect(slot, graph.getNodeById(link.target_id), link.target_slot);
    graph.remove(old);
    const [content, style] = graph.nodes.filter((node) => node.type === "B4MPictures");
    for (const [node, folder] of [[content, "(demo content)"], [style, "(demo style)"]]) {
        const widget = node.widgets.find((each) => each.name === "folder");
        widget.value = folder;
        widget.callback?.(folder);
    }
}"""
SAMPLE_SEEN = f"""() => ({ALL_NODES})().some(({{ b4mView: view }}) => view?.root.dataset.state === "training" && !view.sample.hidden)"""


def picture(page: Page, path: Path) -> None:
    page.browser_page.wait_for_timeout(1500)  # until all that was loaded is drawn
    page.browser_page.screenshot(path=path)
    print(path.name, page.untidy() if "before" in path.name else "", flush=True)


def workflow(page: Page, name: str, folder: Path, *, only_before: bool) -> None:
    """Open one workflow, run it, and picture it three times."""

    def file(when: str) -> Path:
        return folder / f"{name}_{'nodes_2' if page.nodes_2 else 'classic'}_{when}.png"

    page.open_template(name)
    page.browser_page.wait_for_timeout(1500)
    page.browser_page.keyboard.press("Escape")  # where a model that is not there is offered
    picture(page, file("before"))
    if only_before:
        return
    page.browser_page.unroute("**/b4m/shown")
    page.browser_page.evaluate(SMALL_MODEL)
    page.shorten(SHORT | {"B4MTrain": SHORT["B4MTrain"] | {"seed": fresh_seed()}})  # so that it trains every time
    trains = page.browser_page.evaluate(f"() => ({ALL_NODES})().some((node) => node.b4mView)")
    page.press_run()
    if trains:
        page.browser_page.wait_for_function(SAMPLE_SEEN, timeout=600_000)
        picture(page, file("while"))
    client = Client(page.address)
    while client.request("/prompt")["exec_info"]["queue_remaining"]:
        page.browser_page.wait_for_timeout(500)
    picture(page, file("after"))
    if page.complaints or page.alerts():
        print(name, page.complaints, page.alerts(), flush=True)


def main(options: argparse.Namespace) -> None:
    from playwright.sync_api import sync_playwright

    address, folder, names = options.address, options.folder, options.names
    folder.mkdir(parents=True, exist_ok=True)
    client = Client(address)
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=testing.browser_on_path(), args=QUIET)
        for nodes_2 in (False, True):
            client.request("/settings", SETTINGS | {MODE: nodes_2})
            for name in names or [path.stem for path in shipped.PAGES]:
                context = browser.new_context(viewport=SIZE)
                page = Page(context.new_page(), address, nodes_2=nodes_2)
                page.hide_earlier_trainings()
                try:
                    workflow(page, name, folder, only_before=options.before)
                except Exception as error:  # one workflow's fault costs no other's pictures
                    print(name, "FAILED", str(error)[:600], flush=True)
                context.close()
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--before", action="store_true")
    main(parser.parse_args())
