"""The free split: dW = A D + B C with nothing frozen, orthogonal where it starts, an exact sum as a merge, and a LoRA of rank r alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
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
    lora_state_dict,
    merge,
    save_adapter,
    train,
)
from b4m_core.basis import frozen_halves
from b4m_core.stacks import stack_layers
from b4m_core.trainings import training

SHAPES = [(8, 8), (12, 8), (9, 9), (7, 10), (5, 13)]
STRENGTHS = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.7, 0.7), (1.3, 2.0)]
OWN = {"content": ("A", "D"), "style": ("B", "C")}


def random_projection(m: int, n: int, rank: int = 3) -> PartlyLearnableProjection:
    projection = PartlyLearnableProjection(m, n, rank, name="layer", seed=2, split="free").double()
    generator = torch.Generator().manual_seed(4)
    for part in projection.parameters():
        part.data = torch.randn(part.shape, generator=generator, dtype=torch.float64)
    return projection


def alone(role: str, fill: int = 1, **facts: object) -> Adapter:
    """An adapter of one concept, as a training that holds it to the base model leaves it."""
    adapter = tiny.small_adapter(role, split="free", fill=fill, **facts)  # type: ignore[arg-type]
    for name, layer in adapter.layers.items():
        start = PartlyLearnableProjection(*layer.shape, layer.rank, name=name, seed=layer.seed, split="free")
        for part in set("ABCD") - set(OWN[role]):
            getattr(layer, part).data.copy_(getattr(start, part))
    return adapter


@pytest.mark.parametrize("m,n", SHAPES)
def test_content_and_style_start_reading_orthogonal_directions_of_the_shared_basis(m: int, n: int) -> None:
    projection = PartlyLearnableProjection(m, n, 2, name="layer", seed=3, split="free")
    readers = frozen_halves(2 * m, 2 * n, 4, name="layer", seed=3)[1]
    assert torch.equal(projection.D, readers[:2]) and torch.equal(projection.C, readers[2:])
    assert not projection.A.any() and not projection.B.any() and not projection.delta_weight().any()


def test_on_a_wide_layer_the_first_directions_are_nearly_orthogonal() -> None:
    projection = PartlyLearnableProjection(64, 1024, 8, name="layer", split="free")
    d, c = projection.D.detach(), projection.C.detach()
    assert float((d @ c.T).abs().max()) < 0.15 * float((d @ d.T).diagonal().min())


@pytest.mark.parametrize("m,n", SHAPES)
def test_all_four_parts_are_learned_and_none_is_frozen(m: int, n: int) -> None:
    projection = PartlyLearnableProjection(m, n, 2, name="layer", split="free")
    assert [name for name, _ in projection.named_parameters()] == ["A", "B", "C", "D"] and not list(projection.buffers())
    assert projection.A.shape == projection.B.shape == (m, 2) and projection.C.shape == projection.D.shape == (2, n)
    assert projection.shape == (m, n) and projection.split.frozen == ()


@pytest.mark.parametrize("m,n", SHAPES)
@pytest.mark.parametrize("content,style", STRENGTHS)
def test_the_update_is_the_sum_of_two_products_scaled_by_the_strengths(m: int, n: int, content: float, style: float) -> None:
    projection = random_projection(m, n)
    up, down = projection.lora_factors(content, style)
    written_out = content * (projection.A @ projection.D) + style * (projection.B @ projection.C)
    assert up.shape == (m, 6) and down.shape == (6, n)
    torch.testing.assert_close(up @ down, written_out, atol=1e-12, rtol=1e-12)
    x = torch.randn(2, 4, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projection(x), x @ projection.delta_weight().T, atol=1e-12, rtol=1e-12)


def test_a_clone_is_of_the_same_split_and_its_own() -> None:
    projection = random_projection(8, 10)
    copy = projection.clone()
    assert copy.split.name == "free" and copy.seed == 2 and torch.equal(copy.delta_weight(), projection.delta_weight())
    assert all(getattr(copy, part).data_ptr() != getattr(projection, part).data_ptr() for part in "ABCD")


def test_a_rank_that_is_too_high_is_refused_with_the_highest_one() -> None:
    PartlyLearnableProjection(8, 8, 7, name="layer", split="free")
    with pytest.raises(B4MError, match="Rank 8 does not fit layer layer: choose a rank from 1 to 7"):
        PartlyLearnableProjection(8, 8, 8, name="layer", split="free")


def test_a_published_start_is_refused() -> None:
    with pytest.raises(B4MError, match="The split free knows the start zero_start and not 'published'"):
        PartlyLearnableProjection(8, 8, 2, name="layer", start="published", split="free")


def test_a_merge_is_the_exact_sum_of_its_two_parts() -> None:
    content, style = (tiny.small_adapter(role, split="free", fill=fill) for role, fill in (("content", 1), ("style", 2)))
    for name, layer in merge(content, style).layers.items():
        left, right = content.layers[name].double(), style.layers[name].double()
        torch.testing.assert_close(layer.double().delta_weight(), left.A @ left.D + right.B @ right.C, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("file_dtype", ["float32", "float16"])
@pytest.mark.parametrize("role", OWN)
def test_a_concept_alone_is_an_ordinary_lora_of_rank_r_and_comes_back(role: str, file_dtype: str, tmp_path: Path) -> None:
    adapter = alone(role, file_dtype=file_dtype).rounded()
    path = save_adapter(adapter, tmp_path / "alone.safetensors")
    up, down = OWN[role]
    tensors = safetensors.torch.load_file(path)
    assert {tuple(tensor.shape) for key, tensor in tensors.items() if key.endswith("up.weight")} == {(8, 2), (10, 2)}
    assert all(float(tensor) == 2 for key, tensor in tensors.items() if key.endswith("alpha"))
    again = load_adapter(path)
    assert again.facts == adapter.facts and again.digest() == adapter.digest() and again.alone() == role
    for name, layer in again.layers.items():
        assert all(torch.equal(getattr(layer, part), getattr(adapter.layers[name], part)) for part in "ABCD")
        assert torch.equal(layer.delta_weight(), adapter.layers[name].delta_weight())
        torch.testing.assert_close(layer.delta_weight(), getattr(layer, up) @ getattr(layer, down))


@pytest.mark.parametrize("role", ["content", "merged", "together"])
def test_an_adapter_of_both_products_has_rank_2r_and_comes_back(role: str, tmp_path: Path) -> None:
    adapter = tiny.small_adapter(role, split="free")
    assert adapter.alone() == "" and lora_state_dict(adapter)[next(iter(lora_state_dict(adapter)))].shape[1] == 4
    again = load_adapter(save_adapter(adapter, tmp_path / "both.safetensors"))
    assert again.facts == adapter.facts and again.digest() == adapter.digest()
    assert all(torch.equal(again.layers[name].delta_weight(), layer.delta_weight()) for name, layer in adapter.layers.items())


@pytest.mark.parametrize("compact", [False, True])
def test_saved_contents_and_styles_merge_to_the_sum_of_their_files(compact: bool, tmp_path: Path) -> None:
    parts = [alone("content", 1), alone("style", 2)]
    files = [tmp_path / "content.safetensors", tmp_path / "style.safetensors"]
    for adapter, file in zip(parts, files, strict=True):
        save_adapter(adapter.compacted() if compact else adapter, file)
    merged = merge(*map(load_adapter, files))
    assert merged.digest() == merge(*parts).digest()
    for name, layer in merged.layers.items():
        torch.testing.assert_close(layer.delta_weight(), sum(part.layers[name].delta_weight() for part in parts))  # type: ignore[arg-type]


def test_strengths_reach_a_concept_alone_too() -> None:
    adapter = alone("content")
    at_half, off = lora_state_dict(adapter, 0.5, 1.0), lora_state_dict(adapter, 0.0, 1.0)
    for name, layer in adapter.layers.items():
        key = next(key for key in at_half if key.endswith("up.weight") and at_half[key].shape[0] == layer.shape[0])
        down = at_half[key.replace("lora_up", "lora_down")]
        torch.testing.assert_close(at_half[key] @ down, 0.5 * layer.A @ layer.D)
        assert not off[key].any(), name


def test_training_together_preconditions_the_whole_pair_and_moves_every_part() -> None:
    adapter = tiny.small_adapter("merged", rank=3, split="free")
    stack = stack_layers(adapter.layers, "cpu")[0]
    optimiser = training("together", "output_preservation").optimiser(
        [stack], TrainingSettings(preconditioner_damping=1e-9, weight_decay=0.0)
    )
    generator = torch.Generator().manual_seed(0)
    gradients = {part: torch.randn(value.shape, generator=generator) for part, value in stack.parts.items()}
    for index, layer in enumerate(stack.layers):
        for part, gradient in gradients.items():
            getattr(layer, part).grad.add_(gradient[index])  # as a backward pass does
    up, down = optimiser.preconditioned(0)  # type: ignore[attr-defined]
    torch.testing.assert_close(up, solved(cat("AB", gradients, -1), cat("DC", stack.parts, -2).mT), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(down, solved(cat("DC", gradients, -2).mT, cat("AB", stack.parts, -1)).mT, atol=1e-3, rtol=1e-3)
    before = {part: value.detach().clone() for part, value in stack.parts.items()}
    optimiser.step()
    for part, value in stack.parts.items():
        assert not torch.equal(value, before[part])
        assert torch.equal(value[0], getattr(stack.layers[0], part))


def cat(names: str, parts: dict[str, Tensor], axis: int) -> Tensor:
    return torch.cat([parts[name].detach() for name in names], axis)


def solved(gradient: Tensor, factor: Tensor) -> Tensor:
    """gradient (factor' factor)^-1 by least squares in double precision."""
    gram = (factor.mT @ factor).double()
    return torch.linalg.solve(gram, gradient.double().mT).mT.float()


@pytest.mark.parametrize("role", OWN)
@pytest.mark.parametrize("partners", [0, 2])
def test_a_training_moves_its_own_product_and_leaves_the_other_at_its_start(role: str, partners: int, tmp_path: Path) -> None:
    base = tiny.TinyBase()
    made = tiny.plan(role, partners=partners, split="free", correspondence="output_preservation", weight_decay=0.5, file_dtype="float16")
    trained = train(made, base, RunStore(tmp_path))
    fresh = Adapter.for_unet(base.unet, trained.facts)
    assert trained.alone() == role and all(layer.split.name == "free" for layer in trained.layers.values())
    for part in "ABCD":
        same = [torch.equal(getattr(layer, part), getattr(fresh.layers[name], part)) for name, layer in trained.layers.items()]
        assert not any(same) if part in OWN[role] else all(same)


def test_all_three_trainings_run_free_and_the_last_moves_every_part(tmp_path: Path) -> None:
    base, store = tiny.TinyBase(), RunStore(tmp_path)
    kept = {"split": "free", "correspondence": "output_preservation", "steps": 2}
    content, style = (train(tiny.plan(role, **kept), base, store) for role in OWN)  # type: ignore[arg-type]
    merged = merge(content, style)
    together = train(tiny.plan("together", adapter=merged, **kept), base, store)  # type: ignore[arg-type]
    assert {adapter.facts.split for adapter in (content, style, together)} == {"free"} and together.alone() == ""
    for name, layer in together.layers.items():
        assert not any(torch.equal(getattr(layer, part), getattr(merged.layers[name], part)) for part in "ABCD")


def test_another_basis_seed_or_rank_is_another_basis_and_training_is_not() -> None:
    def basis(**changes: object) -> str:
        return tiny.small_adapter("content", split="free", **changes).facts.basis  # type: ignore[arg-type]

    assert basis() == basis(fill=2) != basis(seed=1)
    assert basis() != basis(rank=3) and basis() != tiny.small_adapter("content", split="full").facts.basis


def test_the_facts_of_a_free_adapter_need_the_second_format() -> None:
    assert '"format":2' in Facts(role="content", rank=2, split="free").to_json()
