"""What the trainings of a graph are said to take, and that they take it."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

Trio = tuple[Any, Any, Any]
MODEL = {"1": {"class_type": "B4MMiniModel", "inputs": {}}}
SMALL = {"resolution": 64, "rank": 4, "batch_size": 1, "sample_every": 0, "sample_steps": 1, "preset": "quick"}


def graph(node_type: str, **inputs: Any) -> dict[str, Any]:
    return {**MODEL, "2": {"class_type": node_type, "inputs": {"model": ["1", 0], **inputs}}}


@pytest.fixture
def estimates(pack: ModuleType, host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(host, "run_store_folder", lambda: tmp_path)
    return importlib.import_module("b4m_pack.nodes.estimates")


def test_a_training_takes_what_the_one_before_lets_expect(
    estimates: ModuleType, pack: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 30 %, which is asked of machines that do nothing else meanwhile: one of three trials must hold."""
    made = importlib.import_module("b4m_pack.b4m_core.pictures")
    rng = np.random.default_rng(0)
    pictures = made.from_arrays([rng.random((64, 64, 3)) for _ in range(2)], trigger="snq", class_word="bird", pattern="{trigger}")
    monkeypatch.setattr(pack.B4MTrainContent, "hidden", SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None))
    widgets = {each.id: each.default for each in pack.B4MTrainContent.define_schema().inputs if getattr(each, "default", None) is not None}
    widgets |= {"run": "continue or reuse", "start": "zero_start", "file_dtype": "float16"} | SMALL
    ratios = []
    for seed in range(4):
        said = estimates._of_node(graph("B4MTrainContent", **SMALL, steps=25), "2")
        before = time.monotonic()
        pack.B4MTrainContent.execute(*mini, pictures, None, **widgets | {"steps": 25, "seed": seed})
        if said["measured"]:
            ratios.append((time.monotonic() - before) / said["seconds"])
    assert len(ratios) == 3
    assert any(0.7 < ratio < 1.4 for ratio in ratios), ratios


def test_convolutions_are_counted_where_they_are_trained(estimates: ModuleType) -> None:
    locon = {"layers": "attention_and_convolutions", "preset": "quick"}
    (alone,) = estimates.works_of(graph("B4MTrainStyle", **locon), "2")
    (plain,) = estimates.works_of(graph("B4MTrainStyle", preset="quick"), "2")
    assert alone.convolutions and not plain.convolutions
    assert {work.convolutions for work in estimates.works_of(graph("B4MTrain", **locon, together_steps=5), "2") if work.passes} == {True}
    for layers, expected in (("attention", False), ("attention_and_convolutions", True)):
        made = graph("B4MTrainContent", **locon | {"layers": layers})
        made |= {"3": {"class_type": "B4MMergeAdapters", "inputs": {"content": ["2", 0], "style": ["9", 0]}}}
        made |= {"4": {"class_type": "B4MTrainTogether", "inputs": {"model": ["1", 0], "content": ["3", 0], "style": ["2", 0]}}}
        assert estimates.works_of(made, "4")[0].convolutions is expected


def test_convolutions_of_a_file_are_counted_where_it_is_trained_on(
    estimates: ModuleType, host: ModuleType, core: ModuleType, pack: ModuleType
) -> None:
    shapes = {"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (8, 8), "down_blocks.0.resnets.0.conv1": (8, 72)}
    for name, kept in (("locon", 2), ("plain", 1), ("nothing", 0)):
        if kept:
            adapter = core.Adapter.fresh(dict(list(shapes.items())[:kept]), core.Facts(role="content", rank=2, split="free"))
            core.save_adapter(adapter, host.safe_new_lora_path(f"estimated_{name}.safetensors"))
        load = {"class_type": "B4MLoadAdapter", "inputs": {"filename": f"estimated_{name}.safetensors"}}
        together = {"class_type": "B4MTrainTogether", "inputs": {"model": ["1", 0], "content": ["3", 0], "style": ["3", 0]}}
        assert estimates.works_of({**MODEL, "3": load, "4": together}, "4")[0].convolutions is (kept == 2)


def test_words_are_counted_where_they_are_learned(estimates: ModuleType) -> None:
    (alone,) = estimates.works_of(graph("B4MTrainStyle", preset="quick", textual_inversion=True, steps=30), "2")
    (plain,) = estimates.works_of(graph("B4MTrainStyle", preset="quick"), "2")
    assert (alone.words, plain.words) == (30, 0)
    three = estimates.works_of(graph("B4MTrain", preset="quick", textual_inversion=True, steps=30, together_steps=5), "2")
    assert [work.words for work in three if work.passes] == [30, 30, 0]


def test_one_node_counts_its_three_trainings_and_what_it_paints(estimates: ModuleType) -> None:
    works = estimates.works_of(graph("B4MTrain", preset="normal"), "2")
    assert [(work.passes, work.rows) for work in works if work.passes] == [(100, 6), (100, 6), (90, 4)]
    assert works[-1].painted == 16 * 25
    quick = estimates.works_of(graph("B4MTrain", preset="quick", content_auxiliary=["1", 0], style_auxiliary=["1", 0]), "2")
    assert len([work for work in quick if work.passes]) == 2 and quick[-1].painted == 0
    small = estimates.works_of(graph("B4MTrain", preset="normal", resolution=64), "2")
    assert {(work.latent_pixels, work.painted_pixels) for work in small if work.passes} == {(8 * 8, 24 * 24)}
    longer = estimates.works_of(graph("B4MTrain", preset="quick", together_steps=7, steps=9), "2")
    assert [work.passes for work in longer if work.passes] == [9, 9, 7]


@pytest.mark.parametrize(("preset", "most"), [("quick", (6, 25)), ("normal", (15, 75)), ("thorough", (60, 240))])
def test_all_trainings_of_an_sdxl_fit_into_an_evening(
    estimates: ModuleType, tmp_path: Path, preset: str, most: tuple[int, int]
) -> None:
    """By arithmetic, in minutes, on an RTX 4090 and an RTX 3060 with their makers' bf16 rates (docs/speed.md)."""
    core = importlib.import_module("b4m_pack.b4m_core.estimate")
    cards = (core.Machine("RTX 4090", "cuda", 165.0, 24 << 30), core.Machine("RTX 3060", "cuda", 25.5, 12 << 30))
    checkpoint = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {}}}
    works = estimates.works_of(checkpoint | {"2": {"class_type": "B4MTrain", "inputs": {"model": ["1", 0], "preset": preset}}}, "2")
    assert {work.kind for work in works} == {"sdxl"}
    for card, minutes in zip(cards, most, strict=True):
        assert sum(core.estimate(work, card, core.Speeds(tmp_path)).seconds for work in works) / 60 < minutes


def test_the_kind_of_model_is_told_by_where_it_comes_from(estimates: ModuleType) -> None:
    through_a_lora = {**MODEL, "3": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0]}}}
    trainer = {"class_type": "B4MTrainStyle", "inputs": {"model": ["3", 0]}}
    assert estimates.works_of({**through_a_lora, "2": trainer}, "2")[0].kind == "embedded"
    other = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {}}, "2": graph("B4MTrainStyle")["2"]}
    assert estimates.works_of(other, "2")[0].kind == "sdxl"


@pytest.mark.parametrize("bad", [{"steps": "many"}, {"steps": None, "preset": "best"}, {"batch_size": "x"}, {"learning_rate": "x"}])
def test_nonsense_in_a_widget_is_estimated_as_nothing(estimates: ModuleType, bad: dict[str, Any]) -> None:
    assert estimates._answer({"prompt": graph("B4MTrain", **bad)}) == {"nodes": {}}
    assert estimates.later(graph("B4MTrain", **bad), "2", 1) == 0.0 and estimates.later(graph("B4MTrain"), "2", 1) > 0
    assert estimates._answer({"prompt": "x"}) == {"nodes": {}}
    assert set(estimates._answer({"prompt": graph("B4MTrain")})["nodes"]["2"]) == {"seconds", "gib", "measured", "machine"}
