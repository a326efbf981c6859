"""What a training node tells the page: small, valid JSON, remembered for a page that was reloaded."""

from __future__ import annotations

import base64
import importlib
import io
import json
import math
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """nodes.live with an empty memory and a list, `sent`, in place of the server."""
    module = importlib.import_module("b4m_pack.nodes.live")
    module.sent = []
    monkeypatch.setattr(module, "_latest", {})
    monkeypatch.setattr(module.host, "send_event", lambda event, payload: module.sent.append(payload))
    return module


def test_a_reloaded_page_gets_everything_that_was_sent_in_pieces(live: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    routes: dict[str, Any] = {}
    monkeypatch.setattr(live.host, "add_json_route", routes.__setitem__)
    live.add_routes()
    display = live.TrainingDisplay("1:2:7", "B4MTrainStyle", 10)
    display.update(10, [0.5] * 10, 0.0)
    display.show_sample(torch.rand(8, 8, 3), 10)
    display.say("first.")
    display.say("second.")
    display.finish("done", "Saved.")
    (node,) = routes["/b4m/live"]()["nodes"]
    assert (node["node"], node["type"], node["state"], node["step"], node["total"]) == ("1:2:7", "B4MTrainStyle", "done", 10, 10)
    assert (node["note"], node["end"], node["sample"]["step"]) == ("first.\nsecond.", "Saved.", 10)


def test_a_new_training_forgets_the_curve_and_sample_of_the_last(live: ModuleType) -> None:
    live.TrainingDisplay("7", "B4MTrainStyle", 10).update(10, [0.5] * 10, 0.0)
    live.TrainingDisplay("7", "B4MTrainStyle", 20)
    assert "curve" not in live._latest["7"] and live._latest["7"]["total"] == 20


def test_the_page_is_not_flooded_but_the_last_step_always_arrives(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 1000)
    losses: list[float] = []
    for step in range(1, 201):
        losses.append(1.0)
        display.update(step, losses, None)
    assert len([payload for payload in live.sent if "step" in payload]) < 20
    display.finish("stopped", "Stopped.")
    assert live._latest["7"]["step"] == 200 and live._latest["7"]["state"] == "stopped"


def test_the_node_counts_the_pictures_while_they_are_encoded(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 10)
    display.encoding(0, 5)
    display.encoding(1, 5)  # too soon for the page
    assert (live._latest["7"]["state"], live._latest["7"]["encoding"]) == ("encoding", [1, 5])
    display.update(10, [0.5] * 10, 0.0)
    assert live._latest["7"]["state"] == "training"


def test_a_training_that_is_reused_shows_the_curve_that_its_adapter_kept(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 400)
    display.show_losses([1, 3, 400], [0.5, 0.25, 0.125])
    display.finish("reused", "Reused.")
    known = live._latest["7"]
    assert known["curve"]["steps"] == [1, 3, 400] and known["curve"]["raw"] == [0.5, 0.25, 0.125]
    assert (known["state"], known["step"]) == ("reused", 400)


def test_messages_are_valid_json_even_when_the_loss_is_not_a_number(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 3)
    display.update(3, [math.nan, math.inf, 0.25], 0.0)
    text = json.dumps(live.sent, allow_nan=False)
    assert json.loads(text)[-1]["curve"] == {"steps": [1, 2, 3], "raw": [None, None, 0.25], "smooth": [None, None, 0.25]}


def test_a_curve_of_any_length_has_at_most_two_hundred_points_and_keeps_its_last(live: ModuleType) -> None:
    curve = live.curve([1.0] * 4999 + [3.0], range(1, 5001))
    assert len(curve["steps"]) == len(curve["raw"]) == len(curve["smooth"]) == 200
    assert curve["steps"][-1] == 5000 and curve["raw"][-1] == 3.0 and curve["steps"] == sorted(set(curve["steps"]))
    assert live.curve([], []) == {"steps": [], "raw": [], "smooth": []}


def test_the_page_finds_the_node_though_the_host_runs_a_copy_of_its_class(live: ModuleType) -> None:
    from comfy_api.latest._io import shallow_clone_class

    train = importlib.import_module("b4m_pack.nodes").B4MTrainStyle
    live.TrainingDisplay("7", shallow_clone_class(train).__name__, 3)
    assert live._latest["7"]["type"] == "B4MTrainStyle"


def test_a_smoothed_curve_follows_the_mean_without_a_bias_at_the_start(live: ModuleType) -> None:
    assert live.curve([2.0] * 50, range(50))["smooth"] == [2.0] * 50


def test_a_sample_is_sent_as_a_small_jpeg_of_the_picture(live: ModuleType) -> None:
    picture = torch.zeros(1024, 768, 3)
    picture[:, :, 0] = 1.0
    kind, content = live.data_url(picture).split(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/jpeg;base64" and image.size == (384, 512) and image.getpixel((9, 9))[0] > 250


def test_a_training_outside_a_graph_shows_nothing(live: ModuleType) -> None:
    live.TrainingDisplay(None, "B4MTrainContent", 3).update(3, [1.0], 0.0)
    assert live.sent == [] and live._latest == {}


def test_the_page_knows_every_training_node_and_every_node_has_help() -> None:
    nodes = importlib.import_module("b4m_pack.nodes")
    root = importlib.import_module("pathlib").Path(nodes.__file__).resolve().parents[1]
    script = (root / "web" / "b4m.js").read_text(encoding="utf-8")
    for node in nodes.NODES:
        name = node.define_schema().node_id
        assert (root / "web" / "docs" / name / "en.md").is_file(), name
        assert ("Train" in name) == (f'"{name}"' in script)
