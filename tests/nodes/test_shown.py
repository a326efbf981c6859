"""Which training a node shows is told by what leads to it, and not by its number; a new server knows it too."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Graph = dict[str, dict[str, Any]]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """nodes.live with an empty memory, nobody listening, and a run store of its own."""
    module = importlib.import_module("b4m_pack.nodes.live")
    forget(module, monkeypatch)
    monkeypatch.setattr(module.host, "send_event", lambda event, payload: None)
    monkeypatch.setattr(module.host, "run_store_folder", lambda: tmp_path)
    monkeypatch.setattr(module.host, "running_page", lambda: "p")  # that whose training goes on
    return module


def forget(live: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server that was started anew."""
    for name in ("_states", "_written"):
        monkeypatch.setattr(live.shown, name, {})


def graph(trainer: str = "6", *, steps: Any = 9, folder: str = "(demo content)") -> Graph:
    """A model, pictures and a trainer."""
    return {
        "1": {"class_type": "B4MMiniModel", "inputs": {}},
        "2": {"class_type": "B4MPictures", "inputs": {"folder": folder, "trigger": "snq"}},
        trainer: {"class_type": "B4MTrainContent", "inputs": {"model": ["1", 0], "pictures": ["2", 0], "steps": steps, "rate": 1.0}},
    }


def started(live: ModuleType, of: Graph, node: str = "6", workflow: str = "w") -> Any:
    hidden = SimpleNamespace(prompt=of, extra_pnginfo={"workflow": {"id": workflow}})
    return live.TrainingDisplay(node, "B4MTrainContent", 9, hidden)


def shown(live: ModuleType, of: Graph, workflow: str = "another", page: str = "p") -> dict[str, Any]:
    asked = json.loads(json.dumps({"prompt": of, "graph": workflow, "page": page}))
    answer: dict[str, Any] = live.shown._answer(asked, live.folder_fingerprint)
    return {name: state["state"] for name, state in answer["nodes"].items()}


def test_a_node_shows_the_training_of_its_own_graph_under_whatever_number(live: ModuleType) -> None:
    started(live, graph()).finish("done", "Done.")
    assert shown(live, graph()) == {"6": "done"}
    assert shown(live, graph(trainer="44")) == {"44": "done"}
    page = graph()
    page["6"]["inputs"]["rate"] = 1  # as a page writes the 1.0 that the host made of it
    assert shown(live, page) == {"6": "done"}


@pytest.mark.parametrize(
    "other", [graph(steps=10), graph(folder="(demo style)"), {**graph(), "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}}}]
)
def test_a_node_of_the_same_number_in_another_graph_shows_nothing_of_it(live: ModuleType, other: Graph) -> None:
    started(live, graph()).finish("done", "Done.")
    assert shown(live, other) == {}


def test_pictures_that_changed_since_make_it_another_training(live: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a": "1"}
    monkeypatch.setattr(live, "folder_fingerprint", lambda folder: files["a"])
    started(live, graph(folder="mine")).finish("done", "Done.")
    assert shown(live, graph(folder="mine")) == {"6": "done"}
    files["a"] = "2"
    assert shown(live, graph(folder="mine")) == {}


def test_a_training_that_goes_on_is_shown_in_its_workflow_though_a_widget_was_changed(live: ModuleType) -> None:
    display = started(live, graph(), workflow="w")
    changed = graph(steps=12)
    assert shown(live, changed, "w") == {"6": "started"}
    assert shown(live, changed, "w", page="another tab") == {}
    assert shown(live, changed, "v") == {} and shown(live, graph(trainer="7", steps=12), "w") == {}
    display.finish("stopped", "Stopped.")
    assert shown(live, changed, "w") == {}


def test_a_new_server_shows_what_an_earlier_one_trained(live: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    display = started(live, graph())
    display.update(9, [0.5] * 9, 0.0)
    display.finish("done", "Done.")
    forget(live, monkeypatch)
    answer = live.shown._answer({"prompt": graph()}, live.folder_fingerprint)["nodes"]["6"]
    assert (answer["state"], answer["step"], len(answer["curve"]["steps"])) == ("done", 9, 9)
    started(live, graph(steps=10))
    forget(live, monkeypatch)
    ended = time.time()
    answer = live.shown._answer({"prompt": graph(steps=10)}, live.folder_fingerprint)["nodes"]["6"]
    assert answer["state"] == "stopped" and "ComfyUI was ended" in answer["end"]
    assert answer["at"] >= ended, "newer than what a page heard before that server ended"


def test_a_damaged_or_foreign_file_and_a_full_disk_show_nothing_and_stop_nothing(
    live: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started(live, graph()).finish("done", "Done.")
    (file,) = (tmp_path / "shown").glob("*.json")
    for text in ("{", "[]", '{"key": "of another"}'):
        file.write_text(text)
        forget(live, monkeypatch)
        assert shown(live, graph()) == {}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(live.shown, "write_atomically", full)
    started(live, graph()).finish("done", "Done.")
    assert shown(live, graph()) == {"6": "done"}


ODD: list[Any] = [
    None,
    [],
    {"6": "text"},
    {"6": {}},
    {"6": {"class_type": "B4MTrainContent"}},
    {"6": {"class_type": "B4MTrainContent", "inputs": {"a": ["6", 0]}}},
    {"6": {"class_type": "B4MTrainContent", "inputs": {"a": ["7", 0]}}, "7": {"class_type": "B4MPictures", "inputs": {"a": ["6", 0]}}},
    {"6": {"class_type": "B4MTrainContent", "inputs": {"folder": "../../etc"}}},
    {"6": {"class_type": "B4MTrainContent", "inputs": {"a": [["x"], 0], "b": [1, 2, 3]}}},
]


@pytest.mark.parametrize("prompt", ODD, ids=range(len(ODD)))
def test_whatever_a_page_asks_is_answered(live: ModuleType, prompt: Any) -> None:
    started(live, graph()).finish("done", "Done.")
    answer = live.shown._answer({"prompt": prompt, "graph": 3, "runs": [1, "x", None]}, live.folder_fingerprint)
    assert answer == {"nodes": {}, "runs": {}}


def test_a_long_chain_of_nodes_is_told_apart_quickly(live: ModuleType) -> None:
    chain = {str(n): {"class_type": "X", "inputs": {"a": [str(n - 1), 0], "b": [str(n - 1), 1]}} for n in range(1, 3000)}
    key = live.shown.graph_key(chain | {"0": {"class_type": "X", "inputs": {"v": 1}}}, "2999", live.folder_fingerprint)
    assert key != live.shown.graph_key(chain | {"0": {"class_type": "X", "inputs": {"v": 2}}}, "2999", live.folder_fingerprint)


def test_a_page_asks_for_a_run_by_its_name(live: ModuleType) -> None:
    display = started(live, graph())
    assert live.shown._answer({"runs": [display.run]}, live.folder_fingerprint)["runs"][display.run]["state"] == "started"
