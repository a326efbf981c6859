"""B4M Train and B4M Paint: the single nodes' work by one node, the host's own picture."""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

Trio = tuple[Any, Any, Any]
STEPS = {"steps": 1, "together_steps": 1, "rank": 2, "resolution": 64, "batch_size": 1, "sample_every": 0, "seed": 0, "preset": "normal"}


def pictures(trigger: str) -> Any:
    made = importlib.import_module("b4m_pack.b4m_core.pictures")
    arrays = [np.random.default_rng([k, *trigger.encode()]).random((64, 64, 3)) for k in range(2)]
    return made.from_arrays(arrays, trigger=trigger, class_word="bird", pattern="a {trigger} {class}")


def defaults(node: Any) -> dict[str, Any]:
    """What the page puts into the widgets of a fresh node."""
    widgets = [each for each in node.define_schema().inputs if hasattr(each, "default")]
    return {each.id: each.options[0] if each.default is None else each.default for each in widgets}


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """Auxiliary pictures that need no painting, by kind."""
    made = {kind: (pictures(f"{kind}1"), pictures(f"{kind}22")) for kind in ("styles", "contents")}
    train_all = importlib.import_module("b4m_pack.nodes.train_all")
    monkeypatch.setattr(train_all, "sample_auxiliary", lambda base, kind, **_: made[kind])
    return made


def hide(node: Any, monkeypatch: pytest.MonkeyPatch, node_id: str) -> None:
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=node_id, prompt=None))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles that are really trained, as they come."""
    training = importlib.import_module("b4m_pack.b4m_core.training")
    roles: list[str] = []
    original = training._trained
    monkeypatch.setattr(training, "_trained", lambda plan, *rest: roles.append(plan.role) or original(plan, *rest))
    return roles


def test_what_one_node_trained_the_single_nodes_reuse_and_the_other_way_round(
    pack: ModuleType, mini: Trio, others: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, node in enumerate((pack.B4MTrain, pack.B4MTrainContent, pack.B4MTrainStyle, pack.B4MTrainTogether)):
        hide(node, monkeypatch, f"all{number}")
    roles = counted(monkeypatch)
    content, style = pictures("snq"), pictures("w@z")
    single = {name: value for name, value in STEPS.items() if name != "together_steps"}
    alone = pack.B4MTrainStyle.execute(*mini, style, others["contents"], **defaults(pack.B4MTrainStyle) | single).result[0]
    assert roles == ["style"]
    both, first, second, _ = pack.B4MTrain.execute(*mini, content, style, **defaults(pack.B4MTrain) | STEPS).result
    assert roles == ["style", "content", "together"] and second.digest() == alone.digest()
    again = pack.B4MTrainContent.execute(*mini, content, others["styles"], **defaults(pack.B4MTrainContent) | single).result[0]
    mixed = defaults(pack.B4MTrainTogether) | {name: value for name, value in single.items() if name != "rank"}
    joined = pack.B4MTrainTogether.execute(*mini, first, second, content, style, **mixed).result[0]
    assert roles == ["style", "content", "together"], "nothing is trained again"
    assert again.digest() == first.digest() and joined.digest() == both.digest()


def test_the_node_shows_the_phases_one_after_another_and_merges_where_the_preset_says_so(
    core: ModuleType, pack: ModuleType, mini: Trio, others: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(pack.B4MTrain, monkeypatch, "phases")
    live = importlib.import_module("b4m_pack.nodes.live")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(live.host, "send_event", lambda event, payload: sent.append(payload))
    quick = defaults(pack.B4MTrain) | STEPS | {"together_steps": -1, "preset": "quick"}
    both, content, style, _ = pack.B4MTrain.execute(*mini, pictures("snq"), pictures("w@z"), **quick).result
    begun = [each["phase"] for each in sent if each.get("state") == "started"]
    assert begun == [("Auxiliary pictures",), ("Content", 1, 2), ("Style", 2, 2)]
    first = next(each["stored"] for each in sent if "stored" in each)
    assert [each["earlier"] for each in sent if "earlier" in each] == [[], [["Content", first]]], "its samples stay in sight"
    assert both.facts.role == "merged" and both.digest() == core.merge(content, style).digest()


def test_sets_that_the_style_would_refuse_are_refused_before_the_content_is_trained(
    pack: ModuleType, mini: Trio, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(pack.B4MTrain, monkeypatch, "refused")
    roles = counted(monkeypatch)
    wrong = (dataclasses.replace(pictures("ink"), kind="styles"),)
    widgets = defaults(pack.B4MTrain) | STEPS | {"correspondence": "multi_correspondence"}
    with pytest.raises(error, match="the style are other styles .* would train the wrong half"):
        pack.B4MTrain.execute(*mini, pictures("snq"), pictures("w@z"), None, wrong, **widgets)
    assert roles == []


@pytest.mark.parametrize("together_steps", [0, 1])
def test_the_last_training_tells_what_was_noticed_of_both_sets(
    pack: ModuleType, mini: Trio, others: dict[str, Any], together_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(pack.B4MTrain, monkeypatch, "told")
    live = importlib.import_module("b4m_pack.nodes.live")
    said: list[tuple[Any, str]] = []
    monkeypatch.setattr(live.host, "send_event", lambda event, payload: said.append((payload.get("phase"), payload.get("note", ""))))
    content, style = pictures("snq"), pictures("w@z")
    both = dataclasses.replace(style, pictures=(*style.pictures, content.pictures[0]))
    pack.B4MTrain.execute(*mini, content, both, **defaults(pack.B4MTrain) | STEPS | {"together_steps": together_steps})
    phases = [number for number, (phase, _) in enumerate(said) if phase]
    told = [number for number, (_, note) in enumerate(said) if "each then learns both" in note]
    assert told and told[0] > phases[-1]


def test_a_picture_is_painted_as_the_hosts_own_nodes_paint_it(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(pack.B4MPaint, monkeypatch, "paint")
    facts = core.Facts("merged", 2, content=core.Concept("snq", "bird"), style=core.Concept("w@z"))
    adapter = core.Adapter.for_unet(host.training_network(mini[0]), facts)
    generator = torch.Generator().manual_seed(1)
    for projection in adapter.layers.values():
        for part in projection.parameters():
            torch.nn.init.normal_(part, std=0.1, generator=generator)
    sampler = {"steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "negative": "grey"}
    picture = pack.B4MPaint.execute(*mini, adapter, "a {content} in {style}", 1.2, 0.7, 5, width=96, height=64, **sampler).result[0]
    assert picture.shape == (1, 64, 96, 3)
    import nodes

    model = pack.B4MApplyAdapter.execute(mini[0], adapter, 1.2, 0.7).result[0]
    with torch.inference_mode():
        texts = [nodes.CLIPTextEncode().encode(mini[1], text)[0] for text in ("a snq bird in w@z style", "grey")]
        (latent,) = nodes.EmptyLatentImage().generate(96, 64)
        (samples,) = nodes.KSampler().sample(model, 5, 2, 3.0, "euler", "normal", *texts, latent)
        (wanted,) = nodes.VAEDecode().decode(mini[2], samples)
    assert torch.equal(picture, wanted.float().cpu())


def test_a_rate_is_taken_as_the_list_or_a_script_gives_it_and_refused_in_a_sentence(pack: ModuleType) -> None:
    for value in ("1e-4", 3e-4, "preset", None):
        assert pack.B4MTrain.validate_inputs(learning_rate=value, together_learning_rate=value) is True
    assert "learning_rate" in pack.B4MTrainContent.validate_inputs(learning_rate="fast")
    assert "preconditioner_damping" in pack.B4MTrainTogether.validate_inputs(preconditioner_damping="x")
