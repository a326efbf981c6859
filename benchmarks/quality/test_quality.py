"""The contest's engine against plain arithmetic: grouped updates, families, optimiser, merges, statistics."""

import numpy as np
import pytest
import torch

from b4m_core import PartlyLearnableProjection
from b4m_core.riemannian import RiemannianAdamW

from . import concepts, metrics
from .families import FAMILIES, Adapters, merged
from .grouped import Factors, GroupedLinear, Segment, Wardrobe
from .merging import choose_by_step, null_space
from .optimiser import ManyAdamW, clip_each
from .statistics import difference, holm, resampled


class Net:
    """Two layers of one shape, as the families see a network."""

    def __init__(self) -> None:
        self.shapes, self.names, self.device = [(12, 10)], [["a.attn1.to_q", "up_blocks.1.attentions.0.attn1.to_q"]], torch.device("cpu")
        self.weights = [torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(5))]


def filled(family: str, groups: int = 3, rank: int = 2) -> Adapters:
    adapters = Adapters.fresh(FAMILIES[family], Net(), rank, groups, seed=0)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for stack in adapters.learned:
        for name in stack:
            stack[name] = torch.randn(stack[name].shape, generator=generator)
    return adapters


def update_of(adapters: Adapters) -> torch.Tensor:
    factors = adapters.factors(frozenset(), torch.float32)
    return factors.up[0] @ factors.down[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_leaves_the_base_model_alone_unless_published(family: str) -> None:
    update = update_of(Adapters.fresh(FAMILIES[family], Net(), 2, 3, seed=0))  # type: ignore[arg-type]
    assert (update.abs().max() > 1e-3) == (family == "published")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_takes_each_concepts_own_tensors(family: str) -> None:
    left, right = filled(family), filled(family)
    for stack in right.learned:
        for name in stack:
            stack[name] = stack[name] + 1
    both = merged(left, [2, 0], right, [1, 1])
    for name in FAMILIES[family].content:
        assert torch.equal(both.learned[0][name][:, 0], left.learned[0][name][:, 2])
    for name in FAMILIES[family].style:
        assert torch.equal(both.learned[0][name][:, 1], right.learned[0][name][:, 1])


@pytest.mark.parametrize("family", ["lora", "free", "full", "tangent", "orthogonal", "no corner", "interleaved", "two inputs"])
def test_strengths_scale_an_exact_sum(family: str) -> None:
    adapters = filled(family)
    alone = update_of(adapters.scaled(1.0, 0.0)), update_of(adapters.scaled(0.0, 1.0))
    torch.testing.assert_close(update_of(adapters.scaled(0.3, 0.8)), 0.3 * alone[0] + 0.8 * alone[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["halves", "published"])
def test_the_halves_are_the_products_own(family: str) -> None:
    adapters = filled(family)
    start = "published" if family == "published" else "zero_start"
    for place, name in enumerate(Net().names[0]):
        projection = PartlyLearnableProjection(12, 10, 2, name=name, seed=0, start=start)
        projection.B.data, projection.D.data = adapters.learned[0]["B"][place, 1], adapters.learned[0]["D"][place, 1]
        torch.testing.assert_close(update_of(adapters)[place, 1], projection.delta_weight().detach(), rtol=1e-5, atol=1e-6)


def test_every_group_wears_its_own_update() -> None:
    linear, wardrobe = torch.nn.Linear(10, 12), Wardrobe(groups=3)
    layer, adapters, x = GroupedLinear(linear, wardrobe, 0, 1), filled("lora"), torch.randn(6, 5, 10)
    wardrobe.segments = [Segment(0, 2, adapters.factors(frozenset(), torch.float32))]
    expected = torch.stack([row @ (linear.weight + update_of(adapters)[1, index // 2]).T + linear.bias for index, row in enumerate(x)])
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    wardrobe.segments = []
    assert torch.equal(layer(x), linear(x))


def test_gates_open_and_close_components_by_step() -> None:
    wardrobe = Wardrobe(groups=3, step=torch.tensor(1))
    layer, factors, x = (
        GroupedLinear(torch.nn.Linear(10, 12), wardrobe, 0, 0),
        filled("lora").factors(frozenset(), torch.float32),
        torch.randn(3, 4, 10),
    )
    gates = torch.zeros(2, 2, 3, 4)
    gates[1, ..., :2] = 1  # in the second step the content's two components alone
    wardrobe.segments = [Segment(0, 1, Factors(factors.up, factors.down, [gates]))]
    alone = filled("lora").scaled(1.0, 0.0)
    torch.testing.assert_close(
        layer(x) - layer.linear(x), torch.stack([row @ update_of(alone)[0, g].T for g, row in enumerate(x)]), rtol=1e-4, atol=1e-5
    )


def test_many_optimisers_step_like_one_each() -> None:
    rates, start = [1e-2, 3e-2], torch.randn(2, 2, 4, 3)
    many = start.clone().requires_grad_()
    ours = ManyAdamW([many], [torch.tensor(rates)])
    singles = [start[:, g].clone().requires_grad_() for g in range(2)]
    theirs = [torch.optim.AdamW([single], lr=rate, weight_decay=1e-2, eps=1e-8) for single, rate in zip(singles, rates, strict=True)]
    for step in range(3):
        gradient = torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(step))
        many.grad = gradient.clone()
        ours.step()
        for g, (single, optimiser) in enumerate(zip(singles, theirs, strict=True)):
            single.grad = gradient[:, g].clone()
            optimiser.step()
    for g, single in enumerate(singles):
        torch.testing.assert_close(many[:, g], single, rtol=1e-5, atol=1e-6)


def test_clipping_is_for_each_adapter_alone() -> None:
    gradients = [torch.full((2, 2, 3), 5.0), torch.full((2, 2, 4), 5.0)]
    gradients[0][:, 1], gradients[1][:, 1] = 1e-3, 1e-3
    clip_each(gradients)
    norms = torch.stack([each.square().sum((0, 2)) for each in gradients]).sum(0).sqrt()
    assert norms[0] == pytest.approx(1.0, rel=1e-4)
    assert gradients[0][0, 1, 0] == pytest.approx(1e-3)


def test_the_metric_of_the_halves_is_the_products_own() -> None:
    adapters = filled("halves", groups=1)
    tensors = {**adapters.learned[0], **adapters.frozen[0]}
    gradients = {name: torch.randn_like(tensors[name]) for name in ("B", "D")}
    pairs = [(tensors["B"][:, 0].clone().requires_grad_(), tensors["D"][:, 0].clone().requires_grad_())]
    pairs[0][0].grad, pairs[0][1].grad = gradients["B"][:, 0].clone(), gradients["D"][:, 0].clone()
    theirs = RiemannianAdamW(pairs, damping=metrics.DAMPING, frozen=[(tensors["A"][:, 0], tensors["C"][:, 0])]).preconditioned(0)
    metrics.of_halves(tensors, gradients)
    for name, expected in zip(("B", "D"), theirs, strict=True):
        torch.testing.assert_close(gradients[name][:, 0], expected, rtol=1e-3, atol=1e-5)


def test_the_null_space_of_the_style_hides_nothing_of_the_style() -> None:
    adapters = filled("lora")
    changed = null_space(adapters, 1.0)
    assert (changed.learned[0]["content_down"] @ adapters.learned[0]["style_down"].mT).abs().max() < 1e-4


def test_choosing_by_step_lets_one_of_the_two_through() -> None:
    factors = choose_by_step(filled("lora"), steps=4, alpha=1.5, beta=0.5)
    assert factors.gates is not None
    content, style = factors.gates[0][..., :2], factors.gates[0][..., 2:]
    assert torch.equal(content + style, torch.ones_like(content))


def test_the_bootstrap_centres_on_the_mean_and_sees_no_difference_in_equals() -> None:
    cells = np.random.default_rng(1).random((3, 6, 4))
    assert resampled(cells).mean() == pytest.approx(cells.mean(), abs=0.01)
    same = difference(cells, cells)
    assert (same.mean, same.low, same.high, same.won, same.lost) == (0.0, 0.0, 0.0, 0, 0)
    better = difference(cells + 0.2, cells)
    assert better.low > 0
    assert better.p == 0.0
    assert better.won == 24


def test_holm_multiplies_by_the_comparisons_left() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_development_and_test_share_nothing() -> None:
    assert not set(concepts.DEVELOPMENT.contents) & set(concepts.TEST.contents)
    assert not set(concepts.DEVELOPMENT.styles) & set(concepts.TEST.styles)
    assert len(concepts.TEST.pairs) == 24
    shown = set(concepts.CONTENT_PLACES) | {place for _, place in concepts.STYLE_PICTURES}
    assert not shown & {place for place, _ in concepts.PROMPTS}
