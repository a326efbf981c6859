"""Files of ours that other programs wrote again are read as they are now, with a note; damage is still called damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import tiny
import torch
from test_apart import INK
from tiny_files import CONCEPT
from torch import Tensor

from b4m_core import Adapter, B4MError, Facts, load_adapter, save_adapter

Tensors = dict[str, Tensor]
ROLES = {"content": (True, False), "style": (False, True), "together": (True, True)}


def adapter_of(kind: str, role: str, **facts: object) -> Adapter:
    """A content and a style have nothing but their own, as those trained with output preservation."""
    content, style = ROLES[role]
    known = Facts(role=role, rank=4, content=CONCEPT if content else None, style=INK if style else None,
                  **{**tiny.KINDS[kind], **facts})  # type: ignore[arg-type] # fmt: skip
    shapes = {tiny.LAYER: (16, 16), tiny.LAYER.replace("to_q", "to_v"): (18, 16), tiny.OTHER_LAYER: (16, 24)}
    adapter = tiny.filled(Adapter.fresh(shapes, known), seed=5)
    with torch.no_grad():
        for layer in adapter.layers.values():
            for there, part in ((content, known.split_row.content[0]), (style, known.split_row.style[0])):
                if not there:
                    getattr(layer, part).zero_()
    return adapter.rounded()


def rewritten(path: Path, change: Callable[[Tensors], Tensors], drop_header: bool = False, **metadata: str) -> Path:
    """The file as another program writes it: other numbers, the header kept or dropped."""
    with safetensors.safe_open(path, "pt") as file:
        header = {**(file.metadata() or {}), **metadata}
    tensors = {key: value.contiguous() for key, value in change(safetensors.torch.load_file(path)).items()}
    safetensors.torch.save_file(tensors, path, None if drop_header else header)
    return path


def updates(path: Path) -> Tensors:
    """What any LoRA loader adds: up times down times alpha over rank."""
    tensors = safetensors.torch.load_file(path)
    keys = {key.split(".")[0] for key in tensors}
    return {
        key: tensors[f"{key}.lora_up.weight"].double() @ tensors[f"{key}.lora_down.weight"].double()
        * float(tensors[f"{key}.alpha"]) / len(tensors[f"{key}.lora_down.weight"])
        for key in keys
    }  # fmt: skip


def off(adapter: Adapter, path: Path) -> float:
    """The relative Frobenius difference between our update and any loader's."""
    from b4m_core.models.sdxl.names import kohya_key

    wanted, worst, whole = updates(path), 0.0, 0.0
    for name, layer in adapter.layers.items():
        update = wanted[kohya_key(name)]
        worst += float((layer.delta_weight().detach().double() - update).square().sum())
        whole += float(update.square().sum())
    return (worst / whole) ** 0.5


def resize(rank: int) -> Callable[[Tensors], Tensors]:
    """What a resizing tool does: the nearest product of a lower rank, alpha in proportion, ranks of its own for each layer."""

    def change(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        for number, key in enumerate(sorted({key.split(".")[0] for key in tensors})):
            up, down = (tensors[f"{key}.lora_{part}.weight"].float() for part in ("up", "down"))
            u, s, v = torch.linalg.svd(up @ down)
            k = rank + number % 2
            found[f"{key}.lora_up.weight"], found[f"{key}.lora_down.weight"] = u[:, :k] * s[:k], v[:k]
            found[f"{key}.alpha"] = torch.tensor(float(k))
        return found

    return change


def cast(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value.to(dtype) for key, value in tensors.items()}


def scale(factor: float, part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value * factor if part in key else value for key, value in tensors.items()}


CHANGES: dict[str, Callable[[Tensors], Tensors]] = {
    "bfloat16": cast(torch.bfloat16),
    "float16": cast(torch.float16),
    "all x 0.8": scale(0.8, "weight"),
    "up x 0.8": scale(0.8, "up"),
    "alpha x 0.5": scale(0.5, "alpha"),
    "no alpha": lambda tensors: {key: value for key, value in tensors.items() if "alpha" not in key},
    "resized": resize(2),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("change", [name for name in CHANGES if name != "no alpha"])
def test_a_file_that_was_changed_is_read_as_it_is_now(change: str, kind: str, role: str, tmp_path: Path) -> None:
    path = save_adapter(adapter_of(kind, role), tmp_path / "x.safetensors")
    rewritten(path, CHANGES[change])
    adapter = load_adapter(path)
    assert off(adapter, path) < (4e-4 if change == "float16" else 1e-5)  # float16 rounds the frozen parts, and we draw them
    assert any("another program changed this file since B4M saved it" in note for note in adapter.notes)
    halves = kind in ("zero_start", "published")
    if role == "together" and (change == "resized" or (halves and "x" in change)):
        assert any("can no longer be told apart" in note for note in adapter.notes)
    elif role != "together":
        assert adapter.facts.role == role
    again = save_adapter(adapter, tmp_path / "again.safetensors")
    assert off(load_adapter(again), path) < (4e-3 if change == "bfloat16" else 1e-3)


@pytest.mark.parametrize("change", ["bfloat16", "float16", "all x 0.8", "up x 0.8", "alpha x 0.5", "no alpha"])
@pytest.mark.parametrize("kind", ["free", "full"])
def test_where_the_split_is_a_sum_both_sliders_stay(kind: str, change: str, tmp_path: Path) -> None:
    whole = adapter_of(kind, "together")
    path = save_adapter(whole, tmp_path / "x.safetensors")
    adapter = load_adapter(rewritten(path, CHANGES[change]))
    assert adapter.facts.role == "together" and adapter.facts.content == CONCEPT and adapter.facts.style == INK
    factor = {"all x 0.8": 0.64, "up x 0.8": 0.8, "alpha x 0.5": 0.5}.get(change, 1.0)
    for name, layer in adapter.layers.items():
        for sliders in ((1.0, 0.0), (0.0, 1.0), (0.3, 2.0)):
            wanted = factor * whole.layers[name].delta_weight(*sliders)
            torch.testing.assert_close(layer.delta_weight(*sliders), wanted, rtol=0.03, atol=0.01)


def test_a_title_or_a_thumbnail_of_another_program_needs_no_note(tmp_path: Path) -> None:
    whole = adapter_of("free", "together")
    path = save_adapter(whole, tmp_path / "x.safetensors")
    adapter = load_adapter(rewritten(path, dict, **{"modelspec.title": "mine", "ssmd_cover_images": "[]"}))
    assert adapter.digest() == whole.digest() and adapter.notes == ()


def test_without_its_header_it_is_another_tools_lora(tmp_path: Path) -> None:
    whole = adapter_of("free", "content")
    path = save_adapter(whole, tmp_path / "x.safetensors")
    adapter = load_adapter(rewritten(path, dict, drop_header=True), "style")
    assert adapter.facts.role == "style" and off(adapter, path) < 1e-6


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_compact_file_that_was_cast_is_read(kind: str, tmp_path: Path) -> None:
    whole = adapter_of(kind, "content").compacted()
    path = save_adapter(whole, tmp_path / "x.safetensors")
    keep = lambda tensors: {key: value if key == "shapes" else value.bfloat16() for key, value in tensors.items()}  # noqa: E731
    adapter = load_adapter(rewritten(path, keep))
    for name, layer in adapter.layers.items():
        torch.testing.assert_close(layer.delta_weight(), whole.layers[name].delta_weight(), rtol=0.03, atol=0.01)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype,most", [("float32", 1e-6), ("float16", 4e-4), ("bfloat16", 1e-6)])
def test_what_we_apply_is_what_every_loader_reads_in_every_precision(dtype: str, most: float, kind: str, tmp_path: Path) -> None:
    """The frozen parts too are those of the file, rounded as they are there."""
    whole = adapter_of(kind, "together", file_dtype=dtype)
    path = save_adapter(whole, tmp_path / "x.safetensors")
    assert off(whole, path) < most and off(load_adapter(path), path) < most
    again = load_adapter(path)
    assert save_adapter(again, tmp_path / "y" / "x.safetensors").read_bytes() == path.read_bytes()
    assert again.facts.basis == whole.facts.basis


def test_damage_in_a_file_of_ours_is_still_called_damage(tmp_path: Path) -> None:
    raw = bytearray(save_adapter(adapter_of("free", "together"), tmp_path / "x.safetensors").read_bytes())
    raw[-5] ^= 4
    (tmp_path / "x.safetensors").write_bytes(raw)
    with pytest.raises(B4MError, match="is damaged: its checksum does not match"):
        load_adapter(tmp_path / "x.safetensors")
    path = save_adapter(adapter_of("free", "content"), tmp_path / "y.safetensors")
    rewritten(path, lambda tensors: {key: value * float("nan") for key, value in tensors.items()})
    with pytest.raises(B4MError, match="not numbers"):
        load_adapter(path)
