"""What B4M's own scripts cost the page while a training runs on a ComfyUI, in both ways to draw nodes.

    python tests/browser/frames.py http://127.0.0.1:8188 [SECONDS]

Frames and long animation frames (above 50 ms, by the page's own count, with what of them was ours) are taken while a training with
samples runs; then, in as many seconds more, the browser's profiler says how long ours were on the stack. After that each thing that an
event makes ours do is done 200 times and timed alone: where the cores are shared, the median says what it costs, and the longest what
waiting for a core adds. With `nice -n -10` in front the browser waits less.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from host_page import MODE, QUIET, SETTINGS, Page  # noqa: E402
from small_training import WIRES, fresh_seed, nodes, training  # noqa: E402

from launcher import testing  # noqa: E402
from launcher.client import Client  # noqa: E402

WATCH = """() => {
    window.seen = { frames: 0, events: 0, long: [] };
    const count = () => { window.seen.frames++; requestAnimationFrame(count); };
    requestAnimationFrame(count);
    window.app.api.addEventListener("b4m.training", () => window.seen.events++);
    const ours = (entry) => entry.scripts.filter((each) => each.sourceURL.includes("/extensions/b4m/")).map((each) => each.duration);
    const note = (entry) => window.seen.long.push([entry.duration, ...ours(entry)]);
    new PerformanceObserver((list) => list.getEntries().forEach(note)).observe({ type: "long-animation-frame" });
}"""
ALONE = """async (repeats) => {
    const { drawCurve } = await import("/extensions/b4m/b4m_curve.js");
    const node = window.app.graph.nodes.find((each) => each.b4mView);
    const steps = Array.from({ length: 200 }, (_, index) => 20 * index + 1), raw = steps.map(() => Math.random());
    const curve = { steps, raw, smooth: raw.map((value) => value / 2) }, canvas = document.createElement("canvas");
    const state = { node: String(node.id), run: node.b4mRun, state: "training", total: 4000, seconds_left: 60, curve };
    const send = (more) => window.app.api.dispatchEvent(new CustomEvent("b4m.training", { detail: { ...state, ...more } }));
    const url = "data:image/jpeg;base64," + "A".repeat(40000);
    const acts = {
        "a step": (index) => send({ step: index }),
        "a sample": (index) => send({ step: index, sample: { url: url + index, step: index } }),
        "drawing the curve": () => drawCurve(canvas, curve, 4000, [300, 84], "#ddd"),
    };
    const took = {};
    for (const [name, act] of Object.entries(acts)) {
        took[name] = [];
        for (let index = 0; index < repeats; index++) {
            const start = performance.now();
            act(index);
            took[name].push(performance.now() - start);
            if (index % 20 === 0) await new Promise((next) => setTimeout(next));
        }
    }
    return took;
}"""


OURS = "/extensions/b4m/"
SAMPLED_EVERY = 200  # microseconds


def profiled(page: Page, seconds: float) -> str:
    """How long our scripts were on the stack, in all and at a stretch, by the browser's sampling profiler."""
    session = page.browser_page.context.new_cdp_session(page.browser_page)
    session.send("Profiler.enable")
    session.send("Profiler.setSamplingInterval", {"interval": SAMPLED_EVERY})
    session.send("Profiler.start")
    page.browser_page.wait_for_timeout(seconds * 1000)
    profile = session.send("Profiler.stop")["profile"]
    session.detach()
    parents = {child: node["id"] for node in profile["nodes"] for child in node.get("children", ())}
    urls = {node["id"]: node["callFrame"]["url"] for node in profile["nodes"]}

    def ours(node: int | None) -> bool:
        while node is not None and OURS not in urls[node]:
            node = parents.get(node)
        return node is not None

    stretches = [0.0]
    for node, microseconds in zip(profile["samples"], profile["timeDeltas"], strict=True):
        if ours(node):
            stretches[-1] += microseconds / 1000
        elif stretches[-1]:
            stretches.append(0.0)
    return f"by the profiler ours {sum(stretches) / seconds:.1f} ms a second, {max(stretches):.1f} ms at a stretch"


def measured(page: Page, seconds: float) -> str:
    page.open()
    page.build(nodes(seed=fresh_seed(), steps=4000, sample_every=10), WIRES)
    page.press_run()
    training(page)
    page.browser_page.evaluate(WATCH)
    page.browser_page.wait_for_timeout(seconds * 1000)
    seen = page.read("window.seen")
    profile = profiled(page, seconds)
    page.browser_page.evaluate("async () => { await window.app.api.interrupt(); }")
    alone = page.browser_page.evaluate(ALONE, 200)
    longest = max((each[0] for each in seen["long"]), default=0)
    of_ours = max((part for _, *parts in seen["long"] for part in parts), default=0)
    costs = [f"{name} {statistics.median(took):.2f} ms, at most {max(took):.1f} ms" for name, took in alone.items()]
    long = f"{len(seen['long'])} frames above 50 ms, the longest {longest:.0f} ms, ours in one at most {of_ours:.0f} ms"
    return (
        f"{'Nodes 2.0' if page.nodes_2 else 'classic'}, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores: "
        f"{seen['frames'] / seconds:.0f} frames a second, {seen['events'] / seconds:.1f} events a second; "
        f"{long}; {profile}; alone: {'; '.join(costs)}"
    )


def main(address: str, seconds: float) -> None:
    from playwright.sync_api import sync_playwright

    client = Client(address)
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=testing.browser_on_path(), args=QUIET)
        for nodes_2 in (False, True):
            client.request("/settings", SETTINGS | {MODE: nodes_2})
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            print(measured(Page(context.new_page(), address, nodes_2=nodes_2), seconds), flush=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 20.0)
