"""Words that were learned in the token embedding: the host's own loader and B4M's nodes hear them alike, and nothing else changes."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import comfy.model_patcher
import pytest
import small_clip
import small_sdxl
import torch
from safetensors.torch import save_file
from test_other_tools_loras import pictures, shown
from torch import Tensor

import nodes

Trio = tuple[Any, Any, Any]
WITH, WITHOUT = "a photo of snq bird, w@z", "a photo of a bird on the beach, oil painting"
TRIGGERS = "snq w@z"
DTYPES = [torch.float32, torch.float16, torch.float8_e4m3fn]


def said(clip: Any, prompt: str) -> tuple[Tensor, Tensor]:
    """What CLIPTextEncode makes of a prompt."""
    with torch.inference_mode():
        states, extra = nodes.CLIPTextEncode().encode(clip, prompt)[0][0]
    return states.clone(), extra["pooled_output"].clone()


def same(clip: Any, other: Any, prompt: str) -> bool:
    return all(torch.equal(a, b) for a, b in zip(said(clip, prompt), said(other, prompt), strict=True))


def load(host: ModuleType, model: Any, clip: Any, file: dict[str, Tensor], of_model: float = 1.0, of_clip: float = 1.0) -> tuple[Any, Any]:
    """MODEL and CLIP from the host's Load LoRA."""
    save_file(file, host.loras_folder() / "words.safetensors")
    host.refresh_lora_list()
    with torch.inference_mode():
        return nodes.LoraLoader().load_lora(model, clip, "words.safetensors", of_model, of_clip)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_hosts_loader_hears_a_learned_word_and_changes_no_other_prompt(host: ModuleType, mini: Trio, dtype: torch.dtype) -> None:
    clip = small_clip.clip_in(host, mini, dtype)
    before, without = small_clip.weight_bytes(clip), said(clip, WITHOUT)
    with_words = load(host, mini[0], clip, small_clip.learned_words(clip, TRIGGERS))[1]
    assert not same(with_words, clip, WITH)
    off = max(float((a - b).norm() / b.norm()) for a, b in zip(said(with_words, WITHOUT), without, strict=True))
    assert off < 1e-2 if dtype == torch.float8_e4m3fn else off == 0  # hosts round all of a float8 layer anew, older ones at random
    said(clip, WITH)  # the host takes the words off
    assert small_clip.weight_bytes(clip) == before


def test_the_strength_for_the_clip_is_how_much_of_the_word(host: ModuleType, mini: Trio) -> None:
    clip = small_clip.clip_in(host, mini)
    words = small_clip.learned_words(clip, TRIGGERS)
    half = {key: tensor / 2 if "lora_down" in key else tensor for key, tensor in words.items()}
    assert same(load(host, mini[0], clip, words, of_clip=0.5)[1], load(host, mini[0], clip, half)[1], WITH)
    assert same(load(host, mini[0], clip, words, of_clip=0.0)[1], clip, WITH)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_word_is_heard_where_the_host_keeps_the_layer_elsewhere_and_patches_it_at_every_call(
    host: ModuleType, mini: Trio, dtype: torch.dtype
) -> None:
    """As with --lowvram, --novram and on a card without room: what is in memory stays as it is and is patched as it is cast."""
    whole, parted = (small_clip.clip_in(host, mini, dtype) for _ in range(2))
    words, before = small_clip.learned_words(whole, TRIGGERS), small_clip.weight_bytes(parted)
    in_parts = load(host, mini[0], parted, words)[1]
    for module in parted.cond_stage_model.modules():  # newer hosts have loaded it whole here, and take no notice of what comes then
        comfy.model_patcher.wipe_lowvram_weight(module)
    with torch.inference_mode():
        in_parts.patcher.patch_model(torch.device("cpu"), lowvram_model_memory=1)
        assert parted.cond_stage_model.clip_l.transformer.text_model.embeddings.token_embedding.weight_function
        found, other = (parted.cond_stage_model.encode_token_weights(parted.tokenize(prompt)) for prompt in (WITH, WITHOUT))
    assert small_clip.weight_bytes(parted) == before
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(other, said(whole, WITHOUT), strict=True))
    close = {torch.float32: 1e-6, torch.float16: 2e-3, torch.float8_e4m3fn: 0.3}[dtype]  # float8 is rounded where it is stored, here not
    for mine, theirs in zip(found, said(load(host, mini[0], whole, words)[1], WITH), strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < close


def carrying(core: ModuleType, clip: Any, concepts: tuple[str, ...] = ("content", "style")) -> tuple[Any, dict[str, Tensor]]:
    """An example's split with a learned word of each concept carried along, and the words alone as a file."""
    listing = importlib.import_module("b4m_pack.nodes.adapter")
    carried = importlib.import_module("b4m_pack.b4m_core.carried").Carried
    file, pieces = small_clip.learned_words(clip, TRIGGERS), []
    for number, name in enumerate("lg", start=1):
        key = small_clip.TOKEN_EMBEDDING.format(name)
        up, down = file[f"{key}.lora_up.weight"], file[f"{key}.lora_down.weight"]
        for concept, ranks in zip(("content", "style"), (slice(0, 1), slice(1, None)), strict=True):
            if concept in concepts:
                tensors = {"lora_up.weight": up[:, ranks].contiguous(), "lora_down.weight": down[ranks].contiguous()}
                pieces.append(carried(concept, f"lora_te{number}_text_model_embeddings_token_embedding", tensors))
    adapter = core.load_adapter(listing.EXAMPLES["(example content) fox"])
    return adapter.carrying(pieces), file


def test_b4m_apply_puts_the_words_on_the_clip_as_the_hosts_loader_does(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio
) -> None:
    clip = small_clip.clip_in(host, mini)
    adapter, file = carrying(core, clip)
    applied = pack.B4MApplyAdapter.execute(mini[0], adapter, 1.0, 1.0, clip=clip).result[1]
    assert same(applied, load(host, mini[0], clip, file)[1], WITH) and same(applied, clip, WITHOUT)
    without_style = pack.B4MApplyAdapter.execute(mini[0], adapter, 1.0, 0.0, clip=clip).result[1]
    assert same(without_style, clip, "a photo, w@z") and not same(without_style, clip, WITH)
    assert same(pack.B4MApplyAdapter.execute(mini[0], adapter, 0.0, 0.0, clip=clip).result[1], clip, WITH)


def test_without_a_clip_one_sentence_says_that_the_trigger_is_not_heard(core: ModuleType, pack: ModuleType, mini: Trio) -> None:
    adapter, _ = carrying(core, mini[1], ("content",))
    sentence = "The trigger word was learned too and is not heard: connect clip here, and its output to the prompts."
    assert sentence in shown(pack.B4MApplyAdapter.execute(mini[0], adapter, 1.0, 1.0)).splitlines()
    assert sentence not in shown(pack.B4MApplyAdapter.execute(mini[0], adapter, 0.0, 1.0))
    assert sentence not in shown(pack.B4MApplyAdapter.execute(mini[0], adapter, 1.0, 1.0, clip=mini[1]))


def test_nodes_that_paint_themselves_hear_the_words_as_the_graph_does(
    host: ModuleType, core: ModuleType, pack: ModuleType, mini: Trio
) -> None:
    adapter, _ = carrying(core, mini[1])
    clip = pack.B4MApplyAdapter.execute(mini[0], adapter, 1.0, 0.5, clip=mini[1]).result[1]
    base = host.HostBaseModel(*mini)
    base._conditioning(WITH)  # a column without the adapter was painted before
    painting = base.with_all_of(adapter, 1.0, 0.5)
    assert same(painting.clip, clip, WITH) and not same(painting.clip, mini[1], WITH)
    assert torch.equal(painting._conditioning(WITH)[0][0], said(clip, WITH)[0])


def test_a_sample_of_a_training_hears_the_words_as_the_saved_file_does(host: ModuleType, mini: Trio) -> None:
    network = {key: weight.half() for key, weight in small_sdxl.random_lora(mini[0], strength=0.1).items()}
    file = network | small_clip.learned_words(mini[1], TRIGGERS)
    model, clip = load(host, mini[0], mini[1], file)
    from_file = host.HostBaseModel(model, clip, mini[2], sampling=host.Sampling(1, 4.0))
    base = host.HostBaseModel(*mini, sampling=host.Sampling(1, 4.0))
    place = {"width": 64, "height": 64, "seed": 3}
    sample = base.sample_with(file, WITH, **place)
    assert torch.equal(sample, from_file.sample(WITH, **place)) and not torch.equal(sample, base.sample_with(network, WITH, **place))


def test_words_for_text_encoders_of_another_size_are_refused(
    host: ModuleType, core: ModuleType, mini: Trio, error: type[Exception]
) -> None:
    words = small_clip.learned_words(mini[1], TRIGGERS)
    name = f"{small_clip.TOKEN_EMBEDDING.format('g')}.lora_down.weight"
    words[name] = words[name][:, :7].contiguous()
    with pytest.raises(error, match="do not fit the CLIP connected here"):
        host.HostBaseModel(*mini).with_adapter(words)
    adapter, _ = carrying(core, mini[1])
    cut = adapter.carried[0]
    narrow = type(cut)(cut.concept, cut.key, {**cut.tensors, "lora_down.weight": cut.tensors["lora_down.weight"][:, :7]})
    with pytest.raises(error, match="1 of 4 updates of the adapter do not fit the CLIP connected here"):
        host.apply_adapter(mini[0], mini[1], adapter.carrying([narrow, *adapter.carried[1:]]), {"content": 1.0, "style": 1.0})


def test_a_training_goes_on_with_the_words_that_it_wears(host: ModuleType, core: ModuleType, mini: Trio) -> None:
    adapter, file = carrying(core, mini[1])
    worn = host.HostBaseModel(*mini, carried=adapter.carried)
    assert same(worn.clip, load(host, mini[0], mini[1], file)[1], WITH)
    assert worn.fingerprint != host.HostBaseModel(*mini).fingerprint
    assert worn.network_fingerprint == host.HostBaseModel(*mini).network_fingerprint


WIDGETS = {
    "steps": 2, "learning_rate": 1e-2, "resolution": 64, "seed": 0, "sample_every": 2, "sample_prompt": "a {content}", "sample_steps": 1,
    "sample_cfg": 4.0, "run": "retrain", "batch_size": 1, "gradient_accumulation_steps": 1, "weight_decay": 0.0, "flip": False,
    "file_dtype": "float16", "auxiliary_learning_rate": 0.0, "rank": 4, "basis_seed": 0, "start": "zero_start",
}  # fmt: skip


def test_a_trained_trigger_is_heard_alike_in_the_sample_from_b4ms_nodes_and_from_the_hosts_loader(
    host: ModuleType, pack: ModuleType, mini: Trio, loras: Any
) -> None:
    said(mini[1], "")  # the host takes off what an earlier test has loaded
    before = small_clip.weight_bytes(mini[1])
    adapter, sample = pack.B4MTrainContent.execute(*mini, pictures("snq"), **WIDGETS, textual_inversion=True).result
    assert {piece.key for piece in adapter.carried} == {f"lora_te{n}_text_model_embeddings_token_embedding" for n in (1, 2)}
    assert all(piece.tensors["lora_down.weight"].any() for piece in adapter.carried)
    pack.B4MSaveAdapter.execute(adapter, "heard", replace=True, compact=False)
    loaded = pack.B4MLoadAdapter.execute("heard.safetensors").result[0]
    model, clip = pack.B4MApplyAdapter.execute(mini[0], loaded, 1.0, 1.0, clip=mini[1]).result
    with torch.inference_mode():
        by_host = nodes.LoraLoader().load_lora(*mini[:2], "heard.safetensors", 1.0, 1.0)
    assert same(clip, by_host[1], "a snq bird") and not same(clip, mini[1], "a snq bird") and same(clip, mini[1], "a bird")
    painted = [
        host.HostBaseModel(*pair, mini[2], sampling=host.Sampling(1, 4.0)).sample("a snq bird", width=192, height=192, seed=0)
        for pair in ((model, clip), by_host)
    ]
    assert torch.equal(painted[0], painted[1]) and torch.equal(sample[0], painted[0])
    said(mini[1], "")
    assert small_clip.weight_bytes(mini[1]) == before


def test_clips_that_no_word_can_be_learned_in_are_refused_before_anything_is_painted(
    pack: ModuleType, mini: Trio, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = nodes.CLIPSetLastLayer().set_last_layer(mini[1], -4)[0]
    with pytest.raises(error, match="CLIP Set Last Layer stands at -4"):
        pack.B4MTrainContent.execute(mini[0], clip, mini[2], pictures("snq"), **WIDGETS, textual_inversion=True)
    whole = WIDGETS | {"preset": "quick", "together_steps": 0, "together_learning_rate": 1e-2}
    painting = importlib.import_module("b4m_pack.nodes.train_all")
    monkeypatch.setattr(painting, "sample_auxiliary", lambda *_, **__: pytest.fail("painted"))
    with pytest.raises(error, match="CLIP Set Last Layer stands at -4"):
        pack.B4MTrain.execute(mini[0], clip, mini[2], pictures("snq"), pictures("w@z"), **whole, textual_inversion=True)
