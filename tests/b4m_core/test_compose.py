"""Merging a content with a style, and every pair that must not be merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from b4m_core import Adapter, B4MError, Concept, Facts, PartlyLearnableProjection, load_adapter, merge, save_adapter
from b4m_core.compose import base_note, sum_note

CONTENT = {"base": "a" * 64, "base_name": "mini", "content": Concept("snq", "bear", ("a photo of a snq bear",))}
STYLE = {"base": "a" * 64, "base_name": "mini", "style": Concept("w@z", "drawing", ("a bear in w@z style",))}


def pair(**style_changes: object) -> tuple[Adapter, Adapter]:
    content = tiny.small_adapter("content", fill=1, steps=10, **CONTENT)  # type: ignore[arg-type]
    return content, tiny.small_adapter(**{"role": "style", "fill": 2, "steps": 7, **STYLE, **style_changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("start", ["zero_start", "published"])
def test_a_merge_has_d_of_the_content_and_b_of_the_style_bit_for_bit(start: str) -> None:
    content = tiny.small_adapter("content", fill=1, start=start)
    style = tiny.small_adapter("style", fill=2, start=start)
    merged = merge(content, style)
    for name, layer in merged.layers.items():
        assert torch.equal(layer.D, content.layers[name].D) and torch.equal(layer.B, style.layers[name].B)
        assert torch.equal(layer.A, content.layers[name].A) and torch.equal(layer.C, style.layers[name].C)
        assert not torch.equal(layer.B, content.layers[name].B)


@pytest.mark.parametrize("ranks", [(2, 3), (3, 1)])
def test_free_adapters_of_two_ranks_are_added_up_exactly_and_train_on(ranks: tuple[int, int], tmp_path: Path) -> None:
    content, style = (
        tiny.small_adapter(role, fill=fill, rank=rank, split="free")
        for role, fill, rank in zip(("content", "style"), (1, 2), ranks, strict=True)
    )
    before = content.digest(), style.digest()
    merged = merge(content, style)
    assert merged.facts.rank == 3 and (content.digest(), style.digest()) == before
    assert load_adapter(save_adapter(merged, tmp_path / "both.safetensors")).digest() == merged.digest()
    for name, layer in merged.layers.items():
        for strengths in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.4)):
            alone = content.layers[name].delta_weight(strengths[0], 0.0) + style.layers[name].delta_weight(0.0, strengths[1])
            torch.testing.assert_close(layer.delta_weight(*strengths), alone)
    layer = merged.layers[tiny.LAYER]
    layer(torch.randn(2, 3, 8)).square().sum().backward()
    new = layer.A.grad[:, ranks[0] :] if ranks[0] < 3 else layer.B.grad[:, ranks[1] :]  # type: ignore[index]
    assert new.abs().max() > 0


def test_a_merge_changes_neither_adapter_and_shares_no_memory() -> None:
    content, style = pair()
    before = content.digest(), style.digest()
    merged = merge(content, style)
    for layer in merged.layers.values():
        layer.B.data.zero_()
        layer.D.data.zero_()
    assert (content.digest(), style.digest()) == before


def test_the_facts_of_a_merge_name_both_concepts_and_both_parents() -> None:
    merged = merge(*pair()).facts
    assert merged.role == "merged" and merged.content == CONTENT["content"] and merged.style == STYLE["style"]
    assert merged.steps == 17 and merged.parents == ("content: snq bear", "style: w@z drawing")
    assert merged.base == "a" * 64 and merged.losses == ()


def test_a_merge_in_inference_mode_can_be_trained_afterwards() -> None:
    with torch.inference_mode():
        merged = merge(*pair())
    layer = merged.layers[tiny.LAYER]
    layer(torch.randn(2, 3, 8)).square().sum().backward()
    assert layer.B.grad is not None and not layer.B.is_inference()


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"rank": 3}, {"start": "published"}, {"split": "full"}, {"split": "free"}, {"split": "free", "rank": 5}]
)
def test_adapters_that_share_no_basis_are_added_up_exactly_and_a_note_says_so(changes: dict[str, object]) -> None:
    content, style = pair(**changes)
    (note,) = sum_note(content, style)
    assert "were added up, exactly" in note and sum_note(*pair()) == []
    merged = merge(content, style)
    assert merged.facts.split == "free" and merged.facts.content == CONTENT["content"]
    for name, layer in merged.layers.items():
        for strengths in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.4), (-2.0, 3.0)):
            alone = strengths[0] * content.layers[name].double().delta_weight(1.0, 0.0)
            alone = alone + strengths[1] * style.layers[name].double().delta_weight(0.0, 1.0)
            torch.testing.assert_close(layer.double().delta_weight(*strengths), alone, rtol=0, atol=1e-7)


def test_a_content_in_the_style_input_is_named() -> None:
    with pytest.raises(B4MError, match="A content adapter is plugged into the style input: swap the two"):
        merge(*pair(role="content"))


def test_adapters_of_other_networks_are_merged_and_a_note_names_both() -> None:
    content, style = pair(base="n1-" + "b" * 64, base_name="fine tune")
    assert merge(content, style).facts.base == content.facts.base
    (note,) = base_note(style, "n1-" + "a" * 64, "mini")
    assert "The style adapter was trained on fine tune (bbbbbbbb), not on mini (aaaaaaaa)" in note and "\n" not in note


@pytest.mark.parametrize("base", ["n1-" + "a" * 64, "a" * 64, "b" * 64, ""])
def test_the_same_network_and_fingerprints_of_earlier_versions_are_no_reason_for_a_note(base: str) -> None:
    assert base_note(pair(base=base)[1], "n1-" + "a" * 64, "mini") == []


def test_two_inputs_that_were_swapped_are_named_as_swapped() -> None:
    content, style = pair()
    with pytest.raises(B4MError, match="A style adapter is plugged into the content input: swap the two"):
        merge(style, content)


def test_adapters_of_models_of_different_kinds_are_refused() -> None:
    content, _ = pair()
    wider = PartlyLearnableProjection(8, 9, 2, name=tiny.LAYER, split="halves")
    with pytest.raises(B4MError, match="belong to models of different kinds"):
        merge(content, Adapter({tiny.LAYER: wider}, Facts(role="style", rank=2)))


def test_any_content_fits_any_style_of_the_same_basis() -> None:
    contents = [tiny.small_adapter("content", fill=k) for k in range(3)]
    styles = [tiny.small_adapter("style", fill=k + 5) for k in range(3)]
    assert len({merge(content, style).digest() for content in contents for style in styles}) == 9


def test_a_content_of_one_file_dtype_and_a_style_of_another_lose_nothing() -> None:
    content = tiny.small_adapter("content", fill=1, file_dtype="float16")
    style = tiny.small_adapter("style", fill=2, file_dtype="float32")
    merged = merge(content, style).rounded()
    assert torch.equal(merged.layers[tiny.LAYER].B, style.layers[tiny.LAYER].B)
    assert torch.equal(merged.layers[tiny.LAYER].D, content.layers[tiny.LAYER].D)
