"""What A1111, Forge, SwarmUI, InvokeAI and ComfyUI show of an adapter: words, base model, description, picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from tiny_files import parts

from b4m_core import Adapter, Concept, Facts, PartlyLearnableProjection, load_adapter, save_adapter
from b4m_core.cards import activation_text, card, description
from b4m_core.side_files import write_beside
from b4m_core.thumbnail import as_png, data_url, usable

PROMPTS = ("The car in w@z style, in a desert", "a tree in w@z style")


def tags_shown(frequency: dict[str, dict[str, int]]) -> list[str]:
    """The rule of A1111's and Forge's tag list: tags of a mean length of 16 are cut into words of three letters or more."""
    tags: dict[str, int] = {}
    for each in frequency.values():
        for tag, count in each.items():
            tags[tag.strip()] = tags.get(tag.strip(), 0) + int(count)
    if tags and sum(map(len, tags)) / len(tags) >= 16:
        words: dict[str, int] = {}
        for text, count in tags.items():
            for word in re.findall(r"[-_\w']+", text):
                if len(word) >= 3:
                    words[word] = words.get(word, 0) + count
        tags = words
    return sorted(tags, key=lambda tag: tags[tag], reverse=True)


def entries(facts: Facts, width: int = 2048) -> dict[str, str]:
    shapes = {tiny.LAYER: (640, 640), tiny.OTHER_LAYER: (1280, width)}
    return card(facts, shapes, title="x", kind="lora", module="m", hint="", rank=2, data_hash="0" * 64)


@pytest.mark.parametrize(
    "content,style",
    [
        (None, Concept("w@z", "", PROMPTS)),
        (None, Concept("w@z", "flat cartoon illustration", PROMPTS)),
        (None, Concept("w@z", "a very flat cartoon illustration of the nineteen sixties", PROMPTS)),
        (Concept("snq", "bear", ("a photo of a snq bear",)), Concept("w@z", "flat cartoon illustration style", PROMPTS)),
        (Concept("q#", "", ()), Concept("ß*", "chromolithograph", PROMPTS * 30)),
        (Concept("old-m@ster.painting", "", PROMPTS), None),
    ],
)
def test_the_tag_lists_show_every_trigger_word_whole(content: Concept | None, style: Concept | None) -> None:
    facts = Facts(role="merged", rank=2, content=content, style=style)
    shown = tags_shown(json.loads(entries(facts)["ss_tag_frequency"]))
    assert {each.trigger for each in (content, style) if each} <= set(shown)


def test_pictures_without_trigger_and_class_word_keep_their_prompts_as_tags() -> None:
    facts = Facts(role="style", rank=2, style=Concept("", "", PROMPTS))
    assert json.loads(entries(facts)["ss_tag_frequency"])["pictures"] == dict.fromkeys(PROMPTS, 1)


def test_only_a_network_of_sdxls_size_says_that_it_is_sdxl() -> None:
    whole, small = (entries(Facts(role="content", rank=2), width) for width in (2048, 160))
    assert whole["ss_base_model_version"] == "sdxl_base_v1-0"
    assert whole["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert not small["ss_base_model_version"].startswith("sdxl_") and "stable-diffusion-xl" not in small["modelspec.architecture"]


@pytest.mark.parametrize("role", ["content", "style", "together", "merged"])
def test_the_description_is_a_sentence_with_the_words_and_the_model(role: str) -> None:
    concepts = {"content": Concept("snq", "bear"), "style": Concept("w@z", "ink")}
    held = {side: concept for side, concept in concepts.items() if role not in ("content", "style") or side == role}
    text = description(Facts(role=role, rank=2, base_name="my_sdxl", **held))
    assert text.endswith("with B4M on my_sdxl.") and all(concept.words() in text for concept in held.values())
    assert "together adapter" not in text and "merged adapter" not in text
    assert "(" not in description(Facts(role=role, rank=2))


def shown_adapter(picture: torch.Tensor | None = None, **facts: object) -> Adapter:
    known = {"content": Concept("snq", "bear", ("a snq bear",)), **facts}
    adapter = tiny.small_adapter("content", **known)  # type: ignore[arg-type]
    return adapter if picture is None else adapter.shown_by(data_url(picture))


def test_the_side_files_hold_the_words_and_the_picture(tmp_path: Path) -> None:
    path = save_adapter(shown_adapter(torch.full((600, 400, 3), 0.5)), tmp_path / "bear.safetensors")
    write_beside(load_adapter(path), path)
    words = json.loads((tmp_path / "bear.json").read_text(encoding="utf-8"))
    assert words["activation text"] == "snq bear" and "snq bear" in words["description"] and "sd version" not in words
    with Image.open(tmp_path / "bear.preview.png") as picture:
        assert picture.format == "PNG" and picture.size == (256, 384)
    header = parts(path.read_bytes())[0]["__metadata__"]
    assert header["modelspec.thumbnail"].startswith("data:image/jpeg;base64,") and len(header["modelspec.thumbnail"]) < 100_000
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bear.json", "bear.preview.png", "bear.safetensors"]


def test_an_adapter_of_sdxls_size_says_so_beside_its_file(tmp_path: Path) -> None:
    layer = PartlyLearnableProjection(8, 2048, 2, name=tiny.OTHER_LAYER)
    adapter = tiny.filled(Adapter({tiny.OTHER_LAYER: layer}, Facts(role="style", rank=2, style=Concept("w@z"))))
    write_beside(adapter, tmp_path / "ink.safetensors")
    assert json.loads((tmp_path / "ink.json").read_text())["sd version"] == "SDXL"


def test_what_an_artist_wrote_beside_a_file_stays(tmp_path: Path) -> None:
    mine = {"notes": "mine", "preferred weight": 0.7, "description": "mine", "activation text": "old"}
    (tmp_path / "bear.json").write_text(json.dumps(mine))
    Image.new("RGB", (9, 9)).save(tmp_path / "bear.preview.png")
    before = (tmp_path / "bear.preview.png").read_bytes()
    adapter = shown_adapter(torch.zeros(64, 64, 3))
    write_beside(adapter, tmp_path / "bear.safetensors")
    words = json.loads((tmp_path / "bear.json").read_text())
    assert words == {**mine, "activation text": "snq bear"}
    assert (tmp_path / "bear.preview.png").read_bytes() == before
    write_beside(adapter, tmp_path / "bear.safetensors", new_picture=True)
    assert (tmp_path / "bear.preview.png").read_bytes() != before


@pytest.mark.parametrize("raw", ["[1, 2]", "no json", "[" * 100_000, '"text"'])
def test_a_json_file_of_another_kind_is_left_alone(raw: str, tmp_path: Path) -> None:
    (tmp_path / "bear.json").write_text(raw)
    assert write_beside(shown_adapter(), tmp_path / "bear.safetensors") == []
    assert (tmp_path / "bear.json").read_text() == raw


def test_without_words_and_picture_nothing_is_written_beside(tmp_path: Path) -> None:
    assert write_beside(tiny.small_adapter("content"), tmp_path / "x.safetensors") == [] and list(tmp_path.iterdir()) == []


def test_a_thumbnail_lasts_through_saving_and_loading_and_changes_nothing_else(tmp_path: Path) -> None:
    plain, shown = shown_adapter(), shown_adapter(torch.rand(80, 80, 3))
    save_adapter(plain, tmp_path / "a.safetensors")
    save_adapter(shown, tmp_path / "b.safetensors")
    again = load_adapter(tmp_path / "b.safetensors")
    assert again.thumbnail == shown.thumbnail and load_adapter(tmp_path / "a.safetensors").thumbnail == ""
    assert again.digest() == plain.digest() and again.facts == plain.facts
    assert again.clone().with_facts(steps=3).thumbnail == shown.thumbnail


JPEG = "data:image/jpeg;base64,"


@pytest.mark.parametrize("text", ["", "http://x/y.jpg", f"{JPEG}%%%", f"{JPEG}AAAA", "data:image/svg+xml;base64,AA", None, 3])
def test_a_thumbnail_that_is_no_picture_is_no_picture_beside_the_file_either(text: object, tmp_path: Path) -> None:
    adapter = shown_adapter().shown_by(usable(text))
    write_beside(adapter, tmp_path / "bear.safetensors")
    assert not (tmp_path / "bear.preview.png").exists()
    assert usable("data:image/jpeg;base64," + "A" * (1 << 19)) == "" and as_png("data:image/jpeg;base64,AA") is None


def test_the_activation_text_names_both_concepts() -> None:
    assert activation_text(Facts(role="merged", rank=2, content=Concept("snq", "bear"), style=Concept("w@z"))) == "snq bear, w@z"
