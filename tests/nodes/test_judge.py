"""B4M Judge with a small vision model of the host's own class and the embedded model's text encoders."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

Trio = tuple[Any, Any, Any]
SIDE, WIDTH = 28, 8


def vision(tmp_path: Path, width: int = WIDTH, **changes: object) -> Any:
    """A CLIP_VISION as the host's loader makes it, with random weights and ``width`` numbers a picture."""
    config = {
        "model_type": "clip_vision_model",
        "num_hidden_layers": 3,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_act": "quick_gelu",
        "num_channels": 3,
        "patch_size": 14,
        "image_size": SIDE,
        "projection_dim": width,
    }
    (tmp_path / "vision.json").write_text(json.dumps({**config, **changes}))
    made = importlib.import_module("comfy.clip_vision").ClipVisionModel(str(tmp_path / "vision.json"))
    generator = torch.Generator().manual_seed(1)
    for weight in made.model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return made


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (40, 32)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def pictures(*arrays: np.ndarray) -> Any:
    made = importlib.import_module("b4m_pack.b4m_core.pictures")
    floats = [each.astype(np.float32) / 255 for each in arrays]
    return made.from_arrays(floats, trigger="snq", class_word="bird", pattern="a {trigger} {class}")


RED, BLUE = (230, 20, 20), (20, 20, 230)


def test_pictures_of_the_content_are_nearer_to_it_than_pictures_of_the_style(pack: ModuleType, tmp_path: Path) -> None:
    content, style = pictures(flat(RED), flat((200, 40, 30), (64, 48))), pictures(flat(BLUE), flat((30, 40, 200)))
    images = torch.from_numpy(np.stack([flat(BLUE), flat(RED)])).float() / 255
    report, near, look, prompt = pack.B4MJudge.execute(images, vision(tmp_path), content, style).result
    lines = report.splitlines()
    assert lines[0].startswith(f"content: {near:.3f} (its own pictures to each other ") and f"style: {look:.3f}" in lines[1]
    assert prompt == 0.0 and -1 <= near <= 1
    of = {line.split(":")[0]: line for line in lines[2:]}
    numbers = {name: [float(each.split()[-1]) for each in line.split(": ")[1].split(",")] for name, line in of.items()}
    assert numbers["picture 2"][0] > numbers["picture 1"][0] and numbers["picture 1"][1] > numbers["picture 2"][1]


def test_the_shares_are_those_of_the_hosts_own_embeddings(pack: ModuleType, tmp_path: Path) -> None:
    tower = vision(tmp_path)
    images = torch.rand(3, 50, 40, 3, generator=torch.Generator().manual_seed(2))
    content = pictures(flat(RED))
    red = torch.from_numpy(flat(RED)[None]).float() / 255
    ours, theirs = (tower.encode_image(each)["image_embeds"] for each in (images, red))
    expected = torch.cosine_similarity(ours.float(), theirs.float()).mean().item()
    assert pack.B4MJudge.execute(images, tower, content).result[1] == pytest.approx(expected, abs=1e-4)


def test_the_prompt_is_judged_where_text_and_vision_are_of_one_clip(pack: ModuleType, mini: Trio, tmp_path: Path) -> None:
    clip = mini[1]
    pooled = clip.encode_from_tokens(clip.tokenize("a bear on a beach"), return_pooled=True)[1]
    tower, images = vision(tmp_path, pooled.shape[-1]), torch.rand(2, 32, 32, 3)
    found = pack.B4MJudge.execute(images, tower, clip=clip, prompt=" a bear on a beach\n").result
    expected = torch.cosine_similarity(tower.encode_image(images)["image_embeds"].float(), pooled.float()).mean().item()
    assert found[3] == pytest.approx(expected, abs=1e-4) and found[1] == found[2] == 0.0
    with pytest.raises(Exception, match=f"gives {WIDTH} numbers and this CLIP {pooled.shape[-1]}"):
        pack.B4MJudge.execute(images, vision(tmp_path), clip=clip, prompt="a bear")


def test_a_tower_with_one_vector_for_each_patch_gives_one_for_each_picture(host: ModuleType, tmp_path: Path) -> None:
    tower = vision(tmp_path, model_type="siglip_vision_model")
    assert host.embed_pictures(tower, [flat(RED), flat(BLUE)]).ndim == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing to judge by"),
        ({"content_pictures": "a path"}, "content_pictures got something else"),
        ({"clip": "a clip"}, "the prompt is empty"),
        ({"clip": "a clip", "prompt": "a bear"}, "clip input got str"),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_sentence(pack: ModuleType, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        pack.B4MJudge.execute(torch.rand(1, 32, 32, 3), vision(tmp_path), **given)


def test_something_else_than_a_vision_model_is_refused(pack: ModuleType) -> None:
    with pytest.raises(Exception, match="connect Load CLIP Vision"):
        pack.B4MJudge.execute(torch.rand(1, 32, 32, 3), object(), pictures(flat(RED)))
