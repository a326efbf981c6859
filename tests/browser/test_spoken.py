"""What nodes say is seen on them, and what was saved is in every list."""

from __future__ import annotations

import shutil

from host_page import Page

from launcher.server import Server

SAID = "window.app.graph.nodes.filter((each) => each.b4mText).map((each) => [each.type, each.b4mText.text.innerText])"


def test_save_facts_and_merge_say_on_the_node_what_they_did(page: Page, comfyui: Server) -> None:
    page.open()
    style = "lego" if page.nodes_2 else "crayon"  # the host says nothing again of a merge that it has done before
    name = f"mixed_{page.nodes_2}"
    nodes = {
        "content": ("B4MLoadAdapter", (40, 60, 300, 90), {"filename": "(example content) fox"}),
        "style": ("B4MLoadAdapter", (40, 220, 300, 90), {"filename": f"(example style) {style}"}),
        "merge": ("B4MMergeAdapters", (400, 60, 300, 150), {}),
        "facts": ("B4MAdapterFacts", (400, 280, 300, 300), {}),
        "save": ("B4MSaveAdapter", (760, 60, 300, 240), {"filename": name}),
        "host": ("LoraLoader", (760, 400, 300, 150), {}),
    }
    page.build(nodes, [("content", 0, "merge", 0), ("style", 0, "merge", 1), ("merge", 0, "facts", 0), ("merge", 0, "save", 0)])
    page.press_run()
    page.wait("node('B4MSaveAdapter').b4mText.text.innerText.startsWith('Saved as')", seconds=60)
    page.wait("node('B4MAdapterFacts').b4mText.text.innerText.includes('rank')")
    said = dict(page.read(SAID))
    assert said["B4MSaveAdapter"] == f"Saved as {name}.safetensors in the loras folder."
    assert said["B4MMergeAdapters"] == "Merged: snq animal with w@z."
    lines = page.read("[...node('B4MAdapterFacts').b4mText.lines.querySelectorAll('code')].map((each) => each.textContent)")
    assert lines == ["snq animal, w@z", "a snq animal in w@z style"]
    for lister in ("LoraLoader", "B4MLoadAdapter"):
        page.wait(f"node('{lister}').widgets[0].options.values.includes('{name}.safetensors')")
    loras = comfyui.base / "models" / "loras"
    shutil.copy(loras / f"{name}.safetensors", loras / f"brought_{name}.safetensors")
    page.browser_page.evaluate("() => window.dispatchEvent(new Event('focus'))")  # as when the person comes back to the page
    page.wait(f"node('LoraLoader').widgets[0].options.values.includes('brought_{name}.safetensors')")
    page.screenshot("spoken")
    assert page.untidy() == [] and page.alerts() == [] and page.complaints == []
