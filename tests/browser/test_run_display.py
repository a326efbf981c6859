"""The display on a training node follows the results that the host hands out, not only the trainings that run."""

from __future__ import annotations

from typing import Any

import pytest
from host_page import Page

SEND = """({ event, detail }) => window.app.api.dispatchEvent(new CustomEvent(event, { detail }))"""
NEW_NODE = """() => {
    window.app.graph.clear();
    const node = window.LiteGraph.createNode("B4MTrainContent");
    node.id = 1;
    window.app.graph.add(node);
}"""
RAN = {"node": "1", "type": "B4MTrainContent", "total": 60, "seconds_left": None}


@pytest.fixture
def trainer(page: Page) -> Page:
    """A page with one training node, number 1."""
    page.open()
    page.browser_page.evaluate(NEW_NODE)
    return page


def send(page: Page, event: str, detail: dict[str, Any]) -> None:
    page.browser_page.evaluate(SEND, {"event": event, "detail": detail})


def shown(page: Page) -> str:
    text: str = page.browser_page.evaluate("() => window.app.graph.getNodeById(1).b4mView.root.innerText")
    return text


def trained(page: Page, run: str, state: str, step: int, end: str) -> None:
    send(page, "b4m.training", {**RAN, "state": "started", "run": run, "step": 0})
    show(page, run)
    send(page, "b4m.training", {**RAN, "state": state, "run": run, "step": step, "end": end})


def show(page: Page, run: str) -> None:
    """As the server says of a run that is the node's."""
    send(page, "executed", {"node": "1", "output": {"b4m_run": [run]}})
    page.browser_page.wait_for_function("(run) => window.app.graph.getNodeById(1).b4mRun === run", arg=run, timeout=10_000)


def test_an_older_result_that_the_host_hands_out_shows_what_it_came_to(trainer: Page) -> None:
    trained(trainer, "a", "done", 60, "Done.")
    trained(trainer, "b", "stopped", 17, "Stopped.")
    assert "Stopped at step 17 of 60" in shown(trainer)
    show(trainer, "a")
    assert "Trained, 60 steps" in shown(trainer) and "Stopped" not in shown(trainer)
    trainer.browser_page.evaluate(NEW_NODE)  # one that was put in its place since
    assert "Not trained yet" in shown(trainer)
    show(trainer, "a")
    assert "Trained, 60 steps" in shown(trainer)
    send(trainer, "executed", {"node": "1", "output": None})
    send(trainer, "executed", {"node": "1", "output": {"b4m_run": ["of another server"]}})
    send(trainer, "b4m.training", {**RAN, "state": "training", "run": "of another graph", "step": 3})
    assert "Trained, 60 steps" in shown(trainer)
    assert trainer.complaints == []


def test_a_training_that_a_new_server_does_not_know_of_is_not_shown_as_running(trainer: Page) -> None:
    trained(trainer, "c", "training", 17, "")
    assert "Step 17 of 60" in shown(trainer)
    send(trainer, "reconnected", {})
    stopped = "() => window.app.graph.getNodeById(1).b4mView.root.innerText.includes('Stopped')"
    trainer.browser_page.wait_for_function(stopped, timeout=10_000)
    assert "ComfyUI was ended. Run goes on from what was kept." in shown(trainer)


def test_any_kept_step_is_looked_at_and_taken(trainer: Page) -> None:
    picture = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
    kept = [{"step": step, "loss": 0.5, "sample": step != 30, "adapter": step != 20} for step in (10, 20, 30, 60)]
    page = trainer.browser_page
    page.route("**/b4m/kept", lambda route: route.fulfill(json={"stored": "k", "steps": kept}))
    page.route("**/b4m/kept/sample*", lambda route: route.fulfill(body=b"GIF89a", content_type="image/gif"))
    send(trainer, "b4m.training", {**RAN, "state": "started", "run": "d", "step": 0, "stored": "k"})
    show(trainer, "d")
    send(trainer, "b4m.training", {"node": "1", "run": "d", "state": "done", "step": 60, "sample": {"url": picture, "step": 60}})
    strip = "[...node('B4MTrainContent').b4mView.strip.children].map((each) => each.innerText).join()"
    trainer.wait(f"{strip} === '10,20,60'")
    take = "node('B4MTrainContent').b4mView.take"
    press = "node('B4MTrainContent').b4mView.strip.children[{}].click()"
    assert trainer.read(f"{take}.hidden"), "the newest is the result already"
    trainer.read(press.format(1))
    assert trainer.read(f"{take}.hidden"), "of this step there is a picture alone"
    trainer.read(press.format(0))
    assert "sample at step 10" in shown(trainer) and trainer.read(f"{take}.textContent") == "Use step 10"
    trainer.read("node('B4MTrainContent').b4mView.sample.click()")
    assert "sample at step 10" in page.locator(".b4m-large").inner_text()
    page.keyboard.press("ArrowRight")
    assert "sample at step 20" in page.locator(".b4m-large").inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".b4m-large").count() == 0
    trainer.read(f"{take}.click()")
    assert trainer.read("node('B4MTrainContent').widgets.find((each) => each.name === 'steps').value") == 10
    assert "Run takes that step as it was kept" in shown(trainer) and trainer.complaints == []


def test_a_training_that_ends_before_its_first_step_says_so(trainer: Page) -> None:
    for state, headline in (("stopped", "Stopped before the first step"), ("failed", "Failed before the first step")):
        trained(trainer, state, state, 0, "What was painted is kept.")
        assert headline in shown(trainer) and "0 of" not in shown(trainer)


def test_a_node_without_a_training_says_what_will_appear_there(trainer: Page) -> None:
    assert "The loss curve and sample pictures appear here" in shown(trainer)
    trained(trainer, "e", "training", 3, "")
    assert "appear here" not in shown(trainer)


def test_an_answer_that_an_event_has_overtaken_does_not_bring_back_what_was(trainer: Page) -> None:
    asked = {**RAN, "run": "f", "state": "training", "step": 3, "at": 1.0}
    trainer.browser_page.route("**/b4m/shown", lambda route: route.fulfill(json={"nodes": {"1": asked}, "runs": {}}))
    send(trainer, "b4m.training", {**asked, "state": "started", "step": 0})
    trainer.wait("window.app.graph.getNodeById(1).b4mView.root.innerText.includes('Step 3 of 60')")
    send(trainer, "b4m.training", {"node": "1", "run": "f", "state": "stopped", "end": "Stopped.", "at": 2.0})
    assert "Stopped at step 3 of 60" in shown(trainer)
    with trainer.browser_page.expect_response("**/b4m/shown"):
        send(trainer, "b4m.training", {**RAN, "run": "of another graph", "state": "started", "step": 0, "at": 3.0})
    trainer.browser_page.wait_for_timeout(300)
    assert "Stopped at step 3 of 60" in shown(trainer)


def test_a_shorter_training_shows_its_own_last_sample_though_a_longer_one_kept_more(trainer: Page) -> None:
    kept = [{"step": step, "loss": 0.5, "sample": True, "adapter": True} for step in (10, 20, 30, 60)]
    page = trainer.browser_page
    page.route("**/b4m/kept", lambda route: route.fulfill(json={"stored": "k", "steps": kept}))
    page.route("**/b4m/kept/sample*", lambda route: route.fulfill(body=b"GIF89a", content_type="image/gif"))
    send(trainer, "b4m.training", {**RAN, "state": "started", "run": "g", "total": 20, "step": 0, "stored": "k"})
    show(trainer, "g")
    send(trainer, "b4m.training", {"node": "1", "run": "g", "state": "reused", "step": 20})
    trainer.wait("window.app.graph.getNodeById(1).b4mView.strip.children.length === 4")
    assert "sample at step 20" in shown(trainer) and "Use step" not in shown(trainer)
    trainer.read("window.app.graph.getNodeById(1).b4mView.strip.children[3].click()")
    assert "sample at step 60" in shown(trainer) and "Use step 60" in shown(trainer)


@pytest.mark.parametrize("page", [False], ids=["classic"], indirect=True)  # the same events in both
def test_a_training_that_comes_later_in_the_run_says_so_until_its_turn_or_the_runs_end(trainer: Page) -> None:
    client, workflow = trainer.read("window.app.api.clientId"), trainer.read("window.app.graph.id")
    run = [0, "p", {"1": {}, "2": {}}, {"client_id": client, "extra_pnginfo": {"workflow": {"id": workflow}}}, []]
    trainer.browser_page.route("**/queue", lambda route: route.fulfill(json={"queue_running": [run], "queue_pending": []}))
    turn = "Its turn comes in this run"
    for event, detail in (("execution_cached", {"nodes": ["2", "1"]}), ("executing", "1"), ("execution_interrupted", {})):
        send(trainer, "execution_start", {"prompt_id": "p"})
        trainer.wait(f"window.app.graph.getNodeById(1).b4mView.root.innerText.includes({turn!r})")
        send(trainer, "executing", "2")
        assert turn in shown(trainer), "another node's turn is not its own"
        send(trainer, event, detail)
        assert "Not trained yet" in shown(trainer)
    send(trainer, "execution_start", {"prompt_id": "another page's"})
    trainer.browser_page.wait_for_timeout(300)
    assert "Not trained yet" in shown(trainer)


@pytest.mark.parametrize("page", [False], ids=["classic"], indirect=True)  # the strip is the same part in both
def test_samples_of_the_trainings_before_stay_in_the_strip_of_a_node_that_trains_several_times(trainer: Page) -> None:
    kept = {"of content": (20, 40), "of style": (20,)}

    def answer(route: Any) -> None:
        steps = kept[route.request.post_data_json["stored"]]
        route.fulfill(json={"steps": [{"step": step, "loss": 0.5, "sample": True, "adapter": True} for step in steps]})

    trainer.browser_page.route("**/b4m/kept", answer)
    trainer.browser_page.route("**/b4m/kept/sample*", lambda route: route.fulfill(body=b"GIF89a", content_type="image/gif"))
    style = {"run": "style", "stored": "of style", "phase": ["Style", 2, 2], "earlier": [["Content", "of content"]]}
    send(trainer, "b4m.training", {**RAN, **style, "state": "started", "total": 40, "step": 0})
    show(trainer, "style")
    send(trainer, "b4m.training", {"node": "1", "run": "style", "state": "stopped", "step": 20})
    strip = "window.app.graph.getNodeById(1).b4mView.strip"
    trainer.wait(f"[...{strip}.children].map((each) => each.innerText).join() === '20,40,20'")
    assert "sample at step 20" in shown(trainer) and "Content" not in shown(trainer), "its own newest is shown at first"
    trainer.read(f"{strip}.children[1].click()")
    assert "Content: sample at step 40" in shown(trainer) and "Use step" not in shown(trainer)
    addresses = trainer.read(f"[...{strip}.querySelectorAll('img')].map((each) => new URL(each.src).searchParams.get('stored'))")
    assert addresses == ["of content", "of content", "of style"] and trainer.complaints == []
