"""The nodes as the host calls them: what they save, paint and show."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

Trio = tuple[Any, Any, Any]


@functools.cache
def layers_of(host: ModuleType, core: ModuleType, model: Any) -> dict[str, tuple[int, int]]:
    """The sizes of the layers that an adapter of the model has, by name."""
    return core.Adapter.for_unet(host.training_network(model), core.Facts("content", 1)).shapes()  # type: ignore[no-any-return]


def adapter_for(host: ModuleType, core: ModuleType, mini: Trio, role: str, **facts: Any) -> Any:
    """An adapter of the embedded model with something in every learned part."""
    adapter = core.Adapter.fresh(layers_of(host, core, mini[0]), core.Facts(role, 2, file_dtype="float16", **facts))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for projection in adapter.layers.values():
            for part in projection.parameters():
                part.normal_(std=0.1, generator=generator)
    return adapter.rounded()


def pictures(trigger: str) -> Any:
    made = importlib.import_module("b4m_pack.b4m_core.pictures")
    arrays = [np.random.default_rng([k, *trigger.encode()]).random((64, 64, 3)) for k in range(2)]
    return made.from_arrays(arrays, trigger=trigger, class_word="bird", pattern="a {trigger} {class}")


def test_the_contact_sheet_patches_the_model_once_for_each_column(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_for(host, core, mini, "merged")
    patched: list[Any] = []
    original = host.HostBaseModel.with_adapter
    monkeypatch.setattr(host.HostBaseModel, "with_adapter", lambda self, weights: patched.append(weights) or original(self, weights))
    words = {"prompts": "a house\na car", "size": 64, "seed": 1, "steps": 1, "cfg": 1.0}
    sheet = pack.B4MContactSheet.execute(*mini, adapter, pictures("snq"), pictures("w@z"), **words).result[0]
    assert len(patched) == 3 and sheet.shape[0] == 1 and sheet.shape[-1] == 3
    base = host.HostBaseModel(*mini, sampling=host.Sampling(steps=1, guidance=1.0))
    both = base.sample_with(core.lora_state_dict(adapter), "a car", width=64, height=64, seed=1)
    cell, gap, line = 192, 6, 21
    top, left = sheet.shape[1] - gap - line - gap - cell, gap + 3 * (cell + gap)  # the last row, the last column
    shown = sheet[0, top : top + cell, left : left + cell]
    assert torch.allclose(shown[::3, ::3].mean(dim=(0, 1)), both.mean(dim=(0, 1)), atol=0.05)


@pytest.mark.parametrize("split", ["free", "full", "halves"])
def test_a_compact_adapter_is_saved_once_and_loads_as_what_it_was_taught(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, split: str
) -> None:
    adapter = adapter_for(host, core, mini, "content", split=split)
    names = [pack.B4MSaveAdapter.execute(adapter, f"small_{split}", False, compact).result[1] for compact in (True, True, False)]
    assert names == [f"small_{split}.b4m", f"small_{split}.b4m", f"small_{split}.safetensors"]
    small, whole = (pack.B4MLoadAdapter.execute(name).result[0] for name in (names[0], names[2]))
    assert small.digest() == adapter.compacted().digest() and whole.digest() == adapter.digest()
    assert pack.B4MSaveAdapter.execute(small, f"again_{split}", False).result[0] is small
    assert not core.read_facts(host.safe_lora_path(f"again_{split}.safetensors")).compact
    sizes = [host.safe_lora_path(name).stat().st_size for name in (names[0], names[2])]
    assert sizes[0] < sizes[1]


def test_a_merge_says_what_it_merged_and_whether_two_networks_met_in_it(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio
) -> None:
    content = adapter_for(host, core, mini, "content", base="n1-aa", base_name="one")
    styles = [adapter_for(host, core, mini, "style", base=base, base_name="two") for base in ("n1-aa", "n1-bb")]
    same, other = (pack.B4MMergeAdapters.execute(content, style) for style in styles)
    (said,) = same.ui.as_dict()["text"]
    assert said == "Merged: the content with the style." and "trained on two" in str(other.ui.as_dict())
    assert same.result[0].digest() == other.result[0].digest()


def test_widgets_that_came_later_stand_last_and_may_be_missing_in_older_graphs(pack: ModuleType) -> None:
    for node, name in (
        (pack.B4MTrainContent, "textual_inversion"),
        (pack.B4MTrainStyle, "textual_inversion"),
        (pack.B4MTrain, "textual_inversion"),
        (pack.B4MTrainTogether, "preset"),
        (pack.B4MSaveAdapter, "reduce_rank"),
    ):
        last = node.define_schema().inputs[-1]
        assert last.id == name and last.optional
    save = [each.id for each in pack.B4MSaveAdapter.define_schema().inputs if each.io_type not in ("B4M_ADAPTER", "IMAGE")]
    assert save == ["filename", "replace", "compact", "also_save", "reduce_rank"]


def test_train_together_takes_the_auxiliary_pictures_of_either_training_or_of_both(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, style = (adapter_for(host, core, mini, role) for role in ("content", "style"))
    styles, contents = (pictures("ink"), pictures("neon")), (pictures("owl"),)
    seen: list[tuple[list[str], int]] = []

    def train(plan: Any, base: Any, *others: Any, **named: Any) -> Any:
        seen.append(([each.trigger for each in plan.others], base.room))
        return content

    monkeypatch.setattr(importlib.import_module("b4m_pack.nodes.session"), "train", train)
    fields = {
        "steps": 1,
        "learning_rate": 1e-3,
        "resolution": 64,
        "seed": 0,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "weight_decay": 0.0,
    }
    shown = {"sample_every": 0, "sample_prompt": "", "sample_steps": 1, "sample_cfg": 1.0, "run": "continue or reuse"}
    rest = {"flip": False, "file_dtype": "float32", "preconditioner_damping": 1e-4}
    for given in (
        {},
        {"content_auxiliary": styles},
        {"style_auxiliary": contents},
        {"content_auxiliary": styles, "style_auxiliary": contents},
    ):
        pack.B4MTrainTogether.execute(*mini, content, style, pictures("snq"), pictures("w@z"), **given, **fields, **shown, **rest)
    assert [words for words, _ in seen] == [["w@z"], ["w@z", "ink", "neon"], ["w@z", "owl"], ["w@z", "ink", "neon", "owl"]]
    rooms = [room for _, room in seen]
    assert rooms[0] < rooms[1] == rooms[2] == rooms[3]  # two rows without, four with them


def test_what_keeps_while_training_together_may_be_missing_and_moves_no_widget(pack: ModuleType) -> None:
    inputs = pack.B4MTrainTogether.define_schema().inputs
    assert [each.id for each in inputs if each.optional] == ["content_auxiliary", "style_auxiliary", "preset"]
    assert all(each.io_type == "B4M_AUXILIARY" for each in inputs if each.optional and each.id != "preset")
    assert [each.id for each in inputs if each.id in ("steps", "preconditioner_damping")] == ["steps", "preconditioner_damping"]
    assert inputs[-2].id == "preconditioner_damping"


def test_a_training_that_is_found_again_shows_its_old_curve(
    core: ModuleType, pack: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = importlib.import_module("b4m_pack.nodes.live")
    monkeypatch.setattr(live.shown, "_states", {})
    monkeypatch.setattr(pack.B4MTrainContent, "hidden", SimpleNamespace(unique_id="7", prompt=None))
    fields = {name: value for name, value in core.TrainingSettings().as_dict().items() if name != "max_grad_norm"}  # no widget
    chosen = {"steps": 2, "rank": 2, "gradient_accumulation_steps": 1, "resolution": 64, "split": "full"}
    shown = {"sample_every": 0, "sample_prompt": "", "sample_steps": 1, "sample_cfg": 1.0, "run": "continue or reuse"}
    curves = []
    for _ in range(2):
        trained = pack.B4MTrainContent.execute(*mini, pictures("snq"), None, **{**fields, **chosen, **shown}).result[0]
        newest = list(live.shown._states.values())[-1]
        curves.append((newest["state"], newest["curve"]["steps"], newest["curve"]["raw"]))
    assert trained.facts.split == "full" and [state for state, *_ in curves] == ["done", "reused"]
    assert curves[0][1] == curves[1][1] == [1, 2]
    assert curves[0][2] == pytest.approx(curves[1][2], abs=1e-5)
