"""Other tools' LoRAs: every layout as content, as style and as both, whole, exact, and named where something has no place."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks

from b4m_core import Adapter, B4MError, Facts, load_adapter, merge, save_adapter
from b4m_core.carried import add_to
from b4m_core.models.sdxl.modules import layer_key, original_key
from benchmarks.formats.layouts import RANK, WRITERS, attentions

LORAS = ["kohya, attention", "kohya, LoCon", "diffusers, lora.up", "diffusers, processors", "B-LoRA", "PEFT, LoRA"]
OTHERS = [
    "kohya, LoHa",
    "kohya, LoKr",
    "kohya, DoRA by columns",
    "kohya, DoRA by rows",
    "kohya, OFT",
    "kohya, whole weights",
    "PEFT, OFT",
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return tiny.tiny_unet()


def written(name: str, network: nn.Module, place: Path, dtype: torch.dtype = torch.float32) -> Path:
    return WRITERS[name](network, (), place / name.replace(", ", "_"), dtype)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, weight in network.named_parameters():
        path, _, kind = name.rpartition(".")
        key = layer_key(f"unet.{path}")
        if key is not None:
            found[f"{key}.{kind}"] = weight.detach().clone()
    return found


def added(adapter: Adapter, network: nn.Module, **strengths: float) -> dict[str, Tensor]:
    """What an adapter adds to every weight, by name."""
    known = {"content": 1.0, "style": 1.0, "detail": 1.0, **strengths}
    before = {name: weight.double() for name, weight in weights_of(network).items()}
    after = {name: weight.clone() for name, weight in before.items()}
    add_to(after, adapter.carried, known, "tiny")
    for path, layer in adapter.layers.items():
        after[f"{layer_key(f'unet.{path}')}.weight"] += layer.double().delta_weight(known["content"], known["style"]).detach()
    return {name: after[name] - before[name] for name in before}


def largest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def summed(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """What up times down adds, written out for kohya's names."""
    total = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights_of(network).items()}
    for key in tensors:
        if key.endswith(".lora_up.weight"):
            layer = key.removesuffix(".lora_up.weight")
            up, down = (tensors[f"{layer}.lora_{factor}.weight"].double().flatten(1) for factor in ("up", "down"))
            name = f"{layer_key(layer)}.weight"
            total[name] += (up @ down).reshape(total[name].shape) * float(tensors[f"{layer}.alpha"]) / len(down)
    return total


@pytest.mark.parametrize("use_as", ["content", "style", "both"])
@pytest.mark.parametrize("name", LORAS)
def test_a_lora_is_taken_for_what_is_wanted_and_its_sliders_are_exact(name: str, use_as: str, network: nn.Module, tmp_path: Path) -> None:
    file = written(name, network, tmp_path)
    adapter = load_adapter(file, use_as)
    whole = added(adapter, network)
    assert adapter.facts.split == "free" and adapter.facts.origin and any(bool(each.any()) for each in whole.values())
    assert adapter.facts.role == {"both": "together"}.get(use_as, use_as)
    one = {"content": 1.0, "style": 0.0} if use_as != "style" else {"content": 0.0, "style": 1.0}
    mine, other = (
        added(adapter, network, **one),
        added(adapter, network, **{key: 1.0 - value for key, value in one.items()}),
    )
    assert largest({key: mine[key] + other[key] for key in mine}, whole) < 1e-7
    if use_as != "both":
        assert not any(bool(each.any()) for each in other.values())
        assert largest({key: -2.0 * value for key, value in mine.items()}, added(adapter, network, **{use_as: -2.0})) < 1e-6


def test_kohyas_alpha_counts_and_convolutions_and_feed_forward_are_carried_along(network: nn.Module, tmp_path: Path) -> None:
    file = written("kohya, LoCon", network, tmp_path)
    adapter = load_adapter(file)
    assert largest(added(adapter, network), summed(load_file(file), network)) < 1e-7
    assert len(adapter.layers) == len(attentions(network)) and {piece.concept for piece in adapter.carried} == {"content"}
    (note,) = adapter.notes
    assert "feed-forward layers" in note and "convolution blocks" in note and "as LoRA" in note
    assert "carried along" in adapter.summary()


@pytest.mark.parametrize("name", ["kohya, LoCon", "kohya, LoHa", "kohya, OFT", "kohya, DoRA by rows", "PEFT, DoRA"])
def test_a_foreign_adapter_is_saved_and_comes_back_with_all_that_it_carries(name: str, network: nn.Module, tmp_path: Path) -> None:
    adapter = load_adapter(written(name, network, tmp_path), "style").with_facts(file_dtype="float32")
    again = load_adapter(save_adapter(adapter, tmp_path / "ours.safetensors"))
    assert again.facts == adapter.facts and len(again.carried) == len(adapter.carried)
    assert largest(added(adapter, network, style=0.7), added(again, network, style=0.7)) < 1e-6
    if "PEFT" not in name:
        other = load_adapter(_without_facts(tmp_path / "ours.safetensors"), "style")  # what other tools see in our file
        assert largest(added(adapter, network), added(other, network)) < 1e-6


def _without_facts(file: Path) -> Path:
    plain = file.with_name("plain.safetensors")
    save_file(load_file(file), plain)
    return plain


@pytest.mark.parametrize("pair", [("kohya, LoCon", "kohya, LoHa"), ("kohya, DoRA by columns", "kohya, OFT"), ("PEFT, OFT", "kohya, LoCon")])
def test_a_merge_of_any_two_and_a_detail_is_the_sum_of_what_each_adds_alone(
    pair: tuple[str, str], network: nn.Module, tmp_path: Path
) -> None:
    content, style = (load_adapter(written(name, network, tmp_path), role) for name, role in zip(pair, ("content", "style"), strict=True))
    detail = load_adapter(written("diffusers, lora.up", network, tmp_path), "style")
    merged = merge(content, style, detail)
    for strengths in ((1.0, 1.0, 1.0), (-2.0, 3.0, 0.5), (0.0, 1.0, 0.0)):
        a, b, c = strengths
        alone = [
            added(content, network, content=a),
            added(style, network, style=b),
            added(detail, network, style=c, content=c),
        ]
        expected = {key: sum((each[key] for each in alone), torch.zeros(())) for key in alone[0]}
        assert largest(added(merged, network, content=a, style=b, detail=c), expected) < 1e-6


def test_ours_and_somebodys_merge_exactly_whatever_the_split(network: nn.Module, tmp_path: Path) -> None:
    style = load_adapter(written("kohya, LoCon", network, tmp_path), "style")
    for split in ("free", "full", "halves"):
        content = tiny.filled(Adapter.for_unet(network, Facts(role="content", rank=3, split=split)), 5)
        merged = merge(content, style)
        alone = added(content, network, content=1.3, style=0.0), added(style, network, style=0.4)
        assert largest(added(merged, network, content=1.3, style=0.4), {key: alone[0][key] + alone[1][key] for key in alone[0]}) < 1e-6


def test_the_papers_files_have_sliders_between_their_halves(network: nn.Module, tmp_path: Path) -> None:
    file = written("the paper's code", network, tmp_path)
    tensors = load_file(file)
    adapter = load_adapter(file, "both")
    assert (adapter.facts.split, adapter.facts.start, adapter.facts.stored_basis) == ("halves", "published", True)
    path, linear = attentions(network)[0]
    up, down = (tensors[f"unet.unet.{path}.lora.{factor}.weight"].double() for factor in ("up", "down"))
    m, n = linear.weight.shape  # type: ignore[union-attr, misc]
    rows, columns = torch.ones(m, 1).double(), torch.ones(1, n).double()
    rows[m // 2 :], columns[:, n // 2 :] = 0.25, 0.5
    scaled = (up * rows) @ (down * columns)
    scaled[: m // 2, : n // 2] *= 0.5  # the constant counts as the stronger of the two
    torch.testing.assert_close(adapter.layers[path].double().delta_weight(0.5, 0.25), scaled, atol=1e-7, rtol=0)
    again = load_adapter(save_adapter(load_adapter(file, "both"), tmp_path / "ours.safetensors"))
    assert again.digest() == load_adapter(file, "both").digest()


def test_the_papers_content_and_style_are_put_together_as_its_stage_two_does(network: nn.Module, tmp_path: Path) -> None:
    content = load_file(written("the paper's code", network, tmp_path))
    generator = torch.Generator().manual_seed(9)
    style = {}
    for key, tensor in content.items():  # the same A and C but for weight decay, other B and D
        half = (tensor.shape[0] if ".up." in key else tensor.shape[1]) // 2
        frozen = torch.zeros_like(tensor, dtype=torch.bool)
        (frozen[:half] if ".up." in key else frozen[:, :half]).fill_(True)
        style[key] = torch.where(frozen, tensor * 0.999, torch.randn(tensor.shape, generator=generator) * 0.05)
    save_file(content, tmp_path / "content.safetensors")
    save_file(style, tmp_path / "style.safetensors")
    merged = merge(load_adapter(tmp_path / "content.safetensors"), load_adapter(tmp_path / "style.safetensors", "style"))
    assert merged.facts.split == "halves"
    for path, layer in merged.layers.items():
        down = style[f"unet.unet.{path}.lora.down.weight"].clone()
        half = down.shape[1] // 2
        down[:, half:] = content[f"unet.unet.{path}.lora.down.weight"][:, half:]
        torch.testing.assert_close(layer.delta_weight().detach(), style[f"unet.unet.{path}.lora.up.weight"] @ down, atol=1e-6, rtol=0)


def test_a_b_loras_blocks_are_told_apart(network: nn.Module, tmp_path: Path) -> None:
    tensors = load_file(written("diffusers, lora.up", tiny.tiny_unet(levels=2), tmp_path))
    blocks = tuple(f"unet.up_blocks.0.attentions.{number}." for number in (0, 1))
    save_file({key: value for key, value in tensors.items() if key.startswith(blocks)}, tmp_path / "b.safetensors")
    content, style, both = (load_adapter(tmp_path / "b.safetensors", use_as) for use_as in ("content", "style", "both"))
    assert all("attentions.0" in path for path in content.layers) and all("attentions.1" in path for path in style.layers)
    assert set(both.layers) == {*content.layers, *style.layers} and both.notes == ()
    assert "style block of this B-LoRA" in content.notes[0] and "use as = both" in content.notes[0]
    for path, layer in both.layers.items():
        concept = (1.0, 0.0) if "attentions.0" in path else (0.0, 1.0)
        assert torch.equal(layer.delta_weight(*concept), layer.delta_weight()) and layer.delta_weight().any()


def test_pefts_alpha_is_read_from_beside_the_file_and_from_the_header(network: nn.Module, tmp_path: Path) -> None:
    file = written("PEFT, LoRA", network, tmp_path)
    half, alone = added(load_adapter(file), network), tmp_path / "alone.safetensors"
    tensors = load_file(file)
    save_file(tensors, alone)
    whole = added(load_adapter(alone), network)
    assert largest({key: 2 * value for key, value in half.items()}, whole) < 1e-7
    save_file(tensors, alone, {"lora_adapter_metadata": json.dumps({"unet.r": RANK, "unet.lora_alpha": RANK / 2})})
    assert largest(half, added(load_adapter(alone), network)) < 1e-7


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            ["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight"],
            "a LoRA for Stable Diffusion 1 or 2",
        ),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"], "a LoRA for Stable Diffusion 1 or 2"),
        (["lora_unet_double_blocks_0_img_attn_proj.lora_up.weight"], "a LoRA for Flux"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "a LoRA for Flux"),
        (["diffusion_model.blocks.0.cross_attn.k.lora_A.weight"], "a LoRA for Wan"),
        (
            ["transformer_blocks.0.attn.add_q_proj.lora_A.weight", "transformer_blocks.0.img_mlp.net.2.lora_A.weight"],
            "for Qwen-Image",
        ),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a whole checkpoint: load it with Load Checkpoint"),
        (["clip_g", "clip_l"], "a textual inversion"),
        (["first_stage_model.encoder.conv_in.weight"], "a VAE"),
        (["something.weight"], "no LoRA for SDXL"),
        (
            ["lora_unet_mid_block_attentions_0_proj_in.a1.weight", "lora_unet_mid_block_attentions_0_proj_in.alpha"],
            "is a GLoRA",
        ),
    ],
)
def test_what_is_no_lora_for_sdxl_is_named_in_a_sentence(keys: list[str], words: str, tmp_path: Path) -> None:
    save_file({key: torch.ones(2, 2) for key in keys}, tmp_path / "other.safetensors")
    with pytest.raises(B4MError, match=words) as caught:
        load_adapter(tmp_path / "other.safetensors")
    assert str(caught.value).startswith("other.safetensors") and str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_what_is_of_no_layer_is_left_out_and_named(network: nn.Module, tmp_path: Path) -> None:
    tensors = load_file(written("kohya, attention", network, tmp_path))
    save_file({**tensors, "bundle_emb.word.string_to_param.*": torch.ones(2)}, tmp_path / "more.safetensors")
    assert "1 tensors of more.safetensors are of no layer of an SDXL" in load_adapter(tmp_path / "more.safetensors").notes[0]


def test_one_file_cannot_hold_a_dora_beside_another_update_and_says_so(network: nn.Module, tmp_path: Path) -> None:
    content = load_adapter(written("kohya, attention", network, tmp_path))
    style = load_adapter(written("kohya, DoRA by rows", network, tmp_path / "s"), "style")
    with pytest.raises(B4MError, match="One LoRA file cannot hold this adapter: layer .* has a lora update .style. beside another one"):
        save_adapter(merge(content, style), tmp_path / "both.safetensors")
    assert not (tmp_path / "both.safetensors").exists()


@pytest.mark.parametrize("name", ["kohya, LoHa", "kohya, LoKr"])
def test_a_loha_or_lokr_beside_a_lora_goes_into_one_file_with_its_sliders(name: str, network: nn.Module, tmp_path: Path) -> None:
    content = load_adapter(written("kohya, attention", network, tmp_path))
    theirs = load_file(written(name, network, tmp_path))
    save_file({key: value for key, value in theirs.items() if "_attn" in key}, tmp_path / "attention.safetensors")
    merged = merge(content, load_adapter(tmp_path / "attention.safetensors", "style"))
    again = load_adapter(save_adapter(merged, tmp_path / "both.safetensors"))
    for strengths in ({"content": 0.7, "style": 1.0}, {"content": 0.0, "style": -2.0}):
        assert largest(added(merged, network, **strengths), added(again, network, **strengths)) < 1e-6
    assert largest(added(merged, network), summed(load_file(tmp_path / "both.safetensors"), network)) < 1e-6


def test_every_layer_of_sdxl_has_its_original_name_and_comes_back() -> None:
    from diffusers import UNet2DConditionModel
    from test_sdxl_size import SDXL

    with torch.device("meta"):
        network = UNet2DConditionModel(**SDXL)
    paths = [name for name, module in network.named_modules() if hasattr(module, "weight")]
    keys = [layer_key(f"unet.{path}") for path in paths]
    assert keys == ["lora_unet_" + path.replace(".", "_") for path in paths] and len(paths) == 1050
    originals = [original_key(str(key)) for key in keys]
    assert len(set(originals)) == len(originals) and [layer_key(name) for name in originals] == keys
    known = {
        "down_blocks_0_downsamplers_0_conv": "input_blocks_3_0_op", "up_blocks_1_upsamplers_0_conv": "output_blocks_5_2_conv",
        "mid_block_resnets_1_conv2": "middle_block_2_out_layers_3", "conv_in": "input_blocks_0_0", "conv_out": "out_2",
        "down_blocks_1_resnets_0_conv_shortcut": "input_blocks_4_0_skip_connection",
        "up_blocks_2_resnets_1_norm1": "output_blocks_7_0_in_layers_0",
        "add_embedding_linear_2": "label_emb_0_2", "down_blocks_2_attentions_1_proj_out": "input_blocks_8_1_proj_out",
    }  # fmt: skip
    assert all(original_key(f"lora_unet_{ours}") == f"lora_unet_{theirs}" for ours, theirs in known.items())


@pytest.mark.parametrize("change", [lambda t: t[:, :-1], lambda t: t.to(torch.int32), lambda t: t * torch.nan, lambda t: t[:0]])
def test_a_damaged_layer_is_named(change: Callable[[Tensor], Tensor], network: nn.Module, tmp_path: Path) -> None:
    tensors: dict[str, Any] = load_file(written("kohya, attention", network, tmp_path))
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[key] = change(tensors[key]).contiguous()
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(B4MError, match="bad.safetensors is damaged: its layer lora_unet_"):
        load_adapter(tmp_path / "bad.safetensors")


def test_a_few_mutants_of_every_layout_are_refused_or_load_and_leave_no_network_half_patched(tmp_path: Path) -> None:
    import random

    from benchmarks.formats import mutants

    small = tiny.tiny_unet((1, 1, 1))
    patient = mutants.Patient(small)
    for name in [*LORAS, *OTHERS, "the paper's code"]:
        header, data = mutants.taken_apart(written(name, small, tmp_path, torch.float16).read_bytes())
        draw = random.Random(name)
        for number in range(len(mutants.MUTATIONS)):
            mutant = mutants.MUTATIONS[number](draw, header, data)
            _, seconds, _ = mutants.tried(mutant, tmp_path / "mutant.safetensors", patient, draw.choice(("content", "style", "both")))
            assert seconds < mutants.SECONDS, (name, number)
