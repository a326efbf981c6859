"""The small contest on one's own model: three methods trained, painted, judged, and a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_folder import write_folder
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from b4m_core import B4MError
from benchmarks.quality import own_model


def write_vision(folder: Path, width: int) -> Path:
    """A CLIP vision tower with random weights, as transformers saves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
            projection_dim=width,
        )  # fmt: skip
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    place = tmp_path_factory.mktemp("own")
    write_folder(place / "model")
    for name, seeds in (("bear", (1, 2)), ("drawing", (3, 4))):
        (place / name).mkdir()
        for seed in seeds:
            Image.fromarray(tiny.picture(seed).pixels).save(place / name / f"{seed}.png")
    write_vision(place / "vision", tiny.POOLED)
    parser = argparse.ArgumentParser()
    own_model.arguments(parser)
    words = ["--model", "model", "--content", "bear", "--style", "drawing", "--vision", "vision"]
    paths = [word if word.startswith("--") else str(place / word) for word in words]
    rest = ["--class-word", "bear", "--steps", "1", "--rank", "2", "--seeds", "1", "--device", "cpu"]
    found = parser.parse_args([*paths, *rest])
    found.folder, found.quick = place / "out", True
    return found


def test_three_methods_are_trained_painted_and_judged(options: argparse.Namespace) -> None:
    own_model.SETS = 1
    own_model.run(options)
    numbers = json.loads((options.folder / "own_model.json").read_text())
    assert list(numbers) == ["ours, merged", "two LoRAs, summed", "one LoRA on both"]
    for found in numbers.values():
        assert set(found) == {"content", "style", "prompt"}
        assert all(len(one["each"]) == 2 and -1 <= one["mean"] <= 1 for one in found.values())
    page = (options.folder / "index.html").read_text()
    pictures = sorted(file.name for file in (options.folder / "pictures").glob("*.jpg"))
    assert pictures == sorted(f"{method}_{place}_0.jpg" for method in range(3) for place in range(2))
    assert all(f"pictures/{name}" in page for name in pictures) and "a snq bear on the grass in w@z style" in page


def test_a_style_from_a_start_of_its_own_is_summed_exactly(options: argparse.Namespace) -> None:
    base = own_model.DiffusersFolder(options.model)
    contest = own_model.OwnContest(base, options, base.native_size)
    other, told = contest._apart("style", basis_seed=1), contest._elsewhere()
    both = contest.methods()["two LoRAs, summed"]()
    content = contest._apart("content")
    for name, layer in both.layers.items():
        alone = other.layers[name].delta_weight()
        torch.testing.assert_close(told.layers[name].delta_weight(), alone, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(layer.delta_weight(), content.layers[name].delta_weight() + alone, rtol=1e-3, atol=1e-6)


def test_the_network_is_as_it_was_after_painting(options: argparse.Namespace) -> None:
    base = own_model.DiffusersFolder(options.model)
    contest = own_model.OwnContest(base, options, base.native_size)
    before = base.sample("a bear", width=64, height=64, seed=0)
    (painted,) = contest.paint(contest.methods()["ours, merged"](), ["a bear"], 1)
    assert torch.equal(base.sample("a bear", width=64, height=64, seed=0), before)
    assert painted.shape == (64, 64, 3) and painted.dtype == np.uint8


def test_what_is_missing_is_said_in_a_sentence(options: argparse.Namespace, tmp_path: Path) -> None:
    without = argparse.Namespace(**{**vars(options), "style": None})
    with pytest.raises(B4MError, match="--style"):
        own_model.run(without)
    with pytest.raises(B4MError, match="no vision model"):
        own_model.Vision(tmp_path, "cpu")
