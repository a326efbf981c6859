"""The text encoders that words are learned through give what the host's CLIP gives, in every precision, and gradients go through them."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.sd
import pytest
import small_clip
import stored_otherwise
import torch
from safetensors.torch import save_file
from test_newer_hosts import as_a_newer_loader
from torch import Tensor

import nodes

Trio = tuple[Any, Any, Any]
PROMPTS = (
    "",
    "a snq bird in w@z style",
    r"a \(small\) cat, 3:4, (unclosed",
    "日本の鳥 é 🎨",
    "<|endoftext|> after the end",
    "supercalifragilisticexpialidocious " * 30,
    ", ".join(f"word number {number}" for number in range(60)),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoders(host: ModuleType) -> ModuleType:
    """nodes.host.text_encoders of the pack."""
    return importlib.import_module(f"{host.__name__}.text_encoders")


def conditioning(pair: tuple[Any, Any], ids: tuple[Tensor, Tensor], layer: int = -2) -> tuple[Tensor, Tensor]:
    """The context (1, 77 k, width) and the pooled vector (1, p) of one prompt, as a training makes them."""
    first, second = (encoder(each, output_hidden_states=True) for encoder, each in zip(pair, ids, strict=True))
    context = torch.cat([output.hidden_states[layer].flatten(0, 1) for output in (first, second)], dim=-1)
    return context[None], second.text_embeds[:1]


def farthest(encoders: ModuleType, host: ModuleType, clip: Any, prompts: Sequence[str] = PROMPTS) -> float:
    """How far the training's text encoders are from the host's CLIP over some prompts, by the size of the numbers."""
    with torch.inference_mode():  # as the host runs its nodes
        pair = encoders.training_text_encoders(clip, CPU, torch.float32)
        ours = [conditioning(pair, encoders.token_ids(clip, prompt), encoders.hidden_layer(clip)) for prompt in prompts]
        theirs = [host.encode_text(clip, [prompt]) for prompt in prompts]
    both = [(a, b) for mine, own in zip(ours, theirs, strict=True) for a, b in zip(mine, own, strict=True)]
    assert all(a.shape == b.shape for a, b in both)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in both)


def made(host: ModuleType, mini: Trio, kind: str) -> Any:
    """A CLIP whose weights are stored in this way."""
    if kind in ("packed", "nibbles"):
        clip = small_clip.clip_in(host, mini)
        layer, store = {
            "packed": (stored_otherwise.PackedLinear, stored_otherwise.PackedTensor.of),
            "nibbles": (stored_otherwise.NibbleLinear, lambda weight: stored_otherwise.NibbleTensor.of(weight, torch.float32)),
        }[kind]
        stored_otherwise.store_linears(clip.cond_stage_model, layer, store, of=".mlp.")
        return clip
    return small_clip.clip_in(host, mini, getattr(torch, kind))


@pytest.mark.parametrize("kind", ["float32", "float16", "float8_e4m3fn", "packed", "nibbles"])
def test_the_trainings_text_encoders_give_what_the_host_gives_in_every_precision(
    host: ModuleType, encoders: ModuleType, mini: Trio, kind: str
) -> None:
    clip = made(host, mini, kind)
    assert farthest(encoders, host, clip) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_loras_on_the_clip_are_in_the_trainings_text_encoders_and_the_clip_stays_as_it_is(
    host: ModuleType, encoders: ModuleType, mini: Trio, dtype: torch.dtype
) -> None:
    bare = small_clip.clip_in(host, mini, dtype)
    before = small_clip.weight_bytes(bare)
    _, clip = comfy.sd.load_lora_for_models(None, bare, small_clip.text_lora(bare), 0.0, 0.7)
    with torch.inference_mode():
        pair = encoders.training_text_encoders(clip, CPU, torch.float32)
        ids = encoders.token_ids(clip, PROMPTS[1])
        assert not torch.allclose(conditioning(pair, ids)[0], host.encode_text(bare, [PROMPTS[1]])[0], atol=1e-2)
    assert small_clip.weight_bytes(bare) == before
    for prompt in PROMPTS[1:3]:  # whether the host has the LoRA loaded already, as the second time, or has not
        assert farthest(encoders, host, clip, [prompt]) < 1e-5
    host.encode_text(bare, [""])  # the host takes it off again
    assert small_clip.weight_bytes(bare) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_gradients_reach_a_word_and_the_word_is_what_the_hosts_loader_makes_of_its_file(
    host: ModuleType, encoders: ModuleType, mini: Trio, dtype: torch.dtype
) -> None:
    clip = small_clip.clip_in(host, mini, dtype)
    prompt = "a snq bird in w@z style"
    words = small_clip.learned_words(clip, "snq w@z")
    with torch.inference_mode():
        pair = encoders.training_text_encoders(clip, CPU, torch.float32)
        ids = encoders.token_ids(clip, prompt)
        with torch.inference_mode(False):
            rows = [words[f"{small_clip.TOKEN_EMBEDDING.format(name)}.lora_up.weight"].float().argmax(0) for name in "lg"]
            deltas = [
                words[f"{small_clip.TOKEN_EMBEDDING.format(name)}.lora_down.weight"].float().clone().requires_grad_() for name in "lg"
            ]
            for encoder, row, delta in zip(pair, rows, deltas, strict=True):
                encoder.get_input_embeddings().register_forward_hook(_adding(row, delta))
            context, pooled = conditioning(pair, ids)
            (context.square().sum() + pooled.square().sum()).backward()
        assert all(delta.grad is not None and (delta.grad.norm(dim=1) > 0).all() for delta in deltas)
        assert not any(weight.requires_grad for encoder in pair for weight in encoder.parameters())
        _, with_words = comfy.sd.load_lora_for_models(None, clip, words, 0.0, 1.0)
        theirs = host.encode_text(with_words, [prompt])
    rounding = {torch.float32: 1e-5, torch.float16: 2e-3, torch.float8_e4m3fn: 0.3}[dtype]  # the host stores the word in CLIP's dtype
    for mine, own in zip((context, pooled), theirs, strict=True):
        assert float((mine.detach() - own).norm() / own.norm()) < rounding


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_text_encoders_of_inference_mode_and_of_read_only_files_are_learned_through(
    host: ModuleType, encoders: ModuleType, mini: Trio, tmp_path: Path
) -> None:
    clip = small_clip.clip_in(host, mini, torch.float16)
    as_a_newer_loader(clip.cond_stage_model, tmp_path)
    _, clip = comfy.sd.load_lora_for_models(None, clip, small_clip.text_lora(clip), 0.0, 0.7)
    with torch.inference_mode():
        pair = encoders.training_text_encoders(clip, CPU, torch.float32)
        ids = encoders.token_ids(clip, PROMPTS[1])
    assert not any(weight.is_inference() for encoder in pair for weight in (*encoder.parameters(), *encoder.buffers()))
    added = torch.zeros(64, requires_grad=True)
    pair[0].get_input_embeddings().register_forward_hook(lambda embedding, given, found: found + added)
    conditioning(pair, ids)[0].sum().backward()
    assert added.grad is not None and added.grad.any()


def _adding(rows: Tensor, delta: Tensor) -> Any:
    def hook(embedding: Any, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return found + (given[0][..., None] == rows).to(delta) @ delta

    return hook


def test_prompts_that_only_the_host_can_encode_are_told_apart(host: ModuleType, encoders: ModuleType, mini: Trio, tmp_path: Path) -> None:
    clip = small_clip.clip_in(host, mini)
    save_file({"clip_l": torch.zeros(2, 64), "clip_g": torch.zeros(2, 96)}, tmp_path / "mine.safetensors")
    clip.tokenizer.clip_l.embedding_directory = clip.tokenizer.clip_g.embedding_directory = str(tmp_path)
    for prompt in ("a (cat:1.2)", "a ((cat))", "embedding:mine in the snow", "a bird, embedding:mine"):
        assert encoders.token_ids(clip, prompt) is None
    first, second = encoders.token_ids(clip, r"a \(cat\)")
    assert first.shape == second.shape == (1, 77) and first.dtype == torch.int64
    assert first[0, -1] == 49407 and second[0, -1] == 0  # each is filled up with its own


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_the_clip_skip_of_the_graph_is_that_of_the_words(encoders: ModuleType, host: ModuleType, mini: Trio, layer: int) -> None:
    clip = nodes.CLIPSetLastLayer().set_last_layer(mini[1], layer)[0]
    assert encoders.hidden_layer(clip) == layer
    assert farthest(encoders, host, clip, PROMPTS[1:2]) < 1e-5


def test_a_clip_skip_beyond_an_encoders_layers_is_refused(encoders: ModuleType, mini: Trio, error: type[Exception]) -> None:
    clip = nodes.CLIPSetLastLayer().set_last_layer(mini[1], -4)[0]
    with pytest.raises(error, match="CLIP Set Last Layer stands at -4 and the smaller text encoder has 3 layers"):
        encoders.training_text_encoders(clip, CPU, torch.float32)


def test_text_encoders_of_another_kind_and_hooks_are_named(
    encoders: ModuleType, host: ModuleType, error: type[Exception], mini: Trio
) -> None:
    with_hooks = mini[1].clone()
    with_hooks.patcher.forced_hooks = object()
    with pytest.raises(error, match="hooks"):
        encoders.require_teachable(with_hooks)
    other = small_clip.clip_in(host, mini)
    other.cond_stage_model.clip_g.transformer = torch.nn.Linear(1, 1)
    with pytest.raises(error, match="no CLIP-G"):
        encoders.require_teachable(other)


def test_the_base_model_asks_for_room_and_gives_it_back(host: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    base = host.HostBaseModel(*mini)
    asked: list[int] = []
    monkeypatch.setattr(sys.modules[f"{host.__name__}.runtime"], "make_room", lambda wanted: asked.append(wanted) or wanted)
    first, second = base.text_encoders
    assert asked == [4 * sum(weight.numel() for weight in mini[1].cond_stage_model.parameters())]
    assert {weight.dtype for weight in second.parameters()} == {base.dtype} and base.text_encoders[0] is first
    assert base.token_ids("a (cat:1.2)") is None
    ours = conditioning((first, second), base.token_ids("a snq bird"), base.hidden_layer)
    for mine, theirs in zip(ours, base.encode_text(["a snq bird"]), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)
    held = weakref.ref(first)
    del first, second
    base.release()
    gc.collect()
    assert held() is None


def test_the_network_leaves_room_for_the_text_encoders_that_come_after_it(
    host: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    module = sys.modules[f"{host.__name__}.base_model"]
    monkeypatch.setattr(module.runtime, "make_room", lambda wanted: asked.append(wanted) or wanted)
    monkeypatch.setattr(module, "training_network", lambda model, *, beside: asked.append(beside))
    for words in (False, True):
        base = host.HostBaseModel(*mini)
        base.expect(4, 2, 192)
        if words:
            base.expect_words()
        _ = base.unet
    own = 4 * sum(weight.numel() for weight in mini[1].cond_stage_model.parameters())
    assert asked[2:] == [each + own for each in asked[:2]]
