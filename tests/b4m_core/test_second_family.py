"""A family that is no UNet goes through the same engine: a flow-matching transformer, all of it in tiny_flow/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from tiny_flow import FLOW, FlowBase, network

from b4m_core import Adapter, B4MError, Facts, Plan, RunStore, load_adapter, lora_state_dict, merge, save_adapter, train
from b4m_core.batches import Batches
from b4m_core.encoding import encode_sets
from b4m_core.models import FAMILIES
from b4m_core.models.family import adapted_layers
from b4m_core.reference import ReferenceTraining
from b4m_core.trainings import training

SHORT = {"steps": 2, "gradient_accumulation_steps": 2, "file_dtype": "float32"}


@pytest.fixture(autouse=True)
def the_family_is_known() -> Iterator[None]:
    """The one row."""
    FAMILIES[FLOW.name] = FLOW
    yield
    del FAMILIES[FLOW.name]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("correspondence", ["output_preservation", "multi_correspondence"])
def test_content_style_merge_together_save_and_load(kind: str, correspondence: str, tmp_path: Path) -> None:
    base, store = FlowBase(), RunStore(tmp_path)
    changes = {**SHORT, **tiny.KINDS[kind], "correspondence": correspondence}
    content, style = (train(tiny.plan(role, **changes), base, store) for role in ("content", "style"))
    merged = merge(content, style)
    auxiliary = 2 if correspondence == "output_preservation" else 0
    together = train(tiny.plan("together", adapter=merged, auxiliary=auxiliary, **changes), base, store)
    for name, adapter in (
        ("content", content),
        ("style", style),
        ("merged", merged),
        ("together", together),
        ("small", content.compacted()),
    ):
        again = load_adapter(save_adapter(adapter, tmp_path / f"{name}.safetensors"))
        assert again.facts == adapter.facts and again.facts.family == FLOW.name and again.digest() == adapter.digest()
    assert together.facts.prediction == "flow" and all(0 < own < 50 for _, own, _ in together.facts.losses)
    first = Adapter.for_unet(base.unet, content.facts)
    taught = content.facts.split_row.content[0]
    for name, layer in content.layers.items():
        assert not torch.equal(getattr(layer, taught), getattr(first.layers[name], taught)), name


def test_its_training_is_the_method_written_out(tmp_path: Path) -> None:
    """The network's answers, its noise and its target are the family's; the sums are the same reference's."""
    made = tiny.plan("content", **SHORT, rank=3, split="free", correspondence="output_preservation", batch_size=2)
    base = FlowBase(torch.float64)
    facts = Facts(role="content", rank=3, split="free", family=FLOW.name, file_dtype="float32")
    first = Adapter.for_unet(base.unet, facts)
    expected, row = first.clone(), training("content", "output_preservation")
    own, *partners = encode_sets(base, [made.pictures, *made.others], 64, primary_sets=1)
    batches = Batches(own, partners, batch_size=2, seed=made.settings.seed, schedule=base.schedule, preserves=True)
    reference = ReferenceTraining(
        base.unet,
        lambda given: FLOW.predict(base.unet, given, torch.float64),
        expected.layers,
        base.schedule,
        row,
        made.settings,
        preserves=True,
    )
    reference.train(batches.draw)
    trained = train(made, base, RunStore(tmp_path))
    for name in trained.layers:
        for part in "AD":
            began, now, wanted = (getattr(each.layers[name], part).detach() for each in (first, trained, expected))
            assert float((now - wanted).norm()) <= 1e-3 * float((wanted - began).norm()), f"{name} {part}"


def test_a_run_that_was_cancelled_goes_on_to_the_same_bytes_and_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    base, made = FlowBase(), tiny.plan("style", **{**SHORT, "steps": 4})
    whole = train(made, FlowBase(), RunStore(tmp_path / "whole"))
    with pytest.raises(tiny.Cancelled):
        train(made, base, RunStore(tmp_path / "cancelled"), tiny.cancel_at(13))
    assert all(torch.equal(weight, base.unet.state_dict()[name]) for name, weight in network().state_dict().items())
    assert train(made, base, RunStore(tmp_path / "cancelled")).digest() == whole.digest()


def test_its_layers_have_names_of_their_own_and_are_no_sdxl_s() -> None:
    paths = [path for path, _ in adapted_layers(FLOW, network())]
    assert len(paths) == 11 and [FLOW.module_path(FLOW.lora_key(path)) for path in paths] == paths
    adapter = Adapter.for_unet(network(), Facts(role="content", rank=2, family=FLOW.name))
    assert {key.rpartition(".lora")[0] or key.removesuffix(".alpha") for key in lora_state_dict(adapter)} == {
        FLOW.lora_key(p) for p in paths
    }
    with pytest.raises(B4MError, match="trained on a model of another kind"):
        adapter.targets(tiny.tiny_unet())
    with pytest.raises(B4MError, match="the network is not an SDXL UNet"):
        Adapter.for_unet(network(), Facts(role="content", rank=2))


def test_an_adapter_of_a_family_that_this_b4m_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    adapter = Adapter.for_unet(network(), Facts(role="content", rank=2, family=FLOW.name))
    path = save_adapter(adapter, tmp_path / "flow.safetensors")
    row = FAMILIES.pop(FLOW.name)
    try:
        with pytest.raises(B4MError, match="models of the family 'tiny_flow', and this B4M knows sdxl: update B4M"):
            load_adapter(path)
    finally:
        FAMILIES[FLOW.name] = row


def test_a_plan_of_another_family_is_another_run() -> None:
    made = Plan("content", tiny.picture_set(1), (), tiny.settings())
    assert made.key(FlowBase()) != made.key(tiny.TinyBase())  # type: ignore[arg-type]
