"""Every end of a training on the node itself: whatever is raised, wherever, the display says what happened."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from test_faces import pictures

Trio = tuple[Any, Any, Any]
WIDGETS: dict[str, Any] = {
    "steps": 2,
    "learning_rate": 1e-3,
    "resolution": 64,
    "seed": 3,
    "sample_every": 1,
    "sample_prompt": "",
    "run": "continue or reuse",
    "sample_steps": 1,
    "sample_cfg": 1.0,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0.0,
    "flip": False,
    "file_dtype": "float16",
    "auxiliary_learning_rate": 1e-4,
    "rank": 2,
    "basis_seed": 0,
    "start": "zero_start",
}


@pytest.fixture
def live(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """nodes.live with an empty memory; the nodes are number 7."""
    module = importlib.import_module("b4m_pack.nodes.live")
    monkeypatch.setattr(module, "_unfinished", {})
    monkeypatch.setattr(module.shown, "_states", {})
    for node in pack.NODES:
        node.hidden.unique_id = "7"
    return module


def raising(error: BaseException) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        raise error

    return call


ERRORS = ["cancelled", "ours", "torch", "memory", "interrupt"]


def error_of(live: ModuleType, name: str) -> tuple[BaseException, str]:
    return {
        "cancelled": (live.host.Cancelled(), "stopped"),
        "ours": (live.B4MError("Lower it."), "failed"),
        "torch": (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "failed"),
        "memory": (torch.cuda.OutOfMemoryError("CUDA out of memory."), "failed"),
        "interrupt": (KeyboardInterrupt(), "stopped"),
    }[name]


PLACES = ["encode_pictures", "encode_text", "unet", "sample_with", "network_fingerprint", "release"]
MET = [(place, ERRORS[(number + more) % len(ERRORS)]) for number, place in enumerate(PLACES) for more in (0, 2)]
"""Every place with two errors, every error in two places or three: what an error says does not hang on where it comes from."""


@pytest.mark.parametrize(("place", "name"), MET)
def test_an_error_anywhere_in_a_training_ends_its_display(
    pack: ModuleType, live: ModuleType, mini: Trio, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, state = error_of(live, name)
    broken = property(raising(error)) if place in ("unet", "network_fingerprint") else raising(error)
    monkeypatch.setattr(live.host.HostBaseModel, place, broken)
    seed = 1000 + ERRORS.index(name) * 10 + len(place)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        pack.B4MTrainContent.execute(*mini, pictures("snq"), **(WIDGETS | {"seed": seed}))
    assert isinstance(caught.value, type(error) | live.B4MError)
    known = list(live.shown._states.values())[-1]
    assert known["state"] == state and known["end"] and known["seconds_left"] is None


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_while_the_sample_of_a_reused_training_is_painted_ends_its_display(
    pack: ModuleType, live: ModuleType, mini: Trio, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack.B4MTrainContent.execute(*mini, pictures("snq"), **(WIDGETS | {"seed": 5}))
    assert list(live.shown._states.values())[-1]["state"] in ("done", "reused")
    error, state = error_of(live, name)
    monkeypatch.setattr(live.host.HostBaseModel, "sample_with", raising(error))
    with pytest.raises(type(error)):
        pack.B4MTrainContent.execute(*mini, pictures("snq"), **(WIDGETS | {"seed": 5}))
    known = list(live.shown._states.values())[-1]
    assert known["state"] == state and (name == "ours" or "The training itself was done before and is kept." in known["end"])


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "VRAM grow failed: 126484480 bytes"])
def test_a_sample_whose_adapter_does_not_fit_is_skipped_and_the_training_goes_on(
    pack: ModuleType, live: ModuleType, mini: Trio, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = importlib.import_module("b4m_pack.nodes.session")
    monkeypatch.setattr(session, "lora_state_dict", raising(RuntimeError(words)))
    pack.B4MTrainContent.execute(*mini, pictures("snq"), **(WIDGETS | {"seed": 2000 + len(words), "run": "retrain"}))
    known = list(live.shown._states.values())[-1]
    assert known["state"] == "done" and "The sample at step 2 was skipped" in str(known)
