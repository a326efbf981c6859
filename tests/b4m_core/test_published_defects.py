"""The five places where the published code departs from the paper, each written out as published and told apart from ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from tiny_training import answering
from torch import Tensor
from torch.nn.functional import linear

from b4m_core import Adapter, Facts, PartlyLearnableProjection, Progress, RiemannianAdamW, RunStore, merge, train
from b4m_core.row_split import Rows
from b4m_core.stacks import stack_layers
from b4m_core.trainings import training


def layer(start: str = "zero_start") -> PartlyLearnableProjection:
    projection = PartlyLearnableProjection(8, 8, 2, name="layer", start=start)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        projection.B.copy_(torch.randn(projection.B.shape, generator=generator))
        projection.D.copy_(torch.randn(projection.D.shape, generator=generator))
    return projection


def loss_on(projection: PartlyLearnableProjection, rows: Tensor) -> Tensor:
    return linear(rows, projection.up() @ projection.down()).square().mean()


def gradients_as_published(projection: PartlyLearnableProjection, own: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Two backward passes, each followed by the step and the zero_grad of one half alone: what is left stays for the other."""
    projection.B.grad = projection.D.grad = None
    loss_on(projection, own).backward()
    content = projection.D.grad.clone()  # type: ignore[union-attr]
    projection.D.grad = None
    loss_on(projection, partner).backward()
    return projection.B.grad.clone(), content  # type: ignore[union-attr]


def gradients_of_ours(projection: PartlyLearnableProjection, own: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    projection.B.grad = projection.D.grad = None
    rows = training("content", "multi_correspondence").rows(len(own), len(own) + len(partner))
    out = projection(torch.cat([own, partner]), rows)
    (out[: len(own)].square().mean() + out[len(own) :].square().mean()).backward()
    return projection.B.grad.clone(), projection.D.grad.clone()  # type: ignore[union-attr]


def style_gradient_depends_on_content(gradients: Callable[..., tuple[Tensor, Tensor]]) -> bool:
    generator = torch.Generator().manual_seed(1)
    own, partner = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 3, 8, generator=generator)
    projection = layer("published")
    return not torch.equal(gradients(projection, own, partner)[0], gradients(projection, 3 * own, partner)[0])


def test_defect_one_each_half_is_moved_by_its_own_loss_alone() -> None:
    assert style_gradient_depends_on_content(gradients_as_published)
    assert not style_gradient_depends_on_content(gradients_of_ours)


def stage_two_path(step: Callable[[list[torch.nn.Parameter], RiemannianAdamW, torch.optim.Optimizer], None]) -> list[Tensor]:
    projection = layer()
    halves = [torch.nn.Parameter(projection.B.detach().clone()), torch.nn.Parameter(projection.D.detach().clone())]
    riemannian = RiemannianAdamW([(halves[0], halves[1])], lr=1e-2, frozen=[(projection.A, projection.C)])
    adamw = torch.optim.AdamW(halves, lr=1e-2)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        for half in halves:
            half.grad = torch.randn(half.shape, generator=generator)
        step(halves, riemannian, adamw)
    return [half.detach() for half in halves]


def test_defect_two_the_riemannian_optimiser_really_steps() -> None:
    def published(halves: list[torch.nn.Parameter], riemannian: RiemannianAdamW, adamw: torch.optim.Optimizer) -> None:
        adamw.step()
        for half in halves:
            half.grad = torch.zeros_like(half)  # zero_grad before the Riemannian one: it sees zeros
        for group in riemannian.param_groups:
            group["weight_decay"] = 0.0
        riemannian.step()

    plain = stage_two_path(lambda halves, riemannian, adamw: adamw.step() and None)
    as_published = stage_two_path(published)
    ours = stage_two_path(lambda halves, riemannian, adamw: riemannian.step())
    assert all(torch.equal(left, right) for left, right in zip(as_published, plain, strict=True))
    assert not any(torch.allclose(left, right, atol=1e-4) for left, right in zip(ours, plain, strict=True))


def test_defect_two_training_together_steps_with_the_riemannian_optimiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients: list[float] = []
    original = RiemannianAdamW.step
    monkeypatch.setattr(
        RiemannianAdamW, "step", lambda self: (gradients.append(float(self.param_groups[0]["params"][0].grad.norm())), original(self))
    )
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args: pytest.fail("plain AdamW stepped in stage two"))
    train(tiny.plan("together"), tiny.TinyBase(), RunStore(tmp_path))
    assert len(gradients) == 4 and min(gradients) > 0


def first_adapter_of_stage_two(start: Adapter, tmp_path: Path) -> Adapter:
    """The live adapter of a training together before its first optimiser step."""
    seen: list[Adapter] = []

    def watch(progress: Progress) -> None:
        if progress.adapter is not None:
            seen.append(progress.adapter.clone())
            raise tiny.Cancelled

    with pytest.raises(tiny.Cancelled):
        train(tiny.plan("together", adapter=start), tiny.TinyBase(), RunStore(tmp_path), watch)
    return seen[0]


def constructed_as_published(loaded: Adapter) -> Adapter:
    """The constructor loads the weights and then draws V, and the upper half of U, of every square layer anew."""
    copy = loaded.clone()
    with torch.no_grad():
        for projection in copy.layers.values():
            if projection.shape[0] == projection.shape[1]:
                projection.D.normal_(std=1 / projection.rank, generator=torch.Generator().manual_seed(1))
                projection.C.normal_(generator=torch.Generator().manual_seed(2))
    return copy


def same_bits(left: Adapter, right: Adapter) -> bool:
    pairs = zip(left.layers.values(), right.layers.values(), strict=True)
    return all(torch.equal(getattr(a, half), getattr(b, half)) for a, b in pairs for half in "ABCD")


@pytest.mark.parametrize("start", ["zero_start", "published"])
def test_defect_three_stage_two_begins_with_what_was_loaded_bit_for_bit(start: str, tmp_path: Path) -> None:
    facts = Facts(role="content", rank=4, start=start)
    content = tiny.filled(Adapter.for_unet(tiny.tiny_unet(), facts), seed=1)
    style = tiny.filled(Adapter.for_unet(tiny.tiny_unet(), Facts(role="style", rank=4, start=start)), seed=2)
    merged = merge(content, style)
    began = first_adapter_of_stage_two(merged, tmp_path)
    assert not same_bits(constructed_as_published(merged), merged)
    assert same_bits(began, merged)
    assert all(torch.equal(began.layers[name].D, content.layers[name].D) for name in began.layers)
    assert all(torch.equal(began.layers[name].B, style.layers[name].B) for name in began.layers)


def test_defect_four_weight_decay_never_reaches_the_frozen_halves(tmp_path: Path) -> None:
    projection = layer()
    whole = [torch.nn.Parameter(projection.up().detach()), torch.nn.Parameter(projection.down().detach())]
    published = torch.optim.AdamW(whole, lr=1e-2, weight_decay=1e-2)
    for half in whole:
        half.grad = torch.zeros_like(half)  # the hook that masks the gradient; decay does not ask it
    published.step()
    assert not torch.equal(whole[0][:4], projection.A)

    base, drawn = tiny.TinyBase(), Adapter.for_unet(tiny.tiny_unet(), Facts(role="content", rank=4))
    for role in ("content", "style"):
        trained = train(tiny.plan(role, weight_decay=0.5, learning_rate=1e-1), base, RunStore(tmp_path))
        for name, now in trained.layers.items():
            assert torch.equal(now.A, drawn.layers[name].A) and torch.equal(now.C, drawn.layers[name].C)


@pytest.mark.parametrize("role", ["content", "style", "together"])
def test_defect_four_the_optimiser_of_each_training_holds_learned_halves_only(role: str) -> None:
    adapter = tiny.filled(Adapter.for_unet(tiny.tiny_unet(), Facts(role="merged", rank=4)))
    stacks = stack_layers(adapter.layers, "cpu")
    optimiser = training(role, "multi_correspondence").optimiser(stacks, tiny.settings())
    held = sum(parameter.numel() for group in optimiser.param_groups for parameter in group["params"])
    assert held == adapter.learned_numbers()


class Passes:
    """Counts the forward and the backward passes of a network."""

    forward = backward = 0

    def __call__(self, output: Tensor) -> Tensor:
        self.forward += 1
        output.register_hook(self._count_backward)
        return output

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += 1


@pytest.mark.parametrize("role", ["content", "style", "together"])
def test_defect_five_one_pass_and_one_backward_pass_a_step_and_cached_latents(role: str, tmp_path: Path) -> None:
    """As published: four passes through the network, two backward passes, and one VAE pass for every picture of every step."""
    base, made = tiny.TinyBase(), tiny.plan(role, steps=6)
    passes = Passes()
    with answering(base.unet, passes):
        train(made, base, RunStore(tmp_path))
    micro_steps = 6 * made.settings.gradient_accumulation_steps
    assert (passes.forward, passes.backward) == (micro_steps, micro_steps)
    assert len(base.encoded) == len(made.pictures.pictures) + sum(len(group.pictures) for group in made.others)
    assert sorted(base.read) == sorted({prompt for group in (made.pictures, *made.others) for prompt in group.prompts()})


def test_rows_of_one_training_are_never_empty_for_the_half_it_teaches() -> None:
    for role, half in (("content", "down"), ("style", "up")):
        rows: Rows = training(role, "multi_correspondence").rows(1, 1)
        assert len(range(1)[getattr(rows, half)]) == 1
