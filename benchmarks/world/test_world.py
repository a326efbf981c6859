"""The world keeps its promises. Fast: pictures by the dozen, no training beyond a few steps."""

import pathlib
import random

import pytest
import torch
from torch import nn

from benchmarks.world import backgrounds, refused, styles
from benchmarks.world.adapter import Adapter
from benchmarks.world.captions import END, UNKNOWN, CaptionWriter, plain_prompt
from benchmarks.world.denoiser import make_unet
from benchmarks.world.diffusion import size_ids
from benchmarks.world.flat import FlatWeights
from benchmarks.world.judge import KINDS, ask, load_judge, similarity
from benchmarks.world.pool import Labels, World, is_unseen_pair, truth_of
from benchmarks.world.text import TextPair, load_text, save_text

SIZE = 192


@pytest.fixture(scope="module")
def world() -> World:
    return World(torch.device("cpu"), SIZE, seed=3)


def test_the_world_is_as_large_as_it_says(world: World) -> None:
    held_out = [content for content in world.contents if content.held_out]
    assert len(world.contents) >= 250 and len(held_out) >= 16
    assert len(styles.NAMES) - 1 >= 40 and len(styles.HELD_OUT) >= 10 and len(backgrounds.NAMES) >= 12
    assert len({content.name for content in world.contents}) == len(world.contents)


def test_every_style_gives_a_picture_in_range_and_of_its_own(world: World) -> None:
    labels = [Labels(5, style, 0) for style in range(len(styles.NAMES))]
    pictures = world.render(labels)
    assert pictures.shape == (len(styles.NAMES), 3, SIZE, SIZE) and pictures.isfinite().all()
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert (pictures.flatten(1).std(1) > 0.02).all()


def test_the_same_seed_draws_the_same_pictures(world: World) -> None:
    labels = [Labels(1, styles.PHOTO, 2), Labels(3, 4, 5, second=7)]
    torch.manual_seed(8)
    first = world.render(labels)
    torch.manual_seed(8)
    assert torch.equal(first, world.render(labels))


def test_the_denoiser_never_sees_what_is_held_out(world: World) -> None:
    for _ in range(3000):
        labels = world.draw(everything=False, photos=0.3, pairs_of_objects=0.2)
        assert not world.contents[labels.content].held_out and labels.style < len(styles.SEEN)
        assert not is_unseen_pair(labels.content, labels.style)


def test_one_pair_in_ten_is_kept_from_training(world: World) -> None:
    pairs = [(content, style) for content in world.seen_contents for style in styles.seen_styles()]
    share = sum(is_unseen_pair(*pair) for pair in pairs) / len(pairs)
    assert 0.09 < share < 0.11


def test_captions_use_known_words_and_tell_the_truth(world: World) -> None:
    writer = CaptionWriter(world.contents, random.Random(1))
    for _ in range(500):
        labels = world.draw(everything=False, photos=0.3, pairs_of_objects=0.1)
        caption = writer.write(labels)
        assert caption.content in (UNKNOWN, labels.content) and caption.style in (UNKNOWN, labels.style)
        ids = world.tokenizer([caption.words])
        assert ids.shape == (1, 77) and ids[0, -1] == END


def test_held_out_names_are_not_among_the_words_taught(world: World) -> None:
    words = world.tokenizer.tokens
    assert "penguin" not in words and "blueprint" not in words and "flamingo" not in words


@pytest.mark.parametrize("kind, least", [("first", 0.9), ("second", 0.95)])
def test_judges_know_fresh_pictures_of_the_whole_world(world: World, kind: str, least: float) -> None:
    torch.manual_seed(5)
    labels = [world.draw(everything=True, photos=0.1, pairs_of_objects=0) for _ in range(48)]
    shares = ask(load_judge(kind), world.render(labels)).shares(truth_of(labels))
    assert shares["content"] >= least and shares["style"] >= 0.95 and shares["background"] >= 0.93


@pytest.mark.parametrize("kind", KINDS)
def test_judges_refuse_a_style_that_has_lost_its_texture(world: World, kind: str) -> None:
    labels = [Labels(k, styles.NAMES.index("mosaic"), k % 16) for k in range(12)]
    mush = nn.functional.interpolate(nn.functional.avg_pool2d(world.render(labels), 12), size=SIZE, mode="bilinear")
    assert ask(load_judge(kind), mush).shares(truth_of(labels))["style"] <= 0.1


@pytest.mark.parametrize("kind", (*refused.KINDS, *refused.WHOLE))
def test_the_second_judge_accepts_no_cheat(world: World, kind: str) -> None:
    torch.manual_seed(6)
    pictures, claimed = refused.refused(world, kind, 32)
    assert ask(load_judge("second"), pictures).shares(claimed)["all three"] <= 0.1


def test_likeness_of_content_and_of_style_are_two_things(world: World) -> None:
    neon, mosaic = styles.NAMES.index("neon"), styles.NAMES.index("mosaic")
    torch.manual_seed(9)
    photos = world.render([Labels(7, styles.PHOTO, place) for place in range(4)])
    same_content = world.render([Labels(7, mosaic, place) for place in range(4, 8)])
    other_content = world.render([Labels(90, mosaic, place) for place in range(4, 8)])
    neons = world.render([Labels(90 + place, neon, place) for place in range(4)])
    judge = load_judge("first")
    assert similarity(judge, same_content, photos)["content"].mean() > similarity(judge, other_content, photos)["content"].mean() + 0.2
    assert similarity(judge, neons[:2], neons[2:])["style"].mean() > similarity(judge, same_content, neons)["style"].mean() + 0.2


def test_cheats_are_pictures_of_their_own_kind(world: World) -> None:
    for kind in (*refused.KINDS, *refused.WHOLE):
        pictures, claimed = refused.refused(world, kind, 4)
        assert pictures.shape[1:] == (3, SIZE, SIZE) and len(pictures) == len(claimed) <= 4
        assert pictures.min() >= 0 and pictures.max() <= 1.001 and (claimed[:, 1] != styles.PHOTO).all()


def test_an_adapter_of_strength_zero_or_removed_leaves_the_denoiser_as_it_is() -> None:
    torch.manual_seed(0)
    unet = make_unet(8, (64, 64, 64), (1, 1, 1), 24, 16).eval()
    conditions = {"text_embeds": torch.randn(1, 16), "time_ids": size_ids(64, torch.device("cpu"))}
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 24)

    def predict() -> torch.Tensor:
        with torch.no_grad():
            return unet(x, torch.tensor(5), encoder_hidden_states=context, added_cond_kwargs=conditions).sample

    plain = predict()
    adapter = Adapter(unet, 4)
    for weight in adapter.ups.parameters():
        nn.init.normal_(weight, std=0.1)
    changed = predict()
    adapter.strength = 0.0
    assert torch.allclose(predict(), plain, atol=1e-6) and not torch.allclose(changed, plain, atol=1e-3)
    adapter.strength = 1.0
    adapter.remove()
    assert torch.equal(predict(), plain)


def test_text_encoders_come_back_from_their_files_unchanged(world: World, tmp_path: pathlib.Path) -> None:
    save_text(TextPair(world.tokenizer.known), tmp_path / "rounded")
    text = load_text(tmp_path / "rounded")
    save_text(text, tmp_path / "again")
    again = load_text(tmp_path / "again")
    ids = world.tokenizer([plain_prompt(world.contents, Labels(0, 4, 1)), "a #1234 #777 bird"]).long()
    with torch.no_grad():
        for before, after in zip(text(ids), again(ids), strict=True):
            assert torch.equal(before, after)


def test_flat_weights_step_like_adamw_with_clipping() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(180, 7)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    flat = FlatWeights({"net": ours}, torch.float32)
    flat.rate.fill_(1e-2)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01)
    for _ in range(5):
        x = torch.randn(4, 3, 8, 8)
        flat.clear_gradient()
        ours(x).square().mean().backward()
        flat.update()
        optimizer.zero_grad()
        theirs(x).square().mean().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
