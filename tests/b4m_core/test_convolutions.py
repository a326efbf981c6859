"""Adapted convolutions (LoCon): their names, their updates, their files for every reader, and their merge with adapters that have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from peft import PeftModel
from test_apart import INK, answer
from tiny_files import CONCEPT, forged
from tiny_flow import FLOW
from tiny_flow import network as flow_network
from tiny_folder import write_folder
from torch import Tensor, nn

from b4m_core import (
    Adapter,
    B4MError,
    Facts,
    PartlyLearnableProjection,
    RunStore,
    load_adapter,
    lora_state_dict,
    merge,
    save_adapter,
    train,
)
from b4m_core.apart import apart
from b4m_core.compose import Share, is_sum, with_detail
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.files import save_in_layout
from b4m_core.layers import ATTENTION, CONVOLUTIONS, Patches, as_kernels
from b4m_core.models import FAMILIES
from b4m_core.models.family import adapted_layers
from b4m_core.models.sdxl import SDXL
from b4m_core.record import FILE
from b4m_core.resize import resized
from b4m_core.row_split import Rows
from b4m_core.settings import TrainingSettings
from b4m_core.toml_files import read_toml

SHORTCUT, DOWN = "up_blocks.1.resnets.0.conv_shortcut", "down_blocks.0.downsamplers.0.conv"
CONV = "down_blocks.0.resnets.1.conv2"


def convolutions(unet: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: layer for name, layer in adapted_layers(SDXL, unet, CONVOLUTIONS) if isinstance(layer, nn.Conv2d)}


def adapter_of(kind: str, role: str = "merged", *, layers: str = CONVOLUTIONS, rank: int = 3, seed: int = 5, **facts: Any) -> Adapter:
    words = {"content": None if role == "style" else CONCEPT, "style": None if role == "content" else INK}
    known = Facts(role=role, rank=rank, layers=layers, **words, **{**tiny.KINDS[kind], **facts})
    return tiny.filled(Adapter.for_unet(tiny.tiny_unet(levels=2), known), seed=seed, scale=0.05).rounded()


def wearing(adapter: Adapter, content: float = 1.0, style: float = 1.0, unet: nn.Module | None = None) -> Tensor:
    """The answer of a network with the adapter added to its weights."""
    unet = tiny.tiny_unet(levels=2) if unet is None else unet
    for name, layer in adapter.layers.items():
        weight = unet.get_submodule(name).weight
        weight += layer.delta_weight(content, style).detach().view_as(weight)  # type: ignore[operator]
    return answer(unet)


def test_the_convolutions_are_those_of_every_block_and_not_the_first_and_the_last() -> None:
    unet = tiny.tiny_unet(levels=2)
    every = {name for name, layer in unet.named_modules() if isinstance(layer, nn.Conv2d)}
    assert set(convolutions(unet)) == every - {"conv_in", "conv_out"} and len(convolutions(unet)) == 49 - 1  # levels 1 and 2 are as wide
    assert [name for name, _ in adapted_layers(SDXL, unet)] == [name for name, _ in adapted_layers(SDXL, unet, ATTENTION)]
    for name, layer in convolutions(unet).items():
        assert SDXL.module_path(SDXL.lora_key(name)) == name and layer.kernel_size == (SDXL.kernel(name),) * 2
        assert SDXL.kernel(name) == (1 if name.endswith("shortcut") else 3)


def test_a_convolution_of_another_kernel_is_refused() -> None:
    unet = tiny.tiny_unet()
    unet.mid_block.resnets[0].conv1 = nn.Conv2d(32, 32, 5)
    with pytest.raises(B4MError, match=r"mid_block.resnets.0.conv1 is no convolution as SDXL has it.*layers = attention\."):
        Adapter.for_unet(unet, Facts(role="content", rank=2, layers=CONVOLUTIONS))


def test_a_family_without_convolutions_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, FLOW.name, FLOW)
    with pytest.raises(B4MError, match=r"tiny flow has no convolutions that B4M adapts: choose layers = attention\."):
        Adapter.for_unet(flow_network(), Facts(role="content", rank=2, family="tiny_flow", layers=CONVOLUTIONS))


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_an_update_of_a_convolution_is_that_of_its_weight_and_each_row_moves_its_own_parts(kind: str, kernel: int, stride: int) -> None:
    conv = nn.Conv2d(5, 6, kernel, stride, kernel // 2, bias=False).double().requires_grad_(False)
    layer = PartlyLearnableProjection(6, 5 * kernel**2, 2, name=CONV, **tiny.KINDS[kind]).double()  # type: ignore[arg-type]
    for seed, part in enumerate(layer.parameters()):
        part.data.normal_(generator=torch.Generator().manual_seed(seed))
    x = torch.randn(3, 5, 7, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64, requires_grad=True)
    rows = Rows(slice(0, 1), slice(1, 3))
    found = layer(x, rows, Patches(conv))
    weight = layer.delta_weight().view_as(conv.weight)
    expected = torch.conv2d(x, weight, None, conv.stride, conv.padding)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    aim = torch.randn(expected.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    parts = dict(layer.named_parameters())
    gradients = dict(zip(("x", *parts), torch.autograd.grad((found * aim).sum(), (x, *parts.values())), strict=True))
    wanted = torch.autograd.grad((expected * aim).sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(gradients.pop("x"), wanted, rtol=1e-11, atol=1e-11)
    for part, gradient in gradients.items():
        mine = rows.of(layer.split.concept_of(part))
        own = torch.autograd.grad((expected[mine] * aim[mine]).sum(), parts[part], retain_graph=True)[0]
        torch.testing.assert_close(gradient, own, rtol=1e-11, atol=1e-11)


def test_the_factors_of_a_file_are_two_convolutions_one_after_the_other() -> None:
    conv = convolutions(tiny.tiny_unet())[DOWN]
    layer = PartlyLearnableProjection(16, 144, 2, name=DOWN, split="free")
    layer.A.data.normal_(), layer.B.data.normal_()
    up, down = as_kernels(*layer.lora_factors(), 3)
    x = torch.randn(1, 16, 8, 8)
    both = torch.conv2d(torch.conv2d(x, down, None, conv.stride, conv.padding), up)
    torch.testing.assert_close(both, torch.conv2d(x, layer.delta_weight().view_as(conv.weight), None, 2, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["published", "free"])
def test_a_file_is_a_locon_that_comes_back_and_that_diffusers_reads(kind: str, tmp_path: Path) -> None:
    adapter = adapter_of(kind)
    file = save_adapter(adapter, tmp_path / "x.safetensors")
    again = load_adapter(file)
    assert again.digest() == adapter.digest() and again.facts.layers == CONVOLUTIONS
    assert save_adapter(again, tmp_path / "y.safetensors").read_bytes()[-1000:] == file.read_bytes()[-1000:]
    state = safetensors.torch.load_file(file)
    k = adapter.facts.factor_rank()
    key = SDXL.lora_key(DOWN)
    assert state[f"{key}.lora_up.weight"].shape == (16, k, 1, 1) and state[f"{key}.lora_down.weight"].shape == (k, 16, 3, 3)
    with safetensors.safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["ss_network_args"]) == {"conv_dim": str(k), "conv_alpha": str(float(k))}
    unet = tiny.tiny_unet(levels=2)
    lora, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(state, unet_config=unet.config)
    StableDiffusionXLLoraLoaderMixin.load_lora_into_unet(lora, alphas, unet)
    expected = wearing(adapter)
    assert float((expected - wearing(adapter, 0, 0)).abs().max()) > 0.01
    torch.testing.assert_close(answer(unet), expected, rtol=1e-4, atol=1e-4)


def test_both_folders_hold_the_convolutions(tmp_path: Path) -> None:
    known = Facts(role="merged", rank=3, layers=CONVOLUTIONS, content=CONCEPT, style=INK, split="free")
    adapter = tiny.filled(Adapter.for_unet(tiny.tiny_unet(), known), scale=0.05).rounded()
    expected = wearing(adapter, unet=tiny.tiny_unet())
    save_in_layout(adapter, tmp_path / "peft", "peft")
    torch.testing.assert_close(answer(PeftModel.from_pretrained(tiny.tiny_unet(), str(tmp_path / "peft"))), expected, rtol=1e-4, atol=1e-4)
    save_in_layout(adapter, tmp_path / "lora", "diffusers")
    base = DiffusersFolder(write_folder(tmp_path / "model"))
    with base.wearing(adapter):  # our own way to paint
        torch.testing.assert_close(answer(base.unet), expected, rtol=1e-4, atol=1e-4)
    base.pipeline.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(answer(base.pipeline.unet), expected, rtol=1e-4, atol=1e-4)
    assert load_adapter(tmp_path / "lora").digest() == load_adapter(tmp_path / "peft").digest() == adapter.digest()


@pytest.mark.parametrize("kind", ["zero_start", "free"])
def test_a_compact_file_holds_them_too(kind: str, tmp_path: Path) -> None:
    adapter = adapter_of(kind, "together").compacted()
    again = load_adapter(save_adapter(adapter, tmp_path / "x.b4m"))
    assert again.digest() == adapter.digest() and torch.equal(wearing(again), wearing(adapter))


def test_a_file_that_another_program_cast_keeps_both_sliders(tmp_path: Path) -> None:
    adapter = adapter_of("full", "together")
    with safetensors.safe_open(save_adapter(adapter, tmp_path / "x.safetensors"), "pt") as file:
        tensors, header = {key: file.get_tensor(key).half() for key in sorted(file.keys())}, file.metadata()
    safetensors.torch.save_file(tensors, tmp_path / "y.safetensors", header)
    again = load_adapter(tmp_path / "y.safetensors")
    assert again.facts.layers == CONVOLUTIONS and len(again.layers) == len(adapter.layers) and not again.carried
    for strengths in ((1.0, 0.0), (0.0, 1.0)):
        torch.testing.assert_close(wearing(again, *strengths), wearing(adapter, *strengths), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("shape", [(3, 16, 3, 1), (3, 16, 9), (3, 144), (3, 36, 2, 2), (3, 144, 1, 1)])
def test_a_kernel_that_the_layer_does_not_have_is_damage(shape: tuple[int, ...], tmp_path: Path) -> None:
    facts = Facts(role="content", rank=3, layers=CONVOLUTIONS, **tiny.KINDS["free"])  # type: ignore[arg-type]
    tensors = lora_state_dict(tiny.filled(Adapter.fresh({DOWN: (16, 144)}, facts)))
    key = SDXL.lora_key(DOWN)
    up = torch.zeros(16, 3, *(1 for _ in shape[2:]))
    changed = {**tensors, f"{key}.lora_down.weight": torch.zeros(shape), f"{key}.lora_up.weight": up}
    with pytest.raises(B4MError, match="is no pair of kernels"):
        load_adapter(forged(tmp_path / "x.safetensors", changed, facts.to_json()))


@pytest.mark.parametrize(
    ("kind", "rank", "with_them"),
    [("zero_start", 3, "content"), ("published", 3, "style"), ("full", 3, "content"), ("free", 3, "style"), ("free", 5, "content")],
)
def test_an_adapter_with_convolutions_merges_with_one_without_on_their_basis(kind: str, rank: int, with_them: str, tmp_path: Path) -> None:
    layers = {role: CONVOLUTIONS if role == with_them else ATTENTION for role in ("content", "style")}
    content = adapter_of(kind, "content", layers=layers["content"])
    style = adapter_of(kind, "style", layers=layers["style"], rank=rank, seed=6)
    before = content.digest(), style.digest()
    merged = merge(content, style)
    assert not is_sum(content, style) and merged.facts.split == content.facts.split and (content.digest(), style.digest()) == before
    alone = {"content": (content, 1.0, 0.0), "style": (style, 0.0, 1.0)}[with_them]
    for name in convolutions(tiny.tiny_unet(levels=2)):
        one = alone[0].layers[name].delta_weight(*alone[1:])
        torch.testing.assert_close(merged.layers[name].delta_weight(*alone[1:]), one)
        torch.testing.assert_close(merged.layers[name].delta_weight(1, 1), one)
    assert load_adapter(save_adapter(merged, tmp_path / "x.safetensors")).digest() == merged.digest()
    again = merge(*apart(merged).values())
    torch.testing.assert_close(wearing(again), wearing(merged), rtol=1e-5, atol=1e-5)


def test_shares_details_and_a_smaller_rank_reach_the_convolutions(tmp_path: Path) -> None:
    content, style = adapter_of("free", "content"), adapter_of("free", "style", seed=6)
    half = merge(content, style, content_share=Share(0.5))
    torch.testing.assert_close(half.layers[CONV].delta_weight(1, 0), 0.5 * content.layers[CONV].delta_weight(1, 0))
    other = adapter_of("free", "content", seed=7)
    detailed = with_detail(merge(content, style), other)
    state = lora_state_dict(detailed)
    key = SDXL.lora_key(CONV)
    product = torch.einsum("m r i j, r c k l -> m c k l", state[f"{key}.lora_up.weight"], state[f"{key}.lora_down.weight"]).flatten(1)
    wanted = merge(content, style).layers[CONV].delta_weight() + other.layers[CONV].delta_weight(1, 0)
    torch.testing.assert_close(product, wanted + other.layers[CONV].delta_weight(0, 1), rtol=1e-4, atol=1e-5)
    again = load_adapter(save_adapter(detailed, tmp_path / "x.safetensors"))
    assert again.digest() == detailed.digest() and len(again.carried) == len(detailed.carried)
    small, off = resized(merge(content, style), 1)
    assert small.facts.layers == CONVOLUTIONS and small.layers[CONV].D.shape == (1, 144) and 0 < off < 1


def test_somebody_elses_convolutions_stand_beside_our_own_in_one_layer(tmp_path: Path) -> None:
    ours, theirs = adapter_of("free", "content"), adapter_of("free", "style", seed=6)
    safetensors.torch.save_file(lora_state_dict(theirs), tmp_path / "theirs.safetensors")
    read = load_adapter(tmp_path / "theirs.safetensors", use_as="style")
    assert len(read.carried) == len(convolutions(tiny.tiny_unet(levels=2))) and read.facts.layers == ATTENTION
    merged = merge(ours, read)
    assert merged.facts.layers == CONVOLUTIONS and len(merged.carried) == len(read.carried)
    file = save_adapter(merged, tmp_path / "both.safetensors")
    assert load_adapter(file).digest() == merged.digest()
    state = safetensors.torch.load_file(file)
    unet = tiny.tiny_unet(levels=2)
    lora, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(state, unet_config=unet.config)
    StableDiffusionXLLoraLoaderMixin.load_lora_into_unet(lora, alphas, unet)
    expected = tiny.tiny_unet(levels=2)
    wearing(theirs, unet=expected)
    torch.testing.assert_close(answer(unet), wearing(ours, 1, 0, unet=expected), rtol=1e-3, atol=1e-3)


def test_a_run_with_convolutions_is_another_run_whose_record_says_so(tmp_path: Path) -> None:
    plans = [tiny.plan("content", partners=0, steps=1, layers=layers) for layers in (ATTENTION, CONVOLUTIONS)]
    base, store = tiny.TinyBase(), RunStore(tmp_path)
    attention, both = (train(made, base, store) for made in plans)
    assert (attention.facts.layers, both.facts.layers) == (ATTENTION, CONVOLUTIONS)
    runs = [store.open(made.key(base)) for made in plans]
    assert runs[0].key != runs[1].key
    told = [read_toml(run.folder / FILE).table("settings") for run in runs]
    assert "layers" not in told[0] and told[1].text("layers") == CONVOLUTIONS
    assert TrainingSettings(**both.facts.settings) == plans[1].settings


def test_attention_alone_says_what_it_always_said() -> None:
    """Runs keep their keys, files their bytes and their format."""
    assert "layers" not in TrainingSettings().as_dict()
    assert TrainingSettings(layers=CONVOLUTIONS).as_dict()["layers"] == CONVOLUTIONS
    attention, both = (adapter_of("free", "content", layers=layers).facts for layers in (ATTENTION, CONVOLUTIONS))
    assert "layers" not in json.loads(attention.to_json()) and json.loads(both.to_json())["format"] == 5
    assert Facts.from_json(both.to_json()) == both and "convolutions (LoCon)" in both.summary() and "LoCon" not in attention.summary()
    with pytest.raises(B4MError, match="layers is 'all': choose one of attention, attention_and_convolutions"):
        TrainingSettings(layers="all")
