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
    """nodes.live with an empty memory and a list, `sent`, in place of the server; `known(node)` is the newest state of a node."""
    module = importlib.import_module("b4m_pack.nodes.live")
    module.sent = []
    monkeypatch.setattr(module, "_unfinished", {})
    states: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(module.shown, "_states", states)
    module.known = lambda node: [state for state in states.values() if state["node"] == node][-1]
    monkeypatch.setattr(module.host, "send_event", lambda event, payload: module.sent.append(payload))
    return module


def test_what_was_sent_in_pieces_is_remembered_as_one(live: ModuleType) -> None:
    display = live.TrainingDisplay("1:2:7", "B4MTrainStyle", 10, phase=("Style", 2, 3))
    display.update(10, [0.5] * 10, 0.0)
    for step in (5, 10):
        display.show_sample(torch.rand(8, 8, 3), step)
    display.say("first.")
    display.say("second.")
    display.finish("done", "Saved.")
    node = live.known("1:2:7")
    assert (node["type"], node["state"], node["step"], node["total"]) == ("B4MTrainStyle", "done", 10, 10)
    assert (node["note"], node["end"], node["phase"]) == ("first.\nsecond.", "Saved.", ("Style", 2, 3))
    assert node["sample"]["step"] == 10
    assert {payload["run"] for payload in live.sent} == {display.run}, "each event says of which run it is"


def test_a_new_training_forgets_the_curve_and_sample_of_the_last(live: ModuleType) -> None:
    live.TrainingDisplay("7", "B4MTrainStyle", 10).update(10, [0.5] * 10, 0.0)
    live.TrainingDisplay("7", "B4MTrainStyle", 20)
    assert "curve" not in live.known("7") and live.known("7")["total"] == 20


def test_the_page_is_not_flooded_but_the_last_step_always_arrives(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 1000)
    losses: list[float] = []
    for step in range(1, 201):
        losses.append(1.0)
        display.update(step, losses, None)
    assert len([payload for payload in live.sent if "step" in payload]) < 20
    display.finish("stopped", "Stopped.")
    assert live.known("7")["step"] == 200 and live.known("7")["state"] == "stopped"


def test_the_node_counts_the_pictures_while_they_are_encoded(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 10)
    display.encoding(0, 5)
    display.encoding(1, 5)  # too soon for the page
    assert (live.known("7")["state"], live.known("7")["encoding"]) == ("encoding", [1, 5])
    display.update(10, [0.5] * 10, 0.0)
    assert live.known("7")["state"] == "training"


def test_a_training_that_is_reused_shows_the_curve_that_its_adapter_kept(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 400)
    display.show_losses([1, 3, 400], [0.5, 0.25, 0.125])
    assert live.known("7")["state"] == "painting"
    display.finish("reused", "Reused.")
    known = live.known("7")
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
    assert live.known("7")["type"] == "B4MTrainStyle"


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
    assert live.sent == [] and live.shown._states == {}


def test_the_page_knows_every_training_node_and_every_node_has_help() -> None:
    nodes = importlib.import_module("b4m_pack.nodes")
    root = importlib.import_module("pathlib").Path(nodes.__file__).resolve().parents[1]
    script = (root / "web" / "b4m.js").read_text(encoding="utf-8")
    for node in nodes.NODES:
        name = node.define_schema().node_id
        assert (root / "web" / "docs" / name / "en.md").is_file(), name
        assert "Train" not in name or f'"{name}"' in script


class Ended(BaseException):
    """What no handler of errors catches, as KeyboardInterrupt."""


def endings(live: ModuleType) -> list[tuple[BaseException, str, str]]:
    ours = importlib.import_module("b4m_pack.b4m_core").B4MError
    return [
        (live.host.Cancelled(), "stopped", "Stopped. What was trained is kept: Run goes on from here."),
        (ours("Lower the rank."), "failed", "Lower the rank."),
        (RuntimeError("an illegal access\nCompile with ..."), "failed", "an illegal access (RuntimeError). What was trained is kept"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "failed", "memory ran out"),
        (MemoryError(), "failed", "memory ran out"),
        (KeyError("x"), "failed", "KeyError"),
        (AssertionError(), "failed", "without a word (AssertionError)"),
        (KeyboardInterrupt(), "stopped", "ComfyUI was ended. What was trained is kept"),
        (Ended(), "stopped", "ComfyUI was ended"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_whatever_ends_a_training_ends_its_display_in_words(live: ModuleType, number: int) -> None:
    error, state, sentence = endings(live)[number]
    display = live.TrainingDisplay("7", "B4MTrainContent", 10)
    with pytest.raises(type(error)), display.ending():
        display.update(3, [0.5] * 3, 60.0)
        raise error
    known = live.known("7")
    assert (known["state"], known["step"], known["seconds_left"]) == (state, 3, None)
    assert sentence in known["end"] and "\n" not in known["end"]


def test_a_stop_before_the_first_step_does_not_say_that_something_is_kept(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 10)
    with pytest.raises(live.host.Cancelled), display.ending():
        display.encoding(0, 5)
        raise live.host.Cancelled
    assert live.known("7")["end"] == "Stopped. It had not come to its first step."


def test_a_stop_before_a_further_step_says_what_is_kept_from_before(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 60)
    display.stored_as("a" * 32, 30)
    with pytest.raises(live.host.Cancelled), display.ending():
        raise live.host.Cancelled
    assert live.known("7")["end"] == "Stopped. It had not come to a further step; step 30 is kept: Run goes on from there."


def test_a_stop_while_the_sample_of_a_reused_training_is_painted_says_that_the_training_is_done(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrainContent", 400)
    with pytest.raises(live.host.Cancelled), display.ending():
        display.show_losses([1, 400], [0.5, 0.25])
        raise live.host.Cancelled
    assert live.known("7")["end"] == "Stopped. The training itself was done before and is kept."


def test_the_host_is_to_ask_again_after_a_run_that_was_not_finished_and_only_then(live: ModuleType) -> None:
    seen = [live.unfinished("7")]
    for state in ("done", "stopped", "failed", "reused"):
        live.TrainingDisplay("7", "B4MTrainContent", 10).finish(state, "x")
        seen.append(live.unfinished("7"))
    assert seen[0] == seen[1] and len(set(seen)) == 3 and seen[3] == seen[4]
    assert live.unfinished("8") == live.unfinished(None) == seen[0]


def test_every_training_node_asks_for_its_fingerprint_and_names_its_run(live: ModuleType, pack: ModuleType) -> None:
    for node in (pack.B4MTrainContent, pack.B4MTrainStyle, pack.B4MTrainTogether):
        node.hidden.unique_id = "7"
        before = node.fingerprint_inputs(steps=3, pictures=None)
        live.TrainingDisplay("7", node.__name__, 10).finish("stopped", "x")
        assert node.fingerprint_inputs(steps=3, pictures=None) != before


def test_what_is_cancelled_while_auxiliary_pictures_are_painted_says_that_they_are_kept(live: ModuleType) -> None:
    display = live.TrainingDisplay("7", "B4MTrain", 0, phase=("Auxiliary pictures",))
    with pytest.raises(live.host.Cancelled), display.ending():
        display.auxiliary(2, 8)
        raise live.host.Cancelled
    assert live.known("7")["state"] == "stopped"
    assert live.known("7")["end"] == "Stopped. The auxiliary pictures painted so far are kept: Run paints the rest."
