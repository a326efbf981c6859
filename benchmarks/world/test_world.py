"""The world keeps its promises. Fast: pictures by the dozen, no training beyond a few steps."""

import pathlib
import random

import pytest
import torch
from torch import nn

from benchmarks.world import backgrounds, styles
from benchmarks.world.captions import END, UNKNOWN, CaptionWriter, plain_prompt
from benchmarks.world.flat import FlatWeights
from benchmarks.world.judge import ask, load_judge
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


@pytest.mark.parametrize("kind, least", [("first", 0.9), ("second", 0.75)])
def test_judges_know_fresh_pictures_of_the_whole_world(world: World, kind: str, least: float) -> None:
    torch.manual_seed(5)
    labels = [world.draw(everything=True, photos=0.1, pairs_of_objects=0) for _ in range(48)]
    shares = ask(load_judge(kind), world.render(labels)).shares(truth_of(labels))
    assert shares["content"] >= least and shares["style"] >= 0.95 and shares["background"] >= 0.93


def test_judges_refuse_a_style_that_has_lost_its_texture(world: World) -> None:
    labels = [Labels(k, styles.NAMES.index("mosaic"), k % 16) for k in range(12)]
    mush = nn.functional.interpolate(nn.functional.avg_pool2d(world.render(labels), 12), size=SIZE, mode="bilinear")
    assert ask(load_judge("first"), mush).shares(truth_of(labels))["style"] <= 0.1


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
