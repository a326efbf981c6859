"""A smaller rank: nothing is nearer, the error that is told is the true one, and both sliders stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from b4m_core import Adapter, B4MError, Facts, load_adapter, merge, save_adapter
from b4m_core.resize import resized


def adapter_of(kind: str, role: str = "merged", rank: int = 6, **facts: object) -> Adapter:
    known = Facts(role=role, rank=rank, **{**tiny.KINDS[kind], **facts})  # type: ignore[arg-type]
    return tiny.filled(Adapter.for_unet(tiny.tiny_unet(), known), seed=5).rounded()


def distance(left: Adapter, right: Adapter, *strengths: float) -> float:
    """The relative Frobenius difference over all layers."""
    off = whole = 0.0
    for name, layer in left.layers.items():
        update = layer.delta_weight(*strengths).detach().double()
        off += float((right.layers[name].delta_weight(*strengths).detach() - update).square().sum())
        whole += float(update.square().sum())
    return (off / whole) ** 0.5


KINDS = [("free", "merged"), ("full", "together"), ("free", "content"), ("full", "style"), ("zero_start", "content")]


@pytest.mark.parametrize("kind,role", KINDS)
def test_the_error_told_is_that_of_the_whole_and_no_other_product_is_nearer(kind: str, role: str) -> None:
    whole = adapter_of(kind, role)
    small, error = resized(whole, 3)
    assert small.facts.rank == 3 and error == pytest.approx(distance(whole, small), rel=1e-4) and 0.05 < error < 1
    layer = whole.layers[tiny.LAYER.replace("down_blocks.1", "down_blocks.2")]
    sliders = (1, 1) if kind == "zero_start" else (1, 0)  # of halves a content alone is one product, with what helped it train
    content = layer.delta_weight(*sliders).detach()
    values = torch.linalg.svdvals(content.double())[3:]
    mine = small.layers[layer.name].delta_weight(1, 0).detach() - content
    if float(content.abs().max()):
        assert float(mine.norm()) == pytest.approx(float(values.norm()), rel=1e-4)


@pytest.mark.parametrize("kind", ["free", "full"])
def test_the_sliders_are_cut_apart_from_each_other(kind: str) -> None:
    whole = adapter_of(kind)
    small, _ = resized(whole, 3)
    for strengths in ((1.0, 0.0), (0.0, 1.0), (0.5, 1.5)):
        assert distance(whole, small, *strengths) < 0.8
    only = resized(adapter_of(kind).with_facts(), 3)[0].layers
    assert all(torch.equal(only[name].delta_weight(0, 0), torch.zeros(layer.shape)) for name, layer in small.layers.items())


def test_a_product_that_has_no_more_is_kept_exactly() -> None:
    whole = adapter_of("free", rank=6)
    with torch.no_grad():
        for layer in whole.layers.values():
            layer.D[3:] = 0
            layer.C[3:] = 0
    small, error = resized(whole, 3)
    assert error < 1e-6 and distance(whole, small) < 1e-6


def test_a_rank_that_it_has_already_changes_nothing() -> None:
    whole = adapter_of("free", rank=4)
    assert resized(whole, 4) == (whole, 0.0) and resized(whole, 100) == (whole, 0.0)


@pytest.mark.parametrize("kind", ["zero_start", "published"])
def test_where_content_and_style_share_a_block_a_smaller_rank_is_refused(kind: str) -> None:
    with pytest.raises(B4MError, match="content and style share a block.* save this adapter at its own rank"):
        resized(adapter_of(kind, "together"), 3)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(B4MError, match=f"The rank is {rank}"):
        resized(adapter_of("free"), rank)


def test_a_smaller_one_saves_loads_and_merges_like_any_other(tmp_path: Path) -> None:
    small = {role: resized(adapter_of("free", role, file_dtype="float16"), 3)[0] for role in ("content", "style")}
    for role, one in small.items():
        save_adapter(one, tmp_path / f"{role}.safetensors")
        assert load_adapter(tmp_path / f"{role}.safetensors").digest() == one.digest()
    both = merge(*(load_adapter(tmp_path / f"{role}.safetensors") for role in small))
    assert both.facts.rank == 3 and both.facts.role == "merged"
