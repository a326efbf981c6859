"""Full reach: dW = A D + B C over every row and column, nothing where the two meet, and an exact sum as a merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from b4m_core import (
    Adapter,
    B4MError,
    Facts,
    PartlyLearnableProjection,
    RunStore,
    TrainingSettings,
    load_adapter,
    merge,
    save_adapter,
    train,
)
from b4m_core.stacks import stack_layers
from b4m_core.trainings import training

SHAPES = [(8, 8), (12, 8), (9, 9), (7, 10), (5, 13)]
STRENGTHS = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.7, 0.7), (1.3, 2.0)]


def random_projection(m: int, n: int, rank: int = 3) -> PartlyLearnableProjection:
    projection = PartlyLearnableProjection(m, n, rank, name="layer", seed=2, split="full").double()
    generator = torch.Generator().manual_seed(4)
    for half in (projection.B, projection.D):
        half.data = torch.randn(half.shape, generator=generator, dtype=torch.float64)
    return projection


def written_out(projection: PartlyLearnableProjection, content: float = 1.0, style: float = 1.0) -> Tensor:
    return content * (projection.A @ projection.D) + style * (projection.B @ projection.C)


@pytest.mark.parametrize("m,n", SHAPES)
def test_every_part_reaches_over_all_rows_or_all_columns(m: int, n: int) -> None:
    projection = PartlyLearnableProjection(m, n, 2, name="layer", split="full")
    assert projection.A.shape == projection.B.shape == (m, 2) and projection.C.shape == projection.D.shape == (2, n)
    assert projection.up().shape == (m, 4) and projection.down().shape == (4, n) and projection.shape == (m, n)
    assert {name for name, _ in projection.named_parameters()} == {"B", "D"}


@pytest.mark.parametrize("m,n", SHAPES)
def test_the_frozen_parts_are_disjoint_rows_of_one_orthonormal_matrix(m: int, n: int) -> None:
    projection = PartlyLearnableProjection(m, n, 4, name="layer", split="full").double()
    q = torch.cat([projection.C.T, projection.A])
    torch.testing.assert_close(q.T @ q, torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("m,n", SHAPES)
@pytest.mark.parametrize("content,style", STRENGTHS)
def test_the_update_is_the_sum_of_two_products_scaled_by_the_strengths(m: int, n: int, content: float, style: float) -> None:
    projection = random_projection(m, n)
    up, down = projection.lora_factors(content, style)
    assert up.shape[1] == down.shape[0] == 6
    torch.testing.assert_close(up @ down, written_out(projection, content, style), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(projection.delta_weight(content, style), up @ down)


def test_the_update_is_linear_in_each_strength() -> None:
    projection = random_projection(8, 10)
    content, style = projection.delta_weight(1.0, 0.0), projection.delta_weight(0.0, 1.0)
    torch.testing.assert_close(projection.delta_weight(0.3, 1.7), 0.3 * content + 1.7 * style, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(projection.up() @ projection.down(), content + style, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("m,n", SHAPES)
def test_applying_a_projection_is_multiplying_by_its_update(m: int, n: int) -> None:
    projection = random_projection(m, n)
    x = torch.randn(2, 4, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projection(x), x @ written_out(projection).T, atol=1e-12, rtol=1e-12)


def test_a_fresh_projection_leaves_the_base_model_undisturbed() -> None:
    assert torch.count_nonzero(PartlyLearnableProjection(8, 6, 2, name="layer", split="full")(torch.randn(3, 5, 6))) == 0


def test_a_half_precision_input_gives_a_half_precision_output() -> None:
    projection = random_projection(8, 10).float()
    x = torch.randn(2, 4, 10).bfloat16()
    y = projection(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), x.float() @ written_out(projection).T, atol=0.3, rtol=0.05)


def test_a_clone_is_of_the_same_split() -> None:
    projection = random_projection(8, 10)
    copy = projection.clone()
    assert copy.split.name == "full" and torch.equal(copy.delta_weight(), projection.delta_weight())
    assert all(getattr(copy, part).data_ptr() != getattr(projection, part).data_ptr() for part in "ABCD")


def test_a_published_start_is_refused_since_there_is_no_constant_to_keep() -> None:
    with pytest.raises(B4MError, match="The split full knows the start zero_start and not 'published'"):
        PartlyLearnableProjection(8, 8, 2, name="layer", start="published", split="full")


def test_a_merge_is_the_exact_sum_of_its_two_parts() -> None:
    content, style = tiny.small_adapter("content", split="full", fill=1), tiny.small_adapter("style", split="full", fill=2)
    merged = merge(content, style)
    for name, layer in merged.layers.items():
        left, right = content.layers[name].double(), style.layers[name].double()
        torch.testing.assert_close(layer.double().delta_weight(), left.A @ left.D + right.B @ right.C, atol=1e-9, rtol=1e-9)


def test_two_splits_are_added_up_as_free() -> None:
    content, style = tiny.small_adapter("content", split="full", fill=1), tiny.small_adapter("style", fill=2)
    merged = merge(content, style)
    assert merged.facts.split == "free"
    for name, layer in merged.layers.items():
        both = content.layers[name].double().delta_weight(1.0, 0.0) + style.layers[name].double().delta_weight(0.0, 1.0)
        torch.testing.assert_close(layer.double().delta_weight(), both, atol=1e-7, rtol=0)


def test_a_round_trip_through_a_file_is_bit_exact(tmp_path: Path) -> None:
    adapter = tiny.small_adapter("merged", split="full")
    again = load_adapter(save_adapter(adapter, tmp_path / "full.safetensors"))
    assert again.facts == adapter.facts and again.facts.split == "full" and again.digest() == adapter.digest()
    for name, layer in again.layers.items():
        assert all(torch.equal(getattr(layer, part), getattr(adapter.layers[name], part)) for part in "ABCD")


def test_the_optimiser_of_a_training_together_moves_the_learned_halves_only() -> None:
    adapter = tiny.filled(Adapter.for_unet(tiny.tiny_unet(), Facts(role="merged", rank=4, split="full")))
    before = adapter.clone()
    stacks = stack_layers(adapter.layers, "cpu")
    optimiser = training("together", "multi_correspondence").optimiser(stacks, tiny.settings(weight_decay=0.5))
    for _ in range(3):
        for stack in stacks:
            stack.up.grad, stack.down.grad = torch.ones_like(stack.up), torch.ones_like(stack.down)
        optimiser.step()
    for name, layer in adapter.layers.items():
        was = before.layers[name]
        assert torch.equal(layer.A, was.A) and torch.equal(layer.C, was.C)
        assert not torch.equal(layer.B, was.B) and not torch.equal(layer.D, was.D)


def test_the_preconditioned_gradient_of_d_sends_the_update_to_the_projection_of_its_gradient() -> None:
    """A (A'A)^-1 A' G: the change of dW that is nearest to the gradient G of dW among those that D can make."""
    adapter = tiny.small_adapter("merged", rank=3, split="full")
    stack = stack_layers(adapter.layers, "cpu")[0]
    gradient = torch.randn(*stack.up.shape[:2], stack.down.shape[-1], generator=torch.Generator().manual_seed(0))
    a, c = stack.frozen
    stack.down.grad, stack.up.grad = a.mT @ gradient, gradient @ c.mT
    optimiser = training("together", "multi_correspondence").optimiser([stack], TrainingSettings(preconditioner_damping=1e-9))
    (_, down), (up, _) = (optimiser.preconditioned(index) for index in (0, 1))  # type: ignore[attr-defined]
    nearest_a = a @ torch.linalg.lstsq(a, gradient).solution
    nearest_c = torch.linalg.lstsq(c.mT, gradient.mT).solution.mT @ c
    torch.testing.assert_close(a @ down, nearest_a, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(up @ c, nearest_c, atol=1e-4, rtol=1e-4)


def test_all_three_trainings_run_with_full_reach(tmp_path: Path) -> None:
    base, store = tiny.TinyBase(), RunStore(tmp_path)
    content, style = (train(tiny.plan(role, split="full", steps=2), base, store) for role in ("content", "style"))
    together = train(tiny.plan("together", adapter=merge(content, style), steps=2), base, store)
    assert {adapter.facts.split for adapter in (content, style, together)} == {"full"}
    assert all(layer.split.name == "full" for layer in together.layers.values())
    assert together.learned_numbers() == together.frozen_numbers()
