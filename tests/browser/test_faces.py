"""What a node shows of itself at first: few widgets without gaps, a colour, rates as they are, what a training will take."""

from __future__ import annotations

from typing import Any

from host_page import Page

NEW = """(type) => {
    window.app.graph.clear();
    const node = window.LiteGraph.createNode(type);
    node.id = 1;
    window.app.graph.add(node);
    node.pos = [100, 100];
}"""
SHOWN = """() => {
    const node = window.app.graph.getNodeById(1);
    return node.widgets.filter((widget) => node.isWidgetVisible(widget) && !widget.element).map((widget) => widget.name);
}"""
GAPS = """() => {
    const node = window.app.graph.getNodeById(1);
    node.arrange?.();
    const rows = node.widgets.filter((widget) => node.isWidgetVisible(widget) && !widget.element).map((widget) => widget.y);
    return rows.slice(1).map((y, index) => y - rows[index]);
}"""
IN_THE_PAGE = """() => document.querySelector('[data-node-id="1"]').innerText"""
FEW = ["preset", "sample_prompt"]


def test_a_node_shows_few_widgets_and_all_of_them_when_asked(page: Page) -> None:
    page.open()
    browser: Any = page.browser_page
    browser.evaluate(NEW, "B4MTrain")
    page.wait_until_drawn()
    if page.nodes_2:
        text = browser.evaluate(IN_THE_PAGE)
        assert all(name in text for name in FEW) and "weight_decay" not in text
        return
    assert browser.evaluate(SHOWN) == FEW
    assert max(browser.evaluate(GAPS)) <= 30, "what is folded away leaves no gap"
    browser.evaluate("() => window.app.graph.getNodeById(1).toggleAdvanced()")
    assert {"steps", "learning_rate", "weight_decay", *FEW} <= set(browser.evaluate(SHOWN))


def test_content_style_and_both_have_colours_and_a_rate_is_shown_as_it_is(page: Page) -> None:
    page.open()
    colours = set()
    for node_type in ("B4MTrainContent", "B4MTrainStyle", "B4MTrainTogether"):
        page.browser_page.evaluate(NEW, node_type)
        colours.add(page.browser_page.evaluate("() => window.app.graph.getNodeById(1).bgcolor"))
    assert len(colours) == 3 and None not in colours
    value = page.browser_page.evaluate(
        """() => window.app.graph.getNodeById(1).widgets.filter((widget) => /rate|decay|damping/.test(widget.name)).map((w) => w.value)"""
    )
    assert value == ["preset", "1e-2", "1e-4"]


LINE = "() => window.app.graph.nodes.find((node) => node.type === 'B4MTrain').b4mView?.estimate?.textContent ?? ''"
EVENT = """(state) => {
    const node = window.app.graph.nodes.find((node) => node.type === "B4MTrain");
    const detail = { node: String(node.id), type: "B4MTrain", ...state };
    window.app.api.dispatchEvent(new CustomEvent("b4m.training", { detail }));
}"""
SHOWS = """(run) => {
    const node = String(window.app.graph.nodes.find((node) => node.type === "B4MTrain").id);
    window.app.api.dispatchEvent(new CustomEvent("executed", { detail: { node, output: { b4m_run: [run] } } }));
}"""


def test_it_says_what_it_will_take_before_it_runs_and_then_what_is_left_of_all_its_trainings(page: Page) -> None:
    page.open_template("b4m_1_first_minute")
    page.browser_page.wait_for_function(f"() => /^About .* (s|min|h) and .* GB on /.test(({LINE})())", timeout=30_000)
    assert page.complaints == []
    assert page.read("node('B4MTrain').b4mView.root.offsetHeight") > 450, "the display takes the room that its node has"
    page.browser_page.evaluate(EVENT, {"state": "started", "run": "a", "total": 10, "step": 0, "phase": ["Content", 1, 2]})
    page.browser_page.evaluate(SHOWS, "a")
    page.wait("node('B4MTrain').b4mRun === 'a'")
    for state in (
        {"run": "a", "later": 600.0},
        {"run": "a", "state": "training", "step": 5, "seconds_left": 60.0},
        {"run": "of another tab", "state": "started", "total": 90, "step": 0},
        {"run": "of another tab", "state": "training", "step": 5, "seconds_left": 6000.0, "later": 100.0},
    ):
        page.browser_page.evaluate(EVENT, state)
    assert page.browser_page.evaluate(LINE) == "All trainings: about 11 min left"
