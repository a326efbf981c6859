"""What a person does on ComfyUI's page and sees there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import places

READY = "() => window.app && window.app.vueAppReady && window.app.graph && window.app.extensionManager"
ALL_NODES = """() => {
    const all = (graph) => graph.nodes.flatMap((node) => [node, ...(node.subgraph ? all(node.subgraph) : [])]);
    return all(window.app.graph);
}"""


@dataclass
class Page:
    """One open page and what it has complained about."""

    browser_page: Any
    address: str
    complaints: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> None:
        """Opens the page and waits until it is ready for a workflow."""
        self.browser_page.goto(f"{self.address}/{query}")
        self.browser_page.wait_for_function(READY, timeout=60_000)
        self.browser_page.wait_for_function("() => window.app.graph.nodes.length > 0", timeout=30_000)

    def open_template(self, name: str) -> None:
        """Opens a workflow of the pack's as the template browser does."""
        self.open(f"?template={name}&source=b4m")
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
        return [str(each.inner_text()) for each in self.browser_page.locator(".p-toast-message, .p-dialog, .comfy-modal:visible").all()]

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

    def press_run(self) -> None:
        """Presses the page's own Run button."""
        self.browser_page.get_by_role("button", name="Run", exact=True).first.click()

    def wait_for_picture(self, node_type: str, *, seconds: float) -> None:
        """Waits until each node of that type shows a picture; an error dialog ends the wait."""
        self.browser_page.wait_for_function(
            f"""(type) => {{
                if (document.querySelector(".comfy-error-report")) throw new Error(document.querySelector(".comfy-error-report").innerText);
                const nodes = ({ALL_NODES})().filter((node) => node.type === type);
                return nodes.length > 0 && nodes.every((node) => node.imgs && node.imgs.length > 0);
            }}""",
            arg=node_type,
            timeout=seconds * 1000,
        )

    def screenshot(self, name: str) -> Path:
        """A picture of the page as it is, with the whole workflow in view."""
        folder = places.home() / "screenshots"
        folder.mkdir(parents=True, exist_ok=True)
        self.browser_page.evaluate("async () => { await window.app.extensionManager.command.execute('Comfy.Canvas.FitView'); }")
        self.browser_page.wait_for_timeout(700)
        self.browser_page.screenshot(path=folder / f"{name}.png")
        return folder / f"{name}.png"


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
