"""A joint or merged adapter as two files: side by side they are the whole where the split is a sum, and merged again always."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from tiny_files import CONCEPT
from torch import Tensor, nn

from b4m_core import Adapter, B4MError, Concept, Facts, load_adapter, merge, save_adapter
from b4m_core.apart import apart, apart_error, apart_note, apart_paths
from b4m_core.carried import Carried
from b4m_core.resize import resized

INK = Concept("w@z", "ink drawing", ("a cat in w@z style",))
SLIDERS = [(1.0, 1.0), (0.7, 1.3), (0.0, 1.0), (1.5, 0.0)]


def joint(kind: str, role: str = "together", **facts: object) -> Adapter:
    known = Facts(role=role, rank=3, content=CONCEPT, style=INK, **{**tiny.KINDS[kind], **facts})  # type: ignore[arg-type]
    return tiny.filled(Adapter.for_unet(tiny.tiny_unet(levels=2), known), seed=5).rounded()


def answer(unet: nn.Module) -> Tensor:
    added = {"text_embeds": torch.ones(2, tiny.POOLED), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return unet(x, torch.tensor(500), encoder_hidden_states=torch.ones(2, 5, tiny.TEXT_WIDTH), added_cond_kwargs=added).sample


def side_by_side(files: dict[str, Path], strengths: dict[str, float]) -> Tensor:
    """The answer of a network on which diffusers' own loader has put both files, each at its strength."""
    unet = tiny.tiny_unet(levels=2)
    for name, file in files.items():
        state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(safetensors.torch.load_file(file), unet_config=unet.config)
        StableDiffusionXLLoraLoaderMixin.load_lora_into_unet(state, alphas, unet, adapter_name=name)
    unet.set_adapters(list(strengths), list(strengths.values()))
    return answer(unet)


@pytest.mark.parametrize(("kind", "role"), [("free", "together"), ("full", "merged")])
def test_of_a_sum_the_two_files_side_by_side_are_the_whole_at_every_strength(kind: str, role: str, tmp_path: Path) -> None:
    whole = joint(kind, role)
    files = apart_paths(tmp_path / "both.safetensors")
    for concept, one in apart(whole).items():
        save_adapter(one, files[concept])
    base = answer(tiny.tiny_unet(levels=2))
    for content, style in SLIDERS:
        expected = tiny.tiny_unet(levels=2)
        for name, layer in whole.layers.items():
            expected.get_submodule(name).weight += layer.delta_weight(content, style).detach()
        wanted = answer(expected)
        got = side_by_side(files, {"content": content, "style": style})
        assert float((got - wanted).abs().max()) < 1e-4 * float((wanted - base).abs().max()) + 1e-5
    assert apart_error(whole) == 0.0 and "exactly" in apart_note(whole)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_each_file_alone_is_its_slider_alone_and_both_merged_are_the_whole(kind: str, tmp_path: Path) -> None:
    whole = joint(kind)
    files = apart_paths(tmp_path / "both.safetensors")
    for concept, one in apart(whole).items():
        save_adapter(one, files[concept])
    again = {concept: load_adapter(file) for concept, file in files.items()}
    assert [again[concept].facts.role for concept in again] == ["content", "style"]
    assert again["content"].facts.content == CONCEPT and again["content"].facts.style is None
    for concept, strengths in (("content", (1.0, 0.0)), ("style", (0.0, 1.0))):
        for name, layer in again[concept].layers.items():
            torch.testing.assert_close(layer.delta_weight(), whole.layers[name].delta_weight(*strengths), rtol=1e-6, atol=1e-6)
    assert merge(again["content"], again["style"]).digest() == whole.digest()


@pytest.mark.parametrize("kind", ["zero_start", "published"])
def test_of_halves_it_is_said_how_far_the_two_are_from_the_whole(kind: str) -> None:
    whole = joint(kind)
    pair = apart(whole).values()
    off = total = 0.0
    for name, layer in whole.layers.items():
        update = layer.delta_weight().detach()
        off += float((sum(one.layers[name].delta_weight().detach() for one in pair) - update).square().sum())
        total += float(update.square().sum())
    assert apart_error(whole) == pytest.approx((off / total) ** 0.5, rel=1e-5) and off > 0
    assert f"{apart_error(whole):.0%} off" in apart_note(whole)


@pytest.mark.parametrize("role", ["content", "style"])
def test_an_adapter_of_one_concept_cannot_be_taken_apart(role: str) -> None:
    with pytest.raises(B4MError, match=f"This is a {role} adapter: only one that is merged or trained together"):
        apart(tiny.small_adapter(role))


def test_taking_apart_changes_nothing_in_the_whole_and_keeps_the_dtype() -> None:
    whole = joint("free", file_dtype="bfloat16")
    before = whole.digest()
    pair = apart(whole)
    assert whole.digest() == before and all(one.facts.file_dtype == "bfloat16" for one in pair.values())
    assert all(one.rounded().digest() == one.digest() for one in pair.values())


def test_what_is_carried_along_goes_with_its_concept_and_a_detail_with_the_content(tmp_path: Path) -> None:
    pieces = [
        Carried(concept, f"lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_{number}", {
            "lora_up.weight": torch.full((4, 1), number + 1.0), "lora_down.weight": torch.ones(1, 3)})
        for number, concept in enumerate(("content", "style", "detail"))
    ]  # fmt: skip
    whole = joint("free").carrying(pieces)
    pair = apart(whole)
    assert {concept: [piece.concept for piece in one.carried] for concept, one in pair.items()} == {
        "content": ["content", "detail"],
        "style": ["style"],
    }
    assert "details are in the content's file" in apart_note(whole)
    small, _ = resized(whole, 2)
    assert [piece.digest() for piece in small.carried] == [piece.digest() for piece in pieces]
