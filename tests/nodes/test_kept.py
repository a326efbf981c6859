"""What the page is told of the run store, and what a training node leaves there and takes from there."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from test_ends import WIDGETS
from test_faces import pictures

Trio = tuple[Any, Any, Any]
KEY = "0123456789abcdef" * 2


@pytest.fixture
def kept() -> ModuleType:
    return importlib.import_module("b4m_pack.nodes.kept")


@pytest.fixture
def store(core: ModuleType, kept: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run store of its own for the nodes."""
    monkeypatch.setattr(kept.host, "run_store_folder", lambda: tmp_path)
    return core.RunStore(tmp_path)


@pytest.fixture
def live(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page was told, merged; the nodes are number 7."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(importlib.import_module("b4m_pack.nodes.live").host, "send_event", lambda event, payload: told.update(payload))
    for node in pack.NODES:
        node.hidden.unique_id = "7"
    return told


def test_the_steps_of_a_run_are_told_with_their_losses_and_samples_as_json(store: Any, kept: ModuleType) -> None:
    attempt = store.open(KEY).begin()
    attempt.save_state({"x": torch.ones(2)}, 12, [(1, 0.5, 0.0), (12, 0.25, 0.0)])
    attempt.keep_sample(torch.rand(8, 8, 3), 10, loss=0.3)
    told = json.loads(json.dumps(kept.run_kept({"stored": KEY}), allow_nan=False))
    assert told["steps"] == [
        {"step": 10, "loss": 0.3, "sample": True, "adapter": False},
        {"step": 12, "loss": 0.25, "sample": False, "adapter": True},
    ]
    assert told["stored"] == KEY and told["curve"]["steps"] == [1, 12] and told["curve"]["raw"] == [0.5, 0.25]
    with Image.open(io.BytesIO(kept.sample_kept({"stored": KEY, "step": "10"}))) as picture:
        assert picture.format == "JPEG" and picture.size == (8, 8)


def test_the_size_of_the_store_is_told_with_its_folder_and_bound(store: Any, kept: ModuleType) -> None:
    store.open(KEY).begin().save_state({"x": torch.ones(1000)}, 12)
    told = json.loads(json.dumps(kept.store_kept({})))
    assert told["folder"] == str(store.root) and told["most_bytes"] == 20 * 10**9 and 4000 < told["bytes"] < 6000
    assert [(run["stored"], run["step"]) for run in told["runs"]] == [(KEY, 12)]


@pytest.mark.parametrize("key", [None, 7, ["x"], "", "..", "../../../etc", "A" * 32, "a" * 32, "a" * 31 + "\x00", KEY + "/.."])
def test_a_key_that_is_none_or_of_no_run_is_a_sentence(key: Any, store: Any, kept: ModuleType, error: type[Exception]) -> None:
    store.open(KEY).begin().save_state({"x": torch.ones(2)}, 1)
    for ask in (lambda: kept.run_kept({"stored": key}), lambda: kept.sample_kept({"stored": key, "step": "1"})):
        with pytest.raises(error, match="not kept any more: press Run"):
            ask()


@pytest.mark.parametrize("step", [None, "", "-1", "1e3", "../1", "٣", "9" * 50, 3, "4"])
def test_a_step_that_is_none_or_has_no_sample_is_a_sentence(step: Any, store: Any, kept: ModuleType, error: type[Exception]) -> None:
    store.open(KEY).begin().keep_sample(torch.rand(8, 8, 3), 3)
    with pytest.raises(error, match="no sample of that step"):
        kept.sample_kept({"stored": KEY, "step": step})


def test_a_node_keeps_its_samples_names_its_run_and_takes_any_kept_step(
    pack: ModuleType, live: dict[str, Any], kept: ModuleType, store: Any, mini: Trio
) -> None:
    def run(**widgets: Any) -> tuple[Any, dict[str, Any]]:
        output = pack.B4MTrainContent.execute(*mini, pictures("snq"), **(WIDGETS | widgets))
        return output, dict(live)

    output, shown = run(steps=2)
    key = shown["stored"]
    assert output.ui["b4m_stored"] == [key] and shown["state"] == "done"
    told = kept.run_kept({"stored": key})
    assert [(each["step"], each["sample"], each["adapter"]) for each in told["steps"]] == [(1, True, True), (2, True, True)]
    assert output.args[1].shape == (1, 192, 192, 3), "a sample is of the model's own size, whatever was trained at"
    fewer, shown = run(steps=1, sample_every=0)
    assert shown["state"] == "reused" and shown["stored"] == key and fewer.args[0].facts.steps == 1
    taken, shown = run(steps=9, sample_every=0, run="use what is trained")
    assert taken.args[0].digest() == output.args[0].digest() and "at step 2; nothing was trained" in shown["end"]


def test_to_take_what_was_never_trained_is_a_sentence(
    pack: ModuleType, live: dict[str, Any], store: Any, mini: Trio, error: type[Exception]
) -> None:
    with pytest.raises(error, match="Nothing of this is trained yet"):
        pack.B4MTrainContent.execute(*mini, pictures("snq"), **(WIDGETS | {"run": "use what is trained", "seed": 77}))


def test_training_anew_counts_once_on_a_node(pack: ModuleType, live: dict[str, Any], store: Any, mini: Trio) -> None:
    ends = []
    for run, every in (("retrain", 0), ("retrain", 1), ("continue or reuse", 0), ("retrain", 0)):
        pack.B4MTrainContent.execute(*mini, pictures("snq"), **(WIDGETS | {"steps": 1, "run": run, "sample_every": every}))
        ends.append(live["state"])
    assert ends == ["done", "reused", "reused", "done"]
