"""What a person does on ComfyUI's page and sees there."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launcher import places

MODE = "Comfy.VueNodes.Enabled"
"""The setting for Nodes 2.0, which draws nodes as parts of the page; without it they are painted on a canvas."""

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
"""Options of a Chromium that asks nothing of the network and needs no card."""

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped", "Comfy.Notification.ShowVersionUpdates": False}
"""As for a person who has been here before: no tour and no template browser at the start."""

READY = "() => window.app && window.app.vueAppReady && window.app.graph && window.app.extensionManager"
ALL_NODES = """() => {
    const all = (graph) => graph.nodes.flatMap((node) => [node, ...(node.subgraph ? all(node.subgraph) : [])]);
    return all(window.app.graph);
}"""

UNTIDY = """(nodes2) => {
    const canvas = window.app.canvas, corner = canvas.canvas.getBoundingClientRect();
    const drawn = (node) => {  // x, y, width and height in the graph's own units
        if (!nodes2) return [...node.getBounding()];
        const box = document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect();
        const [x, y] = [box.x - corner.x, box.y - corner.y].map((place, axis) => place / canvas.ds.scale - canvas.ds.offset[axis]);
        return [x, y, box.width / canvas.ds.scale, box.height / canvas.ds.scale];
    };
    const inside = (x, y, [left, top, width, height]) => x >= left && x <= left + width && y >= top && y <= top + height;
    const spare = 4;  // shadows and rounding
    const boxes = window.app.graph.nodes.map((node) => ({ name: `${node.title} (${node.id})`, box: drawn(node) }));
    const found = [];
    for (const { name, box: [x, y, width, height] } of boxes) {
        for (const { name: other, box: [left, top, wide, high] } of boxes)
            if (name < other && x + spare < left + wide && left + spare < x + width && y + spare < top + high && top + spare < y + height)
                found.push(`${name} and ${other}`);
        for (const group of window.app.graph.groups) {
            const edge = [...group.pos, ...group.size];
            if (inside(x, y, edge) && !inside(x + width - spare, y + height - spare, edge))
                found.push(`${name} and the edge of ${group.title}`);
        }
    }
    return found;
}"""


PLACE = """([id, nodes2, name]) => {  // where on the screen a node's title is, or a widget of it that is painted on the canvas
    const canvas = window.app.canvas, corner = canvas.canvas.getBoundingClientRect();
    const taken = (x, y) => document.elementFromPoint(x, y)?.closest("[data-node-id]")
        || window.app.graph.getNodeOnPos(...canvas.ds.convertCanvasToOffset([x - corner.x, y - corner.y]));
    if (id === null) { // free canvas
        let y = corner.bottom - 150;
        while (y > corner.top + 200 && taken(corner.right - 400, y)) y -= 25;
        return [corner.right - 400, y];
    }
    const node = window.app.graph.getNodeById(id), widget = node.widgets?.find((each) => each.name === name);
    if (nodes2) {
        const box = document.querySelector(`[data-node-id="${id}"]`).getBoundingClientRect();
        return [box.x + box.width / 2, box.y + 12];
    }
    const down = widget ? widget.last_y + 10 : -12;
    const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + down]);
    return [corner.x + x, corner.y + y];
}"""

DROP = """async ([files, id, nodes2]) => {
    const canvas = window.app.canvas, corner = canvas.canvas.getBoundingClientRect();
    let place = [corner.right - 400, corner.bottom - 200]; // free canvas
    if (id !== null && nodes2) {
        const box = document.querySelector(`[data-node-id="${id}"]`).getBoundingClientRect();
        place = [box.x + box.width / 2, box.y + 12];
    } else if (id !== null) {
        const node = window.app.graph.getNodeById(id);
        const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] - 12]);
        place = [corner.x + x, corner.y + y];
    }
    const carried = new DataTransfer();
    for (const [name, type, text] of files)
        carried.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name, { type }));
    const [clientX, clientY] = place, target = document.elementFromPoint(clientX, clientY);
    for (const kind of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true, clientX, clientY }));
}"""


@dataclass
class Page:
    """One open page and what it has complained about."""

    browser_page: Any
    address: str
    nodes_2: bool = False
    """Whether it draws nodes by Nodes 2.0."""
    templates_by_address: bool = True
    """Whether its address can name a template; an older page has its template browser alone."""
    template_open: bool = False
    """Whether a workflow of the pack's has been opened as the page starts, in place of the page's own default one."""
    complaints: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> None:
        """Opens the page and waits until it is ready for a workflow."""
        self.browser_page.goto(f"{self.address}/{query}")
        self.browser_page.wait_for_function(READY, timeout=60_000)
        self.browser_page.wait_for_function("() => window.app.graph.nodes.length > 0", timeout=30_000)
        if self.nodes_2 and not self.browser_page.evaluate("(name) => name in window.app.ui.settings.settingsLookup", MODE):
            pytest.skip("this version of the page knows no Nodes 2.0")

    def hide_earlier_trainings(self) -> None:
        """Shows workflows as on a server that has trained nothing yet."""
        self.browser_page.route("**/b4m/shown", lambda route: route.fulfill(json={}))

    def open_template(self, name: str) -> None:
        """Opens a workflow of the pack's as the template browser does."""
        if not self.templates_by_address:
            self.open()
            served = f"/api/workflow_templates/b4m/{name}.json"
            self.load(self.browser_page.evaluate("async (path) => await (await fetch(path)).json()", served))
            return
        self.open(f"?template={name}&source=b4m")
        self.template_open = True
        wanted = f"workflows/{name}.json"
        self.browser_page.wait_for_function(
            "(wanted) => window.app.extensionManager.workflow.activeWorkflow?.path === wanted", arg=wanted, timeout=30_000
        )

    def load(self, workflow: dict[str, Any]) -> None:
        """Opens a workflow given as JSON."""
        self.browser_page.evaluate("async (workflow) => { await window.app.loadGraphData(workflow); }", workflow)

    def missing_nodes(self) -> list[str]:
        """The types of nodes in the open workflow that the page does not know."""
        found: list[str] = self.browser_page.evaluate(
            f"() => ({ALL_NODES})().map((node) => node.type).filter((type) => !(type in window.LiteGraph.registered_node_types))"
        )
        return found

    def alerts(self) -> list[str]:
        """The messages that the page shows in its corner, and the dialogs it has opened."""
        shown = ".p-toast-message, .p-dialog, .comfy-modal:visible"
        if self.template_open:  # else it may be about the models of the page's own default workflow
            shown += ", [data-testid='error-overlay']"
        return [str(each.inner_text()) for each in self.browser_page.locator(shown).all()]

    def fit(self) -> None:
        """Brings the whole workflow into view."""
        self.browser_page.evaluate("async () => { await window.app.extensionManager.command.execute('Comfy.Canvas.FitView'); }")
        self.browser_page.wait_for_timeout(700)

    def wait_until_drawn(self) -> None:
        """Waits until every node of the open workflow is drawn as this page should draw it: as a part of the page, or on the canvas."""
        self.fit()
        self.browser_page.wait_for_function(
            """(nodes2) => document.querySelectorAll("[data-node-id]").length === (nodes2 ? window.app.graph.nodes.length : 0)""",
            arg=self.nodes_2,
            timeout=30_000,
        )

    def untidy(self) -> list[str]:
        """Which nodes of the open workflow lie over another one, or reach out of the box that they begin in, as they are drawn."""
        found: list[str] = self.browser_page.evaluate(UNTIDY, self.nodes_2)
        return found

    def shorten(self, fewer: dict[str, dict[str, int]]) -> None:
        """Sets widgets, by the beginning of their node's type and by name, so that a run fits into a test."""
        self.browser_page.evaluate(
            f"""(fewer) => {{
                for (const node of ({ALL_NODES})())
                    for (const [start, values] of Object.entries(fewer))
                        for (const widget of node.type.startsWith(start) ? node.widgets ?? [] : [])
                            if (widget.name in values) widget.value = values[widget.name];
            }}""",
            fewer,
        )

    def build(
        self, nodes: dict[str, tuple[str, tuple[int, int, int, int], dict[str, Any]]], wires: list[tuple[str, int, str, int]]
    ) -> dict[str, int]:
        """Makes a workflow of (type, (x, y, width, height), widgets) by name and of wires from outputs to inputs; the nodes' numbers."""
        numbers: dict[str, int] = self.browser_page.evaluate(
            """([nodes, wires]) => {
                const graph = window.app.graph, made = {}, view = window.app.canvas.ds;
                graph.clear();
                [view.scale, view.offset] = [0.6, [80, 80]];
                for (const [name, [type, [x, y, width, height], values]] of Object.entries(nodes)) {
                    const node = (made[name] = window.LiteGraph.createNode(type));
                    node.pos = [x, y];
                    graph.add(node);
                    node.setSize([width, height]);
                    for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name];
                }
                for (const [from, output, to, input] of wires) made[from].connect(output, made[to], input);
                return Object.fromEntries(Object.entries(made).map(([name, node]) => [name, node.id]));
            }""",
            [nodes, wires],
        )
        self.browser_page.wait_for_function(  # pages up to 1.32 misplace a node that they measure while the view moves
            """(nodes2) => !nodes2 || window.app.graph.nodes.every((node) => document.querySelector(`[data-node-id="${node.id}"]`))""",
            arg=self.nodes_2,
            timeout=30_000,
        )
        self.browser_page.wait_for_timeout(1500 if self.nodes_2 else 200)
        self.wait_until_drawn()
        return numbers

    def workflow(self) -> dict[str, Any]:
        """The open workflow as a file would hold it."""
        saved: dict[str, Any] = json.loads(self.read("JSON.stringify(window.app.graph.serialize())"))
        return saved

    def drop(self, files: dict[str, bytes], node: int | None = None) -> None:
        """Drops files from the file manager on a node's title, or beside all nodes."""
        kinds = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "txt": "text/plain"}
        carried = [(name, kinds.get(name.rpartition(".")[2], ""), base64.b64encode(content).decode()) for name, content in files.items()]
        self.browser_page.evaluate(DROP, [carried, node, self.nodes_2])

    def place(self, node: int | None, widget: str = "") -> list[float]:
        """Where on the screen a node's title is, or a widget of it that is painted on the canvas; without a node a free place."""
        found: list[float] = self.browser_page.evaluate(PLACE, [node, self.nodes_2, widget])
        return found

    def drop_files(self, paths: list[Path], node: int | None = None) -> None:
        """Drops files by the mouse, as from the file manager, on a node's title or beside all nodes: what lies there gets them."""
        x, y = self.place(node)
        session = self.browser_page.context.new_cdp_session(self.browser_page)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
        session.detach()

    def wait(self, condition: str, *, seconds: float = 15.0) -> None:
        """Waits until an expression of the page is true; `node(type)` in it is the first open node of a type."""
        find = f"const node = (type) => ({ALL_NODES})().find((each) => each.type === type);"
        self.browser_page.wait_for_function(f"() => {{ {find} return {condition}; }}", timeout=seconds * 1000)

    def read(self, expression: str) -> Any:
        """The value of an expression of the page, with `node(type)` as in wait()."""
        find = f"const node = (type) => ({ALL_NODES})().find((each) => each.type === type);"
        return self.browser_page.evaluate(f"() => {{ {find} return {expression}; }}")

    def press_run(self) -> None:
        """Presses the page's own Run button."""
        self.browser_page.get_by_role("button", name="Run", exact=True).first.click()

    def wait_for_picture(self, node_type: str, *, seconds: float) -> None:
        """Waits until each node of that type shows a picture; an error dialog ends the wait. Only nodes in view show theirs."""
        self.fit()
        self.browser_page.wait_for_function(
            f"""([type, nodes2]) => {{
                if (document.querySelector(".comfy-error-report")) throw new Error(document.querySelector(".comfy-error-report").innerText);
                const parts = (node) => [...document.querySelectorAll(`[data-node-id="${{node.id}}"] img`)];
                const pictures = (node) => (nodes2 ? parts(node).filter((image) => image.naturalWidth > 0) : node.imgs ?? []);
                const nodes = ({ALL_NODES})().filter((node) => node.type === type);
                return nodes.length > 0 && nodes.every((node) => pictures(node).length > 0);
            }}""",
            arg=[node_type, self.nodes_2],
            timeout=seconds * 1000,
        )

    def screenshot(self, name: str) -> Path:
        """A picture of the page as it is."""
        folder = places.home() / "screenshots"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}_{'nodes_2' if self.nodes_2 else 'classic'}.png"
        self.browser_page.screenshot(path=path)
        return path


def painting_workflow(page: Page) -> dict[str, Any]:
    """A workflow of the host's own nodes, made on the page as a person would: a blue picture that is shown."""
    text = page.browser_page.evaluate(
        """() => {
            const graph = window.app.graph;
            graph.clear();
            const [paint, show] = ["EmptyImage", "PreviewImage"].map((type) => window.LiteGraph.createNode(type));
            graph.add(paint);
            graph.add(show);
            show.pos = [400, 10];
            paint.connect(0, show, 0);
            paint.widgets.find((widget) => widget.name === "color").value = 0x3377cc;
            return JSON.stringify(graph.serialize());
        }"""
    )
    workflow: dict[str, Any] = json.loads(text)
    return workflow
