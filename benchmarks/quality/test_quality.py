"""The contest's engine against plain arithmetic: grouped updates, families, optimiser, merges, statistics; every row once, tiny."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from b4m_core import PartlyLearnableProjection
from b4m_core.riemannian import RiemannianAdamW
from benchmarks.world.judge import load_judge

from . import concepts, contest, metrics, references, rows
from .ablate import JOINT, Ablating, read
from .ablation_table import table
from .choose import OURS
from .families import FAMILIES, Adapters, Bank, merged, side_by_side
from .grouped import Factors, GroupedLinear, Segment, Wardrobe
from .merging import choose_by_step, null_space
from .methods import Apart, Contest
from .optimiser import ManyAdamW, clip_each
from .statistics import difference, holm, resampled


class Net:
    """Two layers of one shape, as the families see a network."""

    def __init__(self) -> None:
        self.shapes, self.names, self.device = [(12, 10)], [["a.attn1.to_q", "up_blocks.1.attentions.0.attn1.to_q"]], torch.device("cpu")
        self.text_width = 6
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


@pytest.mark.parametrize(
    "family",
    ["lora", "free", "full", "full, swapped", "tangent", "orthogonal", "no corner", "within heads", "interleaved", "two inputs"],
)
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
        layer(x) - layer.layer(x), torch.stack([row @ update_of(alone)[0, g].T for g, row in enumerate(x)]), rtol=1e-4, atol=1e-5
    )


def test_with_a_bank_every_row_wears_a_partner_of_its_own() -> None:
    linear, wardrobe, picked = torch.nn.Linear(10, 12), Wardrobe(groups=3), torch.tensor([[1, 0], [0, 0], [1, 1]])
    layer, mine, partners, x = GroupedLinear(linear, wardrobe, 0, 1), filled("free"), filled("free", groups=2), torch.randn(6, 5, 10)
    for stack in partners.learned:
        stack.update({name: value + 1 for name, value in stack.items()})
    names = FAMILIES["free"].style
    wardrobe.segments = [Segment(0, 2, mine.wearing(Bank(partners, names), picked, frozenset(), torch.float32))]
    update = update_of(merged(mine, [0, 0, 1, 1, 2, 2], partners, picked.flatten().tolist()))[1]
    expected = torch.stack([row @ (linear.weight + update[index]).T + linear.bias for index, row in enumerate(x)])
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_side_by_side_every_family_makes_its_own_update() -> None:
    several = [filled("halves", groups=2), filled("interleaved", groups=1), filled("halves, minor", groups=2)]
    torch.testing.assert_close(update_of(side_by_side(several)), torch.cat([update_of(each) for each in several], 1))


def test_interleaved_halves_take_turns() -> None:
    update = update_of(filled("interleaved"))
    assert update[..., ::2, ::2].abs().max() == update[..., 1::2, 1::2].abs().max() == 0
    assert update[..., ::2, 1::2].abs().min() > 0


def test_the_starts_differ_in_what_they_say() -> None:
    def down(family: str) -> torch.Tensor:
        return Adapters.fresh(FAMILIES[family], Net(), 2, 3, seed=0).learned[0]["content_down"]  # type: ignore[arg-type]

    for family, shared in (("free", True), ("shared random", True), ("lora", False), ("own orthogonal", False)):
        assert torch.equal(down(family)[:, 0], down(family)[:, 1]) == shared
    gram = down("own orthogonal") @ down("own orthogonal").mT
    torch.testing.assert_close(gram, (torch.eye(2) * 10 / 22).expand_as(gram), rtol=1e-4, atol=1e-5)


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


@pytest.fixture(scope="module")
def tiny() -> Iterator[Contest]:
    """One development pair on the embedded model, so small that a training or a picture takes a moment: it only proves that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (references, "SIZE", 64),
            (rows, "STEPS", 2),
            (contest, "EXAMINED", ("sum of LoRAs",)),
            (contest, "FRONTIER", contest.FRONTIER[:1]),
            (concepts, "PROMPTS", concepts.PROMPTS[:1]),
            (concepts, "NOISES", concepts.NOISES[:1]),
            (concepts, "AUXILIARY_PICTURES", 1),
            (concepts, "AUXILIARY_STYLES", concepts.AUXILIARY_STYLES[:2]),
        ):
            patch.setattr(module, name, value)
        studio = references.Studio(Path(__file__).resolve().parents[2] / "mini", torch.device("cpu"))
        studio.sampling = references.Sampling(steps=2)
        split = concepts.Split(concepts.DEVELOPMENT_CONTENTS[:1], concepts.DEVELOPMENT_STYLES[:1])
        yield Contest(studio, {name: load_judge(name) for name in ("first", "second")}, split, (0,), most_steps=1)


def test_every_row_runs(tiny: Contest, tmp_path: Path) -> None:
    chosen = json.loads((Path(__file__).parent / "results" / "chosen.json").read_text(encoding="utf-8"))
    running = contest.Running(tiny, tmp_path, rows.rows(tiny, chosen), 1e9)
    running.run([])
    assert [name for name in running.table if not (tmp_path / "rows" / f"{contest.slug(name)}.safetensors").exists()] == []


def test_ablations_go_on_where_they_were(tiny: Contest, tmp_path: Path) -> None:
    ablating = Ablating(tiny, tmp_path, 1e9)
    ablating.run(["steps together"])
    lines = read(ablating.file)
    ablating.run(["steps"])
    assert read(ablating.file) == lines
    assert [line["name"] for line in lines] == ["0", "20", "50", "100", "150", "500"]
    assert lines[1]["preconditioning"]
    assert sum(row.startswith("| 150 |") for row in table(lines)) == 1


def test_families_trained_as_one_batch_are_as_if_alone(tiny: Contest) -> None:
    several = [Apart(family=family, rows=(1, 0)) for family in ("halves", "no corner")]
    together, alone = tiny.with_seeds((0,)), tiny.with_seeds((0,))
    together.prepare(several)
    alone.prepare(several[1:])
    trained, expected = together.done[several[1], "style"], alone.done[several[1], "style"]
    assert trained.family is expected.family
    # where a gradient is next to nothing, rounding decides which way AdamW's first step goes
    assert ((trained.learned[0]["B"] - expected.learned[0]["B"]).abs() > 1e-5).float().mean() < 1e-3


def test_a_training_with_a_bank_differs_from_one_without(tiny: Contest) -> None:
    alone = Apart(family="halves", rows=(1, 0))
    for role, name in (("content", "D"), ("style", "B")):
        without, within = (tiny._apart([each], role, tiny.contents, [0])[0] for each in (alone, dataclasses.replace(alone, bank=True)))
        assert not torch.equal(without.learned[0][name], within.learned[0][name])
        assert tiny.done[alone, "bank of styles" if role == "content" else "bank of contents"].count == 2


def test_a_longer_joint_training_contains_the_shorter(tiny: Contest) -> None:
    two_steps = tiny.with_seeds((0,))
    two_steps.most_steps = 2
    start = tiny.merge(OURS)
    found, alone = two_steps.lengths(start, JOINT, (1, 2)), two_steps.lengths(start, JOINT, (1,))
    for stack, single, longer in zip(found[1].learned, alone[1].learned, found[2].learned, strict=True):
        torch.testing.assert_close(stack["content_up"], single["content_up"])
        assert not torch.equal(stack["content_up"], longer["content_up"])


def test_what_is_known_by_its_kinds_has_a_class_word() -> None:
    assert [concepts.class_word(name) for name in ("tree", "car", "penguin")] == ["plant", "vehicle", "bird"]
