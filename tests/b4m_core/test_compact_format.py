"""Compact files: what was taught and nothing else, read back as the same adapter, and refused by whoever needs a LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from tiny_files import FACTS, forged, refused
from torch import Tensor

from b4m_core import Adapter, B4MError, load_adapter, lora_state_dict, merge, read_facts, save_adapter
from b4m_core.compact_format import taught_parts

TAUGHT = {"content": ["D"], "style": ["B"], "merged": ["B", "D"], "together": ["B", "D"]}
FREE = {"content": ["A", "D"], "style": ["B", "C"], "merged": [*"ABCD"], "together": [*"ABCD"]}


def compact(role: str, kind: str = "zero_start", **changes: object) -> Adapter:
    return tiny.small_adapter(role, **{**tiny.KINDS[kind], **changes}).compacted()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("role", TAUGHT)
def test_a_compact_file_holds_the_taught_parts_and_comes_back_bit_for_bit(role: str, kind: str, tmp_path: Path) -> None:
    whole = tiny.small_adapter(role, **tiny.KINDS[kind])  # type: ignore[arg-type]
    path = save_adapter(whole.compacted(), tmp_path / "compact.safetensors")
    again, tensors = load_adapter(path), safetensors.torch.load_file(path)
    taught = (FREE if kind == "free" else TAUGHT)[role]
    assert tensors.keys() == {"shapes", *(f"{name}.{half}" for name in (tiny.LAYER, tiny.OTHER_LAYER) for half in taught)}
    assert again.facts == whole.compacted().facts == read_facts(path) and again.facts.compact
    for name, layer in again.layers.items():
        fresh = type(layer)(*layer.shape, 2, name=name, split=layer.split.name)
        for part in "ABCD":
            expected = getattr(whole.layers[name], part)
            if part not in taught and part in layer.split.learned:
                expected = getattr(fresh, part) if kind == "free" else torch.zeros_like(expected)
            assert torch.equal(getattr(layer, part), expected)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_compact_contents_and_styles_merge_to_what_the_whole_ones_merge_to(kind: str, tmp_path: Path) -> None:
    whole = [tiny.small_adapter(role, fill=fill, **tiny.KINDS[kind]) for role, fill in (("content", 1), ("style", 2))]  # type: ignore[arg-type]
    compact = [load_adapter(save_adapter(adapter.compacted(), tmp_path / f"{adapter.facts.role}.safetensors")) for adapter in whole]
    merged = merge(*compact)
    assert merged.digest() == merge(*whole).digest() and not merged.facts.compact


def test_compacting_leaves_the_adapter_as_it_was() -> None:
    adapter = tiny.small_adapter("content")
    before = adapter.digest()
    adapter.compacted()
    assert adapter.digest() == before and not adapter.facts.compact


@pytest.mark.parametrize("kind,least", [("zero_start", 8), ("full", 4), ("free", 2)])
def test_a_compact_content_is_a_small_part_of_its_lora(kind: str, least: int) -> None:
    adapter = tiny.small_adapter("content", **tiny.KINDS[kind])  # type: ignore[arg-type]
    of_lora = sum(tensor.numel() for key, tensor in lora_state_dict(adapter).items() if not key.endswith("alpha"))
    of_parts = sum(tensor.numel() for key, tensor in taught_parts(adapter).items() if key != "shapes")
    assert abs(of_lora / of_parts - least) < 1.5


def test_a_compact_content_paints_as_the_whole_one_does_with_its_style_at_zero() -> None:
    whole = tiny.small_adapter("content")
    for name, layer in whole.compacted().layers.items():
        assert torch.equal(layer.delta_weight(1.0, 1.0), whole.layers[name].delta_weight(1.0, 0.0))


@pytest.mark.parametrize("role,place", [("style", "content"), ("content", "style")])
def test_a_compact_file_where_its_other_half_is_needed_is_refused_by_reason(role: str, place: str) -> None:
    with pytest.raises(B4MError, match=f"A {role} adapter is plugged into the {place} input: swap the two"):
        merge(compact(role), compact(role))


def test_an_ordinary_lora_loader_refuses_a_compact_file_instead_of_loading_nothing(tmp_path: Path) -> None:
    save_adapter(compact("content"), tmp_path / "compact.safetensors")
    loader = type("Pipeline", (StableDiffusionXLLoraLoaderMixin,), {"unet": tiny.tiny_unet()})()
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        loader.load_lora_weights(str(tmp_path), weight_name="compact.safetensors")


def without_a_half(tensors: dict[str, Tensor]) -> None:
    del tensors[f"{tiny.LAYER}.D"]


def with_a_nan(tensors: dict[str, Tensor]) -> None:
    tensors[f"{tiny.LAYER}.D"][0, 0] = float("nan")


def of_another_rank(tensors: dict[str, Tensor]) -> None:
    tensors[f"{tiny.LAYER}.D"] = torch.zeros(7, 4)


def without_sizes(tensors: dict[str, Tensor]) -> None:
    del tensors["shapes"]


def with_sizes_of_another_kind(tensors: dict[str, Tensor]) -> None:
    tensors["shapes"] = tensors["shapes"].float()


def with_enormous_sizes(tensors: dict[str, Tensor]) -> None:
    tensors["shapes"][0, 0] = 2**31 - 1


def with_negative_sizes(tensors: dict[str, Tensor]) -> None:
    tensors["shapes"][1, 1] = -8


def with_sizes_a_little_off(tensors: dict[str, Tensor]) -> None:
    tensors["shapes"][0, 0] += 1


def with_a_foreign_layer(tensors: dict[str, Tensor]) -> None:
    tensors["text_model.q_proj.D"] = torch.zeros(2, 4)
    tensors["shapes"] = torch.cat([tensors["shapes"], tensors["shapes"][:1]])


@pytest.mark.parametrize(
    "change",
    [
        without_a_half, with_a_nan, of_another_rank, without_sizes, with_sizes_of_another_kind, with_enormous_sizes, with_negative_sizes,
        with_sizes_a_little_off, with_a_foreign_layer, dict.clear,
    ],
)  # fmt: skip
def test_hostile_compact_files_with_a_right_checksum_are_refused(change: Callable[[dict[str, Tensor]], None], tmp_path: Path) -> None:
    adapter = compact("content", **FACTS)
    tensors = taught_parts(adapter)
    change(tensors)
    file = forged(tmp_path / "hostile.safetensors", tensors, adapter.facts.to_json())
    with pytest.raises(B4MError):
        load_adapter(file)


def test_a_flipped_byte_of_a_compact_file_is_caught(tmp_path: Path) -> None:
    raw = save_adapter(compact("style"), tmp_path / "x.safetensors").read_bytes()
    refused(tmp_path, raw[:-1] + bytes([raw[-1] ^ 1]), "checksum")


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_a_compact_file_with_values_that_are_no_numbers_is_never_saved(value: float, tmp_path: Path) -> None:
    adapter = compact("content", file_dtype="float16")
    adapter.layers[tiny.LAYER].D.data[0, 0] = value
    with pytest.raises(B4MError, match="was not saved"):
        save_adapter(adapter, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
