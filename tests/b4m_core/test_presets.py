"""Presets: what they fill in, and what stays as it was set."""

from __future__ import annotations

import pytest

from b4m_core import B4MError, TrainingSettings
from b4m_core.presets import NAMES, PRESETS, filled, kind_of, preset_named

LEFT = {"steps": 0, "rank": 0, "resolution": 0, "batch_size": 0, "gradient_accumulation_steps": 0, "learning_rate": "preset"}


@pytest.mark.parametrize("kind", PRESETS)
@pytest.mark.parametrize("role", ["content", "style", "together"])
def test_every_preset_makes_settings_that_hold_and_a_longer_one_asks_for_more(kind: str, role: str) -> None:
    work = []
    for name in NAMES:
        settings = TrainingSettings(**filled(LEFT, preset_named(name, kind), role))
        work.append(settings.steps * settings.batch_size * settings.gradient_accumulation_steps * settings.resolution**2)
    assert role == "together" or work == sorted(set(work))


def test_what_was_set_by_hand_stays_and_what_a_node_has_not_is_not_added() -> None:
    preset = PRESETS["sdxl"]["thorough"]
    given = {"steps": 7, "learning_rate": "2e-3", "rank": 4, "resolution": 64, "batch_size": 2, "weight_decay": "0"}
    assert filled(given, preset, "style") == {**given, "learning_rate": 2e-3, "weight_decay": 0.0}
    assert filled({"sample_every": -1}, preset, "content") == {"sample_every": preset.apart.sample_every}
    assert filled({"sample_every": 0}, preset, "content") == {"sample_every": 0}


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "preconditioner_damping"])
def test_a_rate_that_is_no_number_is_refused_by_name(name: str) -> None:
    with pytest.raises(B4MError, match=name):
        filled({name: "much"}, PRESETS["sdxl"]["quick"], "content")


def test_a_model_made_for_small_pictures_has_presets_of_its_own_and_an_unknown_family_none() -> None:
    assert (kind_of("sdxl", 192), kind_of("sdxl", 1024)) == ("embedded", "sdxl")
    with pytest.raises(B4MError, match="no presets"):
        kind_of("tiny_flow", 1024)
    with pytest.raises(B4MError, match="quick, normal, thorough"):
        preset_named("best", "sdxl")
