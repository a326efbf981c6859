"""What a mediator adds, when it is on, and what its rows are taught."""

from types import SimpleNamespace

import torch

from tests.b4m_core.tiny import POOLED, TEXT_WIDTH, TOKENS

from .families import merged
from .grouped import Factors, Segment
from .mediator import Lessons, Mediated, Mediating, Mediation, Mediator
from .methods import Contest
from .references import STEPS
from .test_method import RANK, contest  # noqa: F401  the fixture
from .test_roads import filled


def learned(contest: Contest, **made_of: object) -> Mediator:  # noqa: F811
    mediator, generator = Mediator(contest.studio.learner, Mediation(**made_of), RANK), torch.Generator().manual_seed(3)  # type: ignore[arg-type]
    for tensor in mediator.tensors():
        tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return mediator


def updates(factors: Factors, step: int) -> list[torch.Tensor]:
    """up @ down of every layer in a sampling step."""
    gates = factors.gates or [torch.ones(STEPS, *up.shape[:2], up.shape[-1]) for up in factors.up]
    return [(up * gate[step][:, :, None]) @ down for up, down, gate in zip(factors.up, factors.down, gates, strict=True)]


def test_off_it_changes_nothing_and_on_it_stands_between_ups_and_downs(contest: Contest) -> None:  # noqa: F811
    pairs = merged(filled(contest, 2, 1), [0, 1], filled(contest, 2, 2), [1, 0])
    mediator = learned(contest, rank=2)
    mediated = Mediated(pairs, mediator, [0.0, 1.0, *[0.5] * (STEPS - 2)]).factors(frozenset(), torch.float64)
    plain = pairs.factors(frozenset(), torch.float64)
    for off, on, half, up, down, own in zip(*(updates(mediated, k) for k in range(3)), plain.up, plain.down, mediator.learned, strict=True):
        core = torch.eye(2 * RANK) + own["core"]
        wanted = up @ core.to(up) @ down + (own["up"] @ own["down"]).to(up)
        torch.testing.assert_close(off, up @ down, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(on, wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(half, (up @ down + wanted) / 2, rtol=1e-5, atol=1e-6)


def test_its_strengths_and_pairs_are_those_of_the_adapters(contest: Contest) -> None:  # noqa: F811
    pairs, mediator = merged(filled(contest, 2, 1), [0, 1], filled(contest, 2, 2), [1, 0]), learned(contest)
    whole = Mediated(pairs, mediator, [1.0] * STEPS)
    apart = Mediated(pairs.scaled(0.5, 0.0).take([1]), mediator, [1.0] * STEPS).factors(frozenset(), torch.float64)
    for got, wanted in zip(
        updates(whole.scaled(0.5, 0.0).take([1]).factors(frozenset(), torch.float64), 0), updates(apart, 0), strict=True
    ):
        torch.testing.assert_close(got, wanted)
    assert whole.take([1]).count == 1


def mediating(contest: Contest) -> Mediating:  # noqa: F811
    """Three contents and two styles of a bank, with made-up lessons; tokens are random texts."""
    generator = torch.Generator().manual_seed(4)
    texts = torch.randn(9, TOKENS, TEXT_WIDTH, generator=generator, dtype=torch.float64)
    pooled = torch.randn(9, POOLED, generator=generator, dtype=torch.float64)
    contest.studio.read = lambda ids, words: (texts[ids[:, 0]], pooled[ids[:, 0]])  # type: ignore[method-assign]
    contest.studio.captured = False
    lessons = SimpleNamespace(
        latents=torch.randn(9, 4, 8, 8, generator=generator),
        ids=torch.arange(9)[:, None, None, None].expand(9, 2, 2, 1) * torch.tensor([[[[1], [0]], [[0], [0]]]]),
        content=torch.tensor([0, 1, 2] * 3),
        style=torch.tensor([0] * 3 + [1] * 3 + [2] * 3),
        empty=torch.tensor([8]),
    )
    lessons.photos, lessons.others = lessons.style == 2, lessons.style < 2
    lessons.draw = lambda kinds, generator: Lessons.draw(lessons, kinds, generator)  # type: ignore[arg-type]
    return Mediating(contest.studio, Mediation(rows=24, steps=12, rate=3e-3), filled(contest, 3, 1), filled(contest, 2, 2), lessons)  # type: ignore[arg-type]


def test_a_row_wears_what_its_words_say_and_its_teacher_no_more_than_one(contest: Contest) -> None:  # noqa: F811
    made = mediating(contest)
    made.fill()
    ids = made.lessons.ids[:, 0, 0, 0]
    both = (made.ids != made.named)[:, 0]
    alone = made.alone.sum(0)
    assert alone.max() == 1 and alone.min() == 0 and both.any()
    assert not alone[both].any()  # taught by names: by the base model
    content, style = made.lessons.content, made.lessons.style
    for row in both.nonzero()[:, 0].tolist():
        picture = int(ids.eq(made.named[row, 0]).nonzero()[0, 0])
        assert made.worn[:, row].tolist() == [content[picture], style[picture]]


def test_beside_a_photograph_any_style_may_be_worn(contest: Contest) -> None:  # noqa: F811
    made, worn = mediating(contest), set[int]()
    for _ in range(20):
        made.fill()
        shown = (made.latents[:, None] == made.lessons.latents).flatten(2).all(-1).int().argmax(1)
        worn |= set(made.worn[1][made.lessons.style[shown] == 2].tolist())
    assert worn == {0, 1}


def test_at_the_start_it_is_taught_the_difference_alone_and_training_lessens_it(contest: Contest) -> None:  # noqa: F811
    made = mediating(contest)
    made.fill()
    net = contest.studio.learner
    noisy = contest.studio.noise.add(made.latents, made.noise, made.times)
    answers = []
    for mediated in (False, True):
        net.wear(1, [Segment(0, 24, made.worn_by(mediated=mediated))])
        answers.append(net(noisy, made.times, *contest.studio.read(made.ids if mediated else made.named, None)))
    wanted = ((answers[1] - answers[0]).square().mean((1, 2, 3)) * made.noise_share[made.times]).mean()
    for tensor in made.mediator.tensors():
        tensor.requires_grad_(True)
        tensor.grad = torch.zeros_like(tensor)
    made()
    torch.testing.assert_close(made.loss, wanted.float(), rtol=1e-4, atol=1e-9)
    before = float(made.loss)
    picked = {name: getattr(made, name).clone() for name in ("latents", "noise", "times", "ids", "named", "worn", "alone")}
    made.train()
    for name, value in picked.items():
        getattr(made, name).copy_(value)
    for tensor in made.mediator.tensors():
        tensor.requires_grad_(True)
        tensor.grad = torch.zeros_like(tensor)
    made()
    assert float(made.loss) < before
