"""What the further roads train and ask: words beside an adapter, convolutions, weights of places, guidance for a part of the way."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from benchmarks.world.text import TextPair

from . import concepts
from .families import FAMILIES, WORDS, Adapters, merged, side_by_side
from .grouped import Factors, GroupedConv, Segment, Wardrobe
from .methods import Apart, Contest, Joint
from .references import Sampling, Studio
from .test_method import RANK, RATE, contest, pictures  # noqa: F401  the fixture
from .test_roads import losses, trainings
from .training import Batch, Part, Step

END, KNOWN = 49407, 320
TRIGGERS = torch.tensor([1672, 336, 342, 287, 345])


def reader(widths: tuple[int, int]) -> SimpleNamespace:
    """A studio that reads with two small random encoders."""
    torch.manual_seed(0)
    studio = SimpleNamespace(text=TextPair([KNOWN, END], widths), triggers=TRIGGERS)
    studio.read = lambda ids, words: Studio.read(studio, ids, words)  # type: ignore[arg-type]
    return studio


def prompts() -> torch.Tensor:
    """One without a trigger, one with the content's, one with both."""
    ids = torch.full((3, 77), END)
    ids[:, 0], ids[:, 1] = 49406, KNOWN
    ids[1, 2:4] = TRIGGERS[:2]
    ids[2, 2:7] = TRIGGERS
    return ids


def test_learned_words_change_what_is_read_where_their_triggers_stand() -> None:
    studio, ids = reader((32, 64)), prompts()
    words = torch.zeros(3, 5, 96)
    words[:, 2:] = torch.randn(3, 96)
    plain, moved = studio.read(ids, None), studio.read(ids, words)
    for before, after in zip(plain, moved, strict=True):
        torch.testing.assert_close(before[:2], after[:2])  # the style's words are in neither
        assert (before[2] - after[2]).abs().max() > 1e-3
    torch.testing.assert_close(plain[0][2, :4], moved[0][2, :4])  # a causal text is the same before its first moved token
    content = torch.zeros(3, 5, 96)
    content[:, :2] = 1.0
    assert (studio.read(ids, content)[0][1] - plain[0][1]).abs().max() > 1e-3


def with_words(contest: Contest) -> int:  # noqa: F811
    """Let the contest read its pictures' captions, which hold their triggers; returns the width of a word."""
    width = contest.studio.learner.network.config["cross_attention_dim"]
    pooled = pictures(1, 0).pooled.shape[-1]

    def read(ids: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = (ids[..., None] == TRIGGERS).to(words.dtype) @ words
        return moved + 0.1, torch.zeros(len(ids), pooled, dtype=torch.float64)

    contest.studio.read = read  # type: ignore[method-assign]
    tables = []
    for table, rows in ((contest.contents, (1, 1)), (contest.styles, (2, 2))):
        ids = prompts()[list(rows)][:, None].expand(-1, table.latents.shape[1], -1)
        context = torch.zeros(*ids.shape, width)
        tables.append(dataclasses.replace(table, ids=ids, context=context))
    contest.contents, contest.styles = tables
    beside = {
        kind: dataclasses.replace(each, ids=torch.full((*each.latents.shape[:2], 77), END)) for kind, each in contest.auxiliary.items()
    }
    contest.auxiliary = {
        kind: dataclasses.replace(each, context=each.context.new_zeros(*each.ids.shape, width)) for kind, each in beside.items()
    }
    return width


@pytest.mark.parametrize("words_first", [0, 2])
def test_words_are_learned_beside_the_adapter_and_merge_with_it(contest: Contest, words_first: int) -> None:  # noqa: F811
    width = with_words(contest)
    contest.split, contest.done = concepts.Split(("a", "b"), ("c", "d")), {}
    apart = Apart("free, words", RANK, RATE, RATE, steps=2, rows=(2, 0), partners="keep", words=1e-2, words_first=words_first)
    both = contest.merge(apart)
    words = both.words()
    assert words is not None and words.shape == (2, 5, width)
    assert words[:, :2].abs().max() > 1e-3  # the contents' prompts hold their own trigger
    assert words[:, 2:].abs().max() > 1e-3
    torch.testing.assert_close(both.scaled(0.5, 0.5).words(), words)
    assert Adapters.fresh(FAMILIES["free"], contest.studio.learner, RANK, 1, seed=0).words() is None


@pytest.mark.parametrize("on_both", [False, True])
def test_a_joint_stage_leaves_words_as_they_are_and_one_lora_on_both_learns_them(contest: Contest, on_both: bool) -> None:  # noqa: F811
    with_words(contest)
    if on_both:
        (after,) = contest.one_for_both(RANK, [RATE], 2, kept=1, words=1e-2)
    else:
        before = Adapters.fresh(FAMILIES["free, words"], contest.studio.learner, RANK, 2, seed=0)
        for name in WORDS:
            before.learned[0][name] += 0.5
        (after,) = contest.together(before, [Joint(RATE, 2, kept=1)])
    words = after.words()
    assert words is not None
    if on_both:
        assert words[:, :2].abs().amax((1, 2)).min() > 1e-3 and words[:, 2:].abs().amax((1, 2)).min() > 1e-3
        assert after.learned[0]["style_up"].abs().max() == 0
    else:
        assert (words == 0.5).all()
    assert after.learned[0]["content_up"].abs().max() > 0


def test_joint_trainings_in_small_batches_come_to_the_same(contest: Contest) -> None:  # noqa: F811
    before = Adapters.fresh(FAMILIES["free"], contest.studio.learner, RANK, 2, seed=0)
    several = [Joint(rate, 2, kept=1) for rate in (RATE, 2 * RATE)]
    whole = contest.together(before, several)
    contest.studio.runs_at_once = 3
    for one, other in zip(whole, contest.together(before, several), strict=True):
        for mine, found in zip(one.learned, other.learned, strict=True):
            for name, value in mine.items():
                torch.testing.assert_close(found[name], value)
    assert not torch.equal(whole[0].learned[0]["content_up"], whole[1].learned[0]["content_up"])


def test_parts_that_wear_the_same_are_one_segment(contest: Contest) -> None:  # noqa: F811
    table, family = pictures(2, 3), FAMILIES["free"]
    adapters = Adapters.fresh(family, contest.studio.learner, RANK, 2, seed=0)
    own, other = frozenset(family.content), frozenset(family.style)
    sets = [[0], [1]]
    parts = [Part(table, sets, 2, own), Part(table, sets, 1, own, "base"), Part(table, sets, 1, other), Part(table, sets, 3, own)]
    what = trainings(*parts)
    batch = Batch(contest.studio, what)
    batch.fill()
    step = Step(contest.studio, what, adapters, batch)
    assert [(each.first, each.last) for each in step._segments()] == [(0, 3), (3, 4), (4, 7)]


def test_words_come_from_the_content_and_from_the_style(contest: Contest) -> None:  # noqa: F811
    one, other = (Adapters.fresh(FAMILIES["free, words"], contest.studio.learner, RANK, 2, seed=0) for _ in range(2))
    for adapters, value in ((one, 1.0), (other, 2.0)):
        for name in WORDS:
            adapters.learned[0][name] += value
    words = merged(one, [1], other, [0]).words()
    assert words is not None and (words[0, :2] == 1).all() and (words[0, 2:] == 2).all()


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_a_convolution_wears_an_update_of_its_kernel(kernel: int, stride: int) -> None:
    conv, wardrobe = torch.nn.Conv2d(6, 8, kernel, stride, padding=kernel // 2), Wardrobe(groups=2)
    layer, x = GroupedConv(conv, wardrobe, 0, 0), torch.randn(4, 6, 10, 10)
    up, down = torch.randn(1, 2, 8, 3), torch.randn(1, 2, 3, 6 * kernel**2)
    wardrobe.segments = [Segment(0, 2, Factors([up], [down]))]
    for row, picture in enumerate(x):
        weight = conv.weight + (up @ down)[0, row // 2].view_as(conv.weight)
        expected = torch.nn.functional.conv2d(picture[None], weight, conv.bias, stride, kernel // 2)
        torch.testing.assert_close(layer(x)[row : row + 1], expected, rtol=1e-4, atol=1e-4)
    wardrobe.segments = []
    assert torch.equal(layer(x), conv(x))


def test_places_count_by_their_weights(contest: Contest) -> None:  # noqa: F811
    table, live = pictures(2, 3), frozenset(FAMILIES["free"].style)
    untouched = Adapters.fresh(FAMILIES["free"], contest.studio.learner, RANK, 2, seed=0)
    plain = losses(contest, trainings(Part(table, [[0], [1]], 2, live)), untouched)
    halves = []
    for half in (slice(0, 4), slice(4, 8)):
        weights = torch.zeros(*table.latents.shape[:2], 1, *table.latents.shape[3:])
        weights[..., half, :] = 1.0
        halves.append(losses(contest, trainings(Part(dataclasses.replace(table, weights=weights), [[0], [1]], 2, live)), untouched))
    torch.testing.assert_close(halves[0] + halves[1], plain)
    assert min(each.min() for each in halves) > 0


def test_guidance_can_be_for_a_part_of_the_way() -> None:
    how, one, zero = Sampling(6.0, first=0.2, last=0.6), torch.ones(2), torch.zeros(2)
    assert [float(how.guided(one, zero, way)[0]) for way in (0.0, 0.2, 0.5, 0.6, 0.9)] == [1.0, 6.0, 6.0, 1.0, 1.0]


def test_families_with_words_stand_side_by_side(contest: Contest) -> None:  # noqa: F811
    several = [Adapters.fresh(FAMILIES[name], contest.studio.learner, RANK, 2, seed=0) for name in ("free, words", "lora, words")]
    for number, adapters in enumerate(several):
        for stack in adapters.learned:
            for name, value in stack.items():
                stack[name] = value + number + 1
    both, dtype = side_by_side(several), torch.float64
    expected = torch.cat([adapters.words() for adapters in several])  # type: ignore[arg-type]
    assert torch.equal(both.words(), expected)  # type: ignore[arg-type]
    for shape, up in enumerate(both.factors(frozenset(), dtype).up):
        assert torch.equal(up, torch.cat([adapters.factors(frozenset(), dtype).up[shape] for adapters in several], 1))
