"""A picture of each node for its help page, as the page of a running ComfyUI draws it: web/docs/<node>/node.webp.

python -m launcher.help_pictures http://127.0.0.1:8188 CHROMIUM

CHROMIUM is the path of a Chromium or Chrome; playwright must be installed (requirements-dev.txt).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from .client import Client

DOCS = Path(__file__).resolve().parents[1] / "web" / "docs"
READY = "() => window.app && window.app.vueAppReady && window.app.graph && window.app.extensionManager"
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped", "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.VueNodes.Enabled": False, "Comfy.Minimap.Visible": False,
}  # fmt: skip
ALONE = """(type) => {
    const graph = window.app.graph, canvas = window.app.canvas;
    graph.clear();
    const node = window.LiteGraph.createNode(type);
    graph.add(node);
    node.pos = [0, 40];
    node.size = [Math.max(340, node.size[0]), node.computeSize()[1]];
    canvas.ds.scale = 1;
    canvas.ds.offset = [120, 160];
    canvas.setDirty(true, true);
    return [120 - 8, 160 + 40 - 38, node.size[0] + 16, node.size[1] + 46];
}"""


def pictures(address: str, chromium: str) -> dict[str, Image.Image]:
    """Every node of the pack, alone on the canvas."""
    from playwright.sync_api import sync_playwright

    client = Client(address)
    client.request("/settings", SETTINGS)
    found: dict[str, Image.Image] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page: Any = browser.new_page(viewport={"width": 900, "height": 1000})
        page.goto(address)
        page.wait_for_function(READY, timeout=90_000)
        page.wait_for_timeout(3000)
        for name in sorted(each for each in client.node_types() if each.startswith("B4M")):
            x, y, width, height = page.evaluate(ALONE, name)
            page.wait_for_timeout(800)
            clip = {"x": x, "y": y, "width": width, "height": min(height, 1000 - y)}
            found[name] = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        browser.close()
    return found


def main(address: str, chromium: str) -> None:
    for name, picture in pictures(address, chromium).items():
        path = DOCS / name / "node.webp"
        picture.save(path, quality=80, method=6)
        print(path, picture.size)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
