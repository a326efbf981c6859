"""Settings are checked where they are made, and facts survive their way through JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from b4m_core import B4MError, Concept, Facts, TrainingSettings

FULL = Facts(
    role="together", rank=8, basis_seed=3, basis="ab", start="published", base="cd", base_name="mini", prediction="v_prediction",
    content=Concept("snq", "bear", ("one", "zwei ü")), style=Concept("w@z", "", ("x",)), steps=7, settings={"seed": 1, "flip": False},
    losses=((1.0, 0.5, 0.25),), parents=("a", "b"), file_dtype="bfloat16",
)  # fmt: skip


def test_the_default_settings_are_what_composed_best_and_else_the_paper_s() -> None:
    settings = TrainingSettings()
    assert (settings.split, settings.start, settings.correspondence, settings.rank) == ("free", "zero_start", "output_preservation", 32)
    assert (settings.steps, settings.resolution, settings.gradient_accumulation_steps, settings.batch_size) == (1000, 512, 4, 1)
    assert (settings.learning_rate, settings.auxiliary_learning_rate, settings.weight_decay, settings.max_grad_norm) == (
        1e-4,
        1e-5,
        1e-2,
        1.0,
    )
    assert settings.flip is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": -5},
        {"rank": 0},
        {"batch_size": 0},
        {"gradient_accumulation_steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-4},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"auxiliary_learning_rate": -1e-9},
        {"auxiliary_learning_rate": float("nan")},
        {"auxiliary_learning_rate": float("inf")},
        {"weight_decay": -1.0},
        {"weight_decay": float("inf")},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": float("nan")},
        {"preconditioner_damping": 0.0},
        {"resolution": 500},
        {"resolution": 0},
        {"resolution": 32},
        {"resolution": -64},
        {"start": "zero"},
        {"split": "thirds"},
        {"correspondence": "none"},
        {"file_dtype": "float8"},
        {"steps": 2**40},
        {"steps": "10"},
        {"steps": True},
        {"steps": 1.5},
        {"rank": 10**9},
        {"rank": float("nan")},
        {"batch_size": 2**40},
        {"gradient_accumulation_steps": None},
        {"resolution": 2**40},
        {"resolution": "512"},
        {"seed": 10**30},
        {"seed": "0"},
        {"basis_seed": float("inf")},
        {"learning_rate": "1e-4"},
        {"learning_rate": True},
        {"weight_decay": None},
        {"max_grad_norm": 10**400},
        {"flip": 1},
        {"split": None},
        {"start": ["zero_start"]},
        {"correspondence": 0},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_its_name(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(B4MError, match=name):
        TrainingSettings(**wrong)  # type: ignore[arg-type]


def test_a_whole_number_of_another_kind_is_kept_as_a_plain_one() -> None:
    settings = TrainingSettings(steps=5.0, learning_rate=1)  # type: ignore[arg-type]
    assert type(settings.steps) is int and type(settings.learning_rate) is float
    assert settings == TrainingSettings(steps=5, learning_rate=1.0)


@pytest.mark.parametrize("split", ["full", "free"])
def test_a_published_start_with_another_split_is_refused_in_a_sentence(split: str) -> None:
    with pytest.raises(B4MError, match="start = published belongs to split = halves: choose that split, or zero_start"):
        TrainingSettings(start="published", split=split)


def test_the_paper_s_combination_is_allowed() -> None:
    TrainingSettings(split="halves", start="published", correspondence="multi_correspondence", rank=64)


def test_settings_are_plain_values_for_keys_and_headers() -> None:
    for settings in (TrainingSettings(), TrainingSettings(layers="attention_and_convolutions", textual_inversion=True)):
        assert TrainingSettings(**json.loads(json.dumps(settings.as_dict()))) == settings


def test_facts_come_back_from_json_as_they_were() -> None:
    assert Facts.from_json(FULL.to_json()) == FULL
    for facts in (Facts(role="content", rank=1), Facts(role="content", rank=1, split="full"), dataclasses.replace(FULL, compact=True)):
        assert Facts.from_json(facts.to_json()) == facts


def test_facts_that_format_one_can_say_are_written_as_format_one() -> None:
    assert '"format":1' in FULL.to_json() and "split" not in FULL.to_json() and "compact" not in FULL.to_json()
    assert '"format":2' in dataclasses.replace(FULL, split="full", start="zero_start").to_json()


def test_equal_facts_give_equal_text() -> None:
    turned = dataclasses.replace(FULL, settings={"flip": False, "seed": 1})
    assert turned.to_json() == FULL.to_json() and "zwei ü" in FULL.to_json()


def test_the_summary_names_what_an_artist_asks_for() -> None:
    text = FULL.summary()
    for words in (
        "together adapter, rank 8, 7 steps",
        "mini",
        "content: snq bear",
        "style: w@z",
        "prompt: zwei ü",
        "start published",
        "seed: 1",
        "0.5000",
    ):
        assert words in text


def test_the_summary_of_bare_facts_does_not_fail() -> None:
    assert "unknown" in Facts(role="content", rank=1).summary()


@pytest.mark.parametrize("wrong", [{"role": "both"}, {"file_dtype": "int8"}, {"role": ""}])
def test_facts_of_an_unknown_kind_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(B4MError, match="Unknown"):
        Facts(**{"role": "content", "rank": 1, **wrong})  # type: ignore[arg-type]
