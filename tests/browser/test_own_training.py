"""A node shows the training of its own graph: through a reload, beside another graph, out of its picture."""

from __future__ import annotations

from host_page import Page
from small_training import SHOWN, WIRES, fresh_seed, nodes, trained

from launcher import server


def test_a_training_is_shown_where_its_graph_is_open_and_nowhere_else(page: Page, comfyui: server.Server) -> None:
    seed = fresh_seed()
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
    page.drop_files([picture_file])
    trained(page)  # the picture brings its graph, and the graph its training
    assert page.alerts() == [] and page.complaints == []
