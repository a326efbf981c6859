"""Which rows a micro-step sees: shared noise, fair turns, and a pure function of its number."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from b4m_core import RunStore, train
from b4m_core.batches import Batch, Batches
from b4m_core.encoding import EncodedSet, encode_sets
from b4m_core.pictures import Picture, PictureSet

WIDE, TALL = (32, 128), (128, 32)


def sets_of(*sizes: list[tuple[int, int]]) -> list[PictureSet]:
    """Picture sets; picture k of set s has the caption "s k", so that its row can be recognised by its context."""
    return [
        PictureSet(tuple(Picture(f"{s} {k}", np.full((*size, 3), 40 * s + k, dtype=np.uint8), f"{s} {k}") for k, size in enumerate(group)))
        for s, group in enumerate(sizes)
    ]


class Drawn:
    """The batches of some sets, and who is in them."""

    def __init__(self, *sizes: list[tuple[int, int]], batch: int = 1, seed: int = 0, together: bool = False, one: bool = False) -> None:
        base, pictures = tiny.TinyBase(), sets_of(*sizes)
        self.sets: list[EncodedSet] = encode_sets(base, pictures, 64, primary_sets=2 if together else 1)
        primary_sets = 2 if together else 1
        self.batches = Batches(
            self.sets[0], self.sets[1:], batch_size=batch, seed=seed, schedule=base.schedule, primary_sets=primary_sets, preserves=one
        )
        contexts = [(picture.caption, base.encode_text([picture.caption])[0][0]) for group in pictures for picture in group.pictures]
        self._names = {tuple(context.flatten()[:4].tolist()): caption for caption, context in contexts}

    def names(self, batch: Batch) -> list[str]:
        return [self._names[tuple(context.flatten()[:4].tolist())] for context in batch.conditioning["context"]]


SQUARES = [(64, 64)] * 4


def same(left: Batch, right: Batch) -> bool:
    def flat(batch: Batch) -> list[object]:
        return [*batch[:4], *batch.conditioning.values(), batch.train_rows]

    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(flat(left), flat(right), strict=True))


def test_every_own_row_shares_noise_and_timestep_with_its_partners() -> None:
    drawn = Drawn(SQUARES, SQUARES[:2], SQUARES[:3], batch=2)
    for index in range(6):
        batch = drawn.batches.draw(index)
        assert batch.train_rows == 2 and len(batch.latents) == 6
        for row in range(6):
            assert torch.equal(batch.noise[row], batch.noise[row % 2]) and batch.timesteps[row] == batch.timesteps[row % 2]
        assert not torch.equal(batch.noise[0], batch.noise[1])
        assert [name[0] for name in drawn.names(batch)] == ["0", "0", "1", "1", "2", "2"]


def test_with_one_beside_every_own_row_has_one_partner_of_any_set_and_shares_its_noise() -> None:
    drawn = Drawn(SQUARES, SQUARES[:2], SQUARES[:3], batch=3, one=True)
    seen: Counter[str] = Counter()
    for index in range(60):
        batch = drawn.batches.draw(index)
        assert batch.train_rows == 3 and len(batch.latents) == 6 and same(batch, drawn.batches.draw(index))
        assert torch.equal(batch.noise[:3], batch.noise[3:]) and torch.equal(batch.timesteps[:3], batch.timesteps[3:])
        names = drawn.names(batch)
        assert {name[0] for name in names[:3]} == {"0"}
        seen.update(names[3:])
    assert set(seen) == {"1 0", "1 1", "2 0", "2 1", "2 2"}
    of_set = [sum(count for name, count in seen.items() if name[0] == number) for number in "12"]
    assert all(60 < count < 120 for count in of_set)  # sets in equal parts, though one is larger


def test_together_with_one_beside_every_row_of_both_sets_has_one_of_any_other_set_and_shares_its_noise() -> None:
    drawn = Drawn(SQUARES, SQUARES[:3], SQUARES[:1], SQUARES[:2], batch=2, together=True, one=True)
    seen: Counter[str] = Counter()
    for index in range(60):
        batch = drawn.batches.draw(index)
        assert batch.train_rows == 4 and len(batch.latents) == 8 and same(batch, drawn.batches.draw(index))
        for row in range(8):
            assert torch.equal(batch.noise[row], batch.noise[row % 2]) and batch.timesteps[row] == batch.timesteps[row % 2]
        names = drawn.names(batch)
        assert [name[0] for name in names[:4]] == ["0", "0", "1", "1"]
        seen.update(names[4:])
    assert set(seen) == {"2 0", "3 0", "3 1"}
    assert all(90 < sum(count for name, count in seen.items() if name[0] == number) < 150 for number in "23")


def test_together_with_one_beside_the_sets_beside_take_the_leader_s_shape_and_never_lead() -> None:
    drawn = Drawn([(64, 64), WIDE], [TALL], [WIDE, (64, 64)], [TALL], together=True, one=True)
    for turn in range(8):
        led_by_content, led_by_style = (drawn.batches.draw(2 * turn + place) for place in range(2))
        assert led_by_content.latents.shape == (4, 4, *{"0 0": (8, 8), "0 1": (4, 16)}[drawn.names(led_by_content)[0]])
        assert led_by_style.latents.shape == (4, 4, 16, 4) and drawn.names(led_by_style)[1] == "1 0"


def test_together_with_one_beside_and_no_other_sets_nothing_is_different() -> None:
    plain, one = (Drawn(SQUARES, SQUARES[:3], batch=2, together=True, one=one).batches for one in (False, True))
    assert all(same(plain.draw(index), one.draw(index)) for index in range(8)) and plain.draw(0).train_rows == 2


def test_with_one_beside_and_no_partners_the_own_rows_are_alone() -> None:
    assert len(Drawn(SQUARES, batch=2, one=True).batches.draw(0).latents) == 2


def test_a_batch_is_a_pure_function_of_its_number() -> None:
    first, second = Drawn(SQUARES, SQUARES[:2]), Drawn(SQUARES, SQUARES[:2])
    forward = [first.batches.draw(index) for index in range(10)]
    backward = [second.batches.draw(index) for index in reversed(range(10))][::-1]
    assert all(same(left, right) for left, right in zip(forward, backward, strict=True))


def test_batches_do_not_depend_on_the_global_seed_and_leave_it_alone() -> None:
    drawn = Drawn(SQUARES, SQUARES[:2])
    torch.manual_seed(1)
    first = drawn.batches.draw(5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert same(first, drawn.batches.draw(5)) and torch.equal(state, torch.get_rng_state())


def test_another_seed_draws_other_batches() -> None:
    one, two = Drawn(SQUARES, seed=0).batches, Drawn(SQUARES, seed=1).batches
    assert not torch.equal(one.draw(0).noise, two.draw(0).noise)
    assert [one.draw(k).timesteps.tolist() for k in range(8)] != [two.draw(k).timesteps.tolist() for k in range(8)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_picture_comes_once_before_any_comes_twice(count: int) -> None:
    drawn = Drawn([(64, 64)] * count, SQUARES[:2])
    for round_ in range(4):
        names = [drawn.names(drawn.batches.draw(round_ * count + k))[0] for k in range(count)]
        assert sorted(names) == [f"0 {k}" for k in range(count)]


def test_the_order_of_the_pictures_changes_from_round_to_round() -> None:
    drawn = Drawn([(64, 64)] * 5)
    orders = {tuple(drawn.names(drawn.batches.draw(5 * round_ + k))[0] for k in range(5)) for round_ in range(6)}
    assert len(orders) > 3


def test_with_two_rows_a_step_every_picture_still_comes_once_a_round() -> None:
    drawn = Drawn(SQUARES, batch=2)
    for round_ in range(4):
        names = [name for k in range(2) for name in drawn.names(drawn.batches.draw(2 * round_ + k))]
        assert sorted(names) == ["0 0", "0 1", "0 2", "0 3"]


def test_more_rows_than_pictures_fill_up_with_the_same_pictures() -> None:
    drawn = Drawn([(64, 64)] * 3, batch=5)
    names = drawn.names(drawn.batches.draw(0))
    assert len(names) == 5 and set(names) == {"0 0", "0 1", "0 2"} and max(Counter(names).values()) == 2


def test_mixed_shapes_come_once_a_round_and_one_shape_a_batch() -> None:
    drawn = Drawn([WIDE, TALL, (64, 64), WIDE, TALL], [(64, 64), WIDE])
    for round_ in range(3):
        batches = [drawn.batches.draw(5 * round_ + k) for k in range(5)]
        assert sorted(drawn.names(batch)[0] for batch in batches) == [f"0 {k}" for k in range(5)]
    shapes = {drawn.names(batch)[0]: tuple(batch.latents.shape[2:]) for batch in batches}
    assert shapes == {"0 0": (4, 16), "0 1": (16, 4), "0 2": (8, 8), "0 3": (4, 16), "0 4": (16, 4)}


def test_the_size_ids_of_a_row_are_those_of_its_own_crop() -> None:
    drawn = Drawn([WIDE], [(64, 64)])
    batch = drawn.batches.draw(0)
    assert batch.conditioning["size_ids"].tolist() == [[32, 128, 0, 0, 32, 128], [64, 64, 48, 0, 32, 128]]


def test_timesteps_cover_the_whole_schedule_evenly() -> None:
    drawn = Drawn([(64, 64)])
    steps = torch.cat([drawn.batches.draw(index).timesteps for index in range(1500)])
    assert steps.dtype == torch.int64 and int(steps.min()) < 10 and int(steps.max()) > 989
    quarters = torch.bincount(steps // 250, minlength=4)
    assert len(quarters) == 4 and int(quarters.min()) > 310


def test_noise_is_standard_normal_and_new_at_every_step() -> None:
    drawn = Drawn([(64, 64)])
    noise = torch.stack([drawn.batches.draw(index).noise for index in range(200)])
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert len({float(value) for value in noise[:, 0, 0, 0, 0]}) == 200


def test_together_both_sets_lead_in_turn_and_each_comes_round_fairly() -> None:
    drawn = Drawn([(64, 64), WIDE, WIDE], [TALL, (64, 64)], together=True)
    led_by_content = [drawn.names(drawn.batches.draw(2 * k))[0] for k in range(3)]
    led_by_style = [drawn.names(drawn.batches.draw(2 * k + 1))[1] for k in range(2)]
    assert sorted(led_by_content) == ["0 0", "0 1", "0 2"] and sorted(led_by_style) == ["1 0", "1 1"]
    assert any(drawn.batches.draw(2 * k + 1).latents.shape[2:] == (16, 4) for k in range(2))


def test_own_pictures_are_encoded_at_their_own_size_alone() -> None:
    base, sizes = tiny.TinyBase(), [WIDE, TALL, (64, 64)] * 2
    encode_sets(base, sets_of(sizes, [(64, 64)]), 64, primary_sets=1)
    assert len(base.encoded) == 6 + 3


def test_every_prompt_is_encoded_once_however_often_it_comes() -> None:
    base = tiny.TinyBase()
    encode_sets(base, [tiny.picture_set(1, 2, 3), tiny.picture_set(4, 5)], 64, primary_sets=2)
    assert base.read == ["a photo of a snq bear"]


def test_a_mask_becomes_its_average_over_each_latent() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, :36] = 255
    samples = encode_sets(tiny.TinyBase(), [PictureSet((tiny.picture(1, mask=mask), tiny.picture(2)))], 64, primary_sets=1)[0]
    (bucket,) = set(samples.home)
    assert samples.at[bucket, 0].mask.shape == (1, 8, 8)
    assert samples.at[bucket, 0].mask[0, 3].tolist() == [1, 1, 1, 1, 0.5, 0, 0, 0]
    assert torch.equal(samples.at[bucket, 1].mask, torch.ones(1, 8, 8))


def test_rows_hold_exactly_what_the_encoders_gave() -> None:
    base, (pictures,) = tiny.TinyBase(), sets_of([(64, 64)])
    (samples,) = encode_sets(base, [pictures], 64, primary_sets=1)
    batch = Batches(samples, [], batch_size=1, seed=0, schedule=base.schedule).draw(0)
    latents = base.encode_pictures(torch.from_numpy(pictures.pictures[0].pixels / np.float32(255)).permute(2, 0, 1)[None])
    context, pooled = base.encode_text(["0 0"])
    assert torch.equal(batch.latents, latents) and torch.equal(batch.conditioning["context"], context)
    assert torch.equal(batch.conditioning["pooled"], pooled)


class LongTexts(tiny.TinyBase):
    """Every caption is as many pieces long as it has commas, and one more."""

    def encode_text(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        (prompt,) = prompts
        pieces = [super(LongTexts, self).encode_text([part]) for part in prompt.split(",")]
        return torch.cat([context for context, _ in pieces], dim=1), pieces[0][1]


def captioned(*captions: str) -> PictureSet:
    return PictureSet(tuple(tiny.picture(seed, caption) for seed, caption in enumerate(captions)))


def test_a_long_caption_reaches_the_network_whole_beside_a_short_one() -> None:
    """Three pieces beside two: both are repeated to six, and the network answers as it does to each alone."""
    base = LongTexts()
    sets = encode_sets(base, [captioned("a snq, asleep, in snow"), captioned("a house, red")], 64, primary_sets=1)
    batch = Batches(sets[0], sets[1:], batch_size=1, seed=0, schedule=base.schedule).draw(0)
    assert batch.conditioning["context"].shape == (2, 6 * tiny.TOKENS, tiny.TEXT_WIDTH)
    noisy = base.schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
    given = {"noisy": noisy, "timesteps": batch.timesteps, **batch.conditioning}
    together = base.family.predict(base.unet, given, torch.float32)
    for row, prompt in enumerate(("a snq, asleep, in snow", "a house, red")):
        alone = {name: value[row : row + 1] for name, value in given.items()} | {"context": base.encode_text([prompt])[0]}
        assert torch.allclose(base.family.predict(base.unet, alone, torch.float32), together[row : row + 1], atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_training_with_captions_of_several_lengths_runs_and_the_end_of_a_caption_matters(fused: bool, tmp_path: Path) -> None:
    def trained(last: str, place: str) -> str:
        plan = dataclasses.replace(tiny.plan("content"), pictures=captioned("a snq", f"a snq, asleep, {last}"))
        base = LongTexts(unet=tiny.tiny_unet(dtype=torch.float32 if fused else torch.float64))
        return train(plan, base, RunStore(tmp_path / place)).digest()

    assert trained("in snow", "a") == trained("in snow", "b") != trained("in rain", "c")
