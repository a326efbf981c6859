"""One layer's update: the blocks of the figure, both starts, strengths, and the exact LoRA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from b4m_core import B4MError, PartlyLearnableProjection

SHAPES = [(8, 8), (12, 8), (8, 14), (9, 9), (7, 10), (11, 6), (5, 13)]
STARTS = ("zero_start", "published")
STRENGTHS = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.5, 1.0), (2.0, 0.25), (0.7, 0.7), (1.3, 2.0), (0.0, 0.3)]


def random_projection(m: int, n: int, rank: int, start: str, dtype: torch.dtype = torch.float64) -> PartlyLearnableProjection:
    projection = PartlyLearnableProjection(m, n, rank, name="layer", seed=2, start=start).to(dtype)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for half in (projection.B, projection.D):
            half.copy_(torch.randn(half.shape, generator=generator, dtype=torch.float64))
    return projection


def figure(projection: PartlyLearnableProjection, content: float, style: float) -> Tensor:
    """[[k A C, A D], [B C, B D]] block by block, with D scaled by the content strength and B by the style strength."""
    a, b, c, d = projection.A, style * projection.B, projection.C, content * projection.D
    corner = max(content, style) * (a @ c) if projection.start == "published" else torch.zeros(len(a), c.shape[1], dtype=a.dtype)
    return torch.cat([torch.cat([corner, a @ d], dim=1), torch.cat([b @ c, b @ d], dim=1)])


@pytest.mark.parametrize("m,n", SHAPES)
def test_each_half_has_the_shape_of_the_paper(m: int, n: int) -> None:
    projection = PartlyLearnableProjection(m, n, 2, name="layer")
    assert projection.A.shape == (m // 2, 2) and projection.B.shape == (m - m // 2, 2)
    assert projection.C.shape == (2, n // 2) and projection.D.shape == (2, n - n // 2)
    assert projection.up().shape == (m, 2) and projection.down().shape == (2, n) and projection.shape == (m, n)


def test_only_b_and_d_are_learned_and_a_and_c_are_not() -> None:
    projection = PartlyLearnableProjection(8, 6, 2, name="layer")
    assert {name for name, _ in projection.named_parameters()} == {"B", "D"}
    assert not projection.A.requires_grad and not projection.C.requires_grad


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("m,n", SHAPES)
@pytest.mark.parametrize("content,style", STRENGTHS)
def test_delta_weight_is_the_figure_block_by_block(m: int, n: int, start: str, content: float, style: float) -> None:
    projection = random_projection(m, n, 3, start)
    torch.testing.assert_close(projection.delta_weight(content, style), figure(projection, content, style), atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("content,style", STRENGTHS)
def test_lora_factors_multiply_to_the_figure_in_double_precision(start: str, content: float, style: float) -> None:
    projection = random_projection(9, 14, 4, start)
    up, down = projection.lora_factors(content, style)
    corner_is_whole = start == "published" and max(content, style) == 1.0
    assert up.shape[1] == down.shape[0] == (4 if corner_is_whole else 8)
    torch.testing.assert_close(up @ down, figure(projection, content, style), atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("start", STARTS)
def test_strengths_of_zero_and_zero_are_the_base_model(start: str) -> None:
    assert torch.count_nonzero(random_projection(8, 10, 3, start).delta_weight(0.0, 0.0)) == 0


def test_content_alone_fills_the_top_right_block_only() -> None:
    delta = random_projection(8, 10, 3, "zero_start").delta_weight(1.0, 0.0)
    assert torch.count_nonzero(delta[:4, 5:]) == 20
    assert torch.count_nonzero(delta) == 20


def test_style_alone_fills_the_bottom_left_block_only() -> None:
    delta = random_projection(8, 10, 3, "zero_start").delta_weight(0.0, 1.0)
    assert torch.count_nonzero(delta[4:, :5]) == 20
    assert torch.count_nonzero(delta) == 20


@pytest.mark.parametrize("m,n", SHAPES)
def test_a_zero_start_leaves_the_base_model_undisturbed(m: int, n: int) -> None:
    projection = PartlyLearnableProjection(m, n, 2, name="layer", start="zero_start")
    assert torch.count_nonzero(projection.delta_weight()) == 0
    assert torch.count_nonzero(projection(torch.randn(3, 5, n))) == 0


def test_a_published_start_has_a_zero_b_and_a_normal_d() -> None:
    projection = PartlyLearnableProjection(640, 640, 64, name="layer", start="published")
    assert torch.count_nonzero(projection.B) == 0
    assert abs(float(projection.D.detach().std()) * 64 - 1) < 0.02 and abs(float(projection.D.detach().mean())) < 1e-3
    assert torch.count_nonzero(projection.delta_weight()[:320]) > 0


def test_a_published_start_is_the_same_whatever_the_global_seed() -> None:
    torch.manual_seed(1)
    first = PartlyLearnableProjection(16, 16, 4, name="layer", seed=3, start="published").D
    torch.manual_seed(2)
    assert torch.equal(first, PartlyLearnableProjection(16, 16, 4, name="layer", seed=3, start="published").D)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("m,n", SHAPES)
def test_applying_a_projection_is_multiplying_by_its_delta_weight(m: int, n: int, start: str) -> None:
    projection = random_projection(m, n, 3, start)
    x = torch.randn(2, 4, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projection(x), x @ figure(projection, 1, 1).T, atol=1e-12, rtol=1e-12)


def test_a_half_precision_input_gives_a_half_precision_output() -> None:
    projection = random_projection(8, 10, 3, "zero_start", torch.float32)
    x = torch.randn(2, 4, 10).bfloat16()
    y = projection(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), x.float() @ figure(projection, 1, 1).T, atol=0.2, rtol=0.05)


def test_a_clone_shares_no_memory_and_has_the_same_numbers() -> None:
    projection = random_projection(8, 10, 3, "published", torch.float32)
    copy = projection.clone()
    for name in "ABCD":
        assert torch.equal(getattr(copy, name), getattr(projection, name))
        assert getattr(copy, name).data_ptr() != getattr(projection, name).data_ptr()
    assert copy.start == "published" and copy.name == "layer" and copy.rank == 3


def test_a_projection_made_and_cloned_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        copy = PartlyLearnableProjection(8, 8, 2, name="layer", start="published").clone()
    copy(torch.randn(2, 3, 8)).square().sum().backward()
    assert copy.D.grad is not None and copy.D.grad.abs().sum() > 0


def test_an_unknown_start_is_refused_in_a_sentence() -> None:
    with pytest.raises(B4MError, match="Unknown start 'zero' for layer layer: choose one of zero_start, published."):
        PartlyLearnableProjection(8, 8, 2, name="layer", start="zero")
