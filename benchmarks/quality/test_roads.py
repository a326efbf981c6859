"""The ways to train and to merge that were tried: what their rows wear and are taught, and what is averaged."""

import dataclasses

import torch

from . import training
from .families import FAMILIES, Adapters, Bank
from .merging import over_time
from .methods import Contest
from .test_method import RANK, RATE, contest, pictures  # noqa: F401  the fixture
from .training import Batch, Part, Said, Step, Trainings

FREE = FAMILIES["free"]
CONTENT, STYLE = frozenset(FREE.content), frozenset(FREE.style)


def filled(contest: Contest, count: int, seed: int) -> Adapters:  # noqa: F811
    """Finished adapters: random numbers in every factor."""
    made, generator = Adapters.fresh(FREE, contest.studio.learner, RANK, count, seed=0), torch.Generator().manual_seed(seed)
    for stack in made.learned:
        for name in stack:
            stack[name] = 0.2 * torch.randn(stack[name].shape, generator=generator)
    return made


def trainings(*parts: Part, runs: int = 2, **changes: object) -> Trainings:
    plain = Trainings(list(parts), seeds=[5] * runs, rates=[RATE] * runs, steps=3)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def losses(contest: Contest, what: Trainings, adapters: Adapters) -> torch.Tensor:  # noqa: F811
    batch = Batch(contest.studio, what)
    step = Step(contest.studio, what, adapters, batch)
    batch.fill()
    step()
    return step.losses


def test_rows_on_a_partner_are_taught_what_the_partner_alone_says(contest: Contest) -> None:  # noqa: F811
    table, bank = pictures(3, 2), Bank(filled(contest, 3, 7), FREE.content)
    which = torch.arange(3)[:, None].expand(-1, 5)
    part = Part(table, [[0, 1, 2]] * 2, 3, STYLE, "partner", bank, which)
    untouched = Adapters.fresh(FREE, contest.studio.learner, RANK, 2, seed=0)
    assert losses(contest, trainings(part), untouched).max() < 1e-12
    assert losses(contest, trainings(dataclasses.replace(part, teacher="base")), untouched).min() > 1e-6
    assert losses(contest, trainings(part), filled(contest, 2, 8)).min() > 1e-6


def test_a_row_wears_the_partner_of_its_picture(contest: Contest) -> None:  # noqa: F811
    table, bank = pictures(2, 3), Bank(filled(contest, 5, 7), FREE.content)
    which = torch.tensor([[4, 3, 2, 1], [1, 0, 3, 2]])[:, : int(table.counts.max())]
    batch = Batch(contest.studio, trainings(Part(table, [[0], [1]], 4, STYLE, "noise", bank, which)))
    seen = set()
    for _ in range(6):
        batch.fill()
        for g, row in ((g, row) for g in range(2) for row in range(4)):
            (picture,) = [k for k in range(int(table.counts[g])) if torch.equal(batch.latents[g, row], table.latents[g, k].float())]
            assert batch.partners[0][g, row] == which[g, picture]
            seen.add((g, picture))
    assert len(seen) == int(table.counts.sum())


def test_rows_split_into_parts_see_the_noises_that_one_part_would(contest: Contest) -> None:  # noqa: F811
    table = pictures(2, 3)
    whole = Batch(contest.studio, trainings(Part(table, [[0], [1]], 4, STYLE)))
    halves = [Part(table, [[0], [1]], 2, STYLE, weight=0.5, first=first) for first in (0, 2)]
    split = Batch(contest.studio, trainings(*halves, noises=4))
    whole.fill(), split.fill()
    assert torch.equal(whole.noise, split.noise) and torch.equal(whole.times, split.times)
    assert not torch.equal(split.noise[:, :2], split.noise[:, 2:])


def test_two_parts_of_half_the_weight_move_what_one_part_moves(contest: Contest) -> None:  # noqa: F811
    table = pictures(2, 3)
    table.counts.fill_(1)  # whichever picture is drawn, it is the same
    ends = []
    for parts, noises in (
        ([Part(table, [[0], [1]], 4, STYLE)], None),
        ([Part(table, [[0], [1]], 2, STYLE, weight=0.5, first=first) for first in (0, 2)], 4),
    ):
        adapters = Adapters.fresh(FREE, contest.studio.learner, RANK, 2, seed=0)
        what = trainings(*parts, noises=noises, steps=1)
        training.train(contest.studio, what, adapters)
        ends.append(adapters)
    for one, other in zip(ends[0].learned, ends[1].learned, strict=True):
        torch.testing.assert_close(one["style_up"], other["style_up"], rtol=1e-5, atol=1e-8)
        assert one["style_up"].abs().max() > 0


def test_the_average_is_the_mean_of_the_last_steps(contest: Contest) -> None:  # noqa: F811
    def trained(average: int, snapshots: dict[int, Adapters | None]) -> Adapters:
        adapters = Adapters.fresh(FREE, contest.studio.learner, RANK, 2, seed=0)
        what = trainings(Part(pictures(2, 3), [[0], [1]], 2, STYLE), average=average, snapshots=snapshots)
        training.train(contest.studio, what, adapters)
        return adapters

    ends: dict[int, Adapters | None] = dict.fromkeys((2, 3))
    plain, averaged = trained(0, ends), trained(2, {})
    two, three = ends[2], ends[3]
    assert two is not None and three is not None
    for a, b, last, mean in zip(two.learned, three.learned, plain.learned, averaged.learned, strict=True):
        torch.testing.assert_close(b["style_up"], last["style_up"])
        torch.testing.assert_close(mean["style_up"], (a["style_up"] + b["style_up"]) / 2, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(mean["content_up"], last["content_up"])


def test_a_tilt_draws_timesteps_with_less_noise_or_with_more(contest: Contest) -> None:  # noqa: F811
    means = {}
    for tilt in (0.5, 1.0, 2.0):
        batch = Batch(contest.studio, trainings(Part(pictures(2, 3), [[0], [1]], 64, STYLE), tilt=tilt))
        batch.fill()
        assert 0 <= batch.times.min() and batch.times.max() < len(contest.studio.noise.alphas)
        means[tilt] = batch.times.float().mean().item() / len(contest.studio.noise.alphas)
    assert means[0.5] > 0.58 > means[1.0] > 0.42 > means[2.0]


def test_strengths_over_the_steps_go_in_a_straight_line(contest: Contest) -> None:  # noqa: F811
    factors = over_time(filled(contest, 2, 1), 1.0, 0.5, 0.8, 1.2, steps=5)
    gates = factors.gates
    assert gates is not None
    content, style = gates[0][:, 0, 0, 0], gates[0][:, 0, 0, -1]
    torch.testing.assert_close(content, torch.linspace(1.0, 0.5, 5))
    torch.testing.assert_close(style, torch.linspace(0.8, 1.2, 5))


def test_a_sum_of_effects_is_what_its_terms_say_to_their_own_captions(contest: Contest) -> None:  # noqa: F811
    table, bank, which = pictures(3, 2), Bank(filled(contest, 3, 7), FREE.content), torch.arange(3)[:, None].expand(-1, 5)
    other = dataclasses.replace(table, context=pictures(3, 6).context)
    untouched = Adapters.fresh(FREE, contest.studio.learner, RANK, 2, seed=0)

    def part(*said: Said) -> Part:
        return Part(table, [[0, 1, 2]] * 2, 3, STYLE, "sum", bank, which, said=said)

    same = part(Said(table, "partner", 1.0), Said(table, "own", 1.0), Said(table, "base", -1.0))
    assert losses(contest, trainings(same), untouched).max() < 1e-12  # an adapter without effect adds none
    assert losses(contest, trainings(same), filled(contest, 2, 8)).min() > 1e-6
    moved = part(Said(table, "partner", 1.0), Said(other, "own", 1.0), Said(other, "base", -1.0))
    assert losses(contest, trainings(moved), untouched).max() < 1e-12
    elsewhere = part(Said(other, "partner", 1.0), Said(table, "own", 1.0), Said(table, "base", -1.0))
    assert losses(contest, trainings(elsewhere), untouched).min() > 1e-6
