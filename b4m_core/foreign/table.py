"""The table of a file's tensors by layer and part, and the layers that come of it."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..basis import MOST_FEATURES
from ..carried import DORA, MAGNITUDE, Carried
from ..errors import B4MError
from ..models.sdxl.modules import layer_key
from .diffusers import DIFFUSERS
from .kohya import KOHYA
from .layout import Layout, Parts
from .others import LOADER, algorithm_of, what_it_is
from .peft import PEFT
from .published import PUBLISHED

LAYOUTS: tuple[Layout, ...] = (PUBLISHED, PEFT, DIFFUSERS, KOHYA)
"""Asked in this order."""
_MOST_KEYS = 50_000
_MOST_CONFIGURATION = 1 << 20  # bytes
_BESIDE = "adapter_config.json"


@dataclass(frozen=True)
class Table:
    """``layers``: the keys of a file by layer (modules.py) and part; ``names``: the layers as the file calls them;
    ``left_out``: keys that are no part of any layer of an SDXL.
    """

    layout: Layout
    layers: Mapping[str, Mapping[str, str]]
    names: Mapping[str, str]
    left_out: tuple[str, ...]


def table_of(keys: Collection[str], shown: str) -> Table:
    """What the keys of a file are. Raises :class:`B4MError`, saying what the file is, where none is an SDXL LoRA's."""
    if len(keys) > _MOST_KEYS:
        raise B4MError(f"{shown} holds {len(keys)} tensors, more than any LoRA for SDXL: choose another one.")
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    names: dict[str, str] = {}
    left_out, votes = [], Counter[str]()
    for key in sorted(keys):
        found = _of_layout(key)
        layer = found and layer_key(found[1])
        if not found or not layer:
            left_out.append(key)
            continue
        layout, name, part = found
        if part in layers[layer]:
            raise B4MError(f"{shown} names the {part} of layer {layer} twice: it is damaged, so download it again.")
        layers[layer][part], names[layer] = key, name
        votes[layout.name] += 1
    _refuse_other_models(keys, names, left_out, shown)
    most = votes.most_common(1)[0][0]
    return Table(next(row for row in LAYOUTS if row.name == most), dict(layers), names, tuple(left_out))


def _of_layout(key: str) -> tuple[Layout, str, str] | None:
    for layout in LAYOUTS:
        found = layout.split(key)
        if found is not None:
            return layout, *found
    return None


def _refuse_other_models(keys: Collection[str], names: Mapping[str, str], left_out: list[str], shown: str) -> None:
    """Raise :class:`B4MError`, saying what the file is, where it is for another model or of an algorithm that is not read."""
    flat = {name.replace(".", "_") for name in names.values()}
    older = any("down_blocks_0_attentions" in name or "up_blocks_3_" in name for name in flat)
    older = older or any(key.startswith("lora_te_") for key in keys)
    if not names or older:
        raise B4MError(f"{shown} {what_it_is(keys)}")
    for key in left_out:
        if algorithm := algorithm_of(key):
            raise B4MError(f"{shown} is {algorithm}, which B4M does not read: {LOADER}.")


def configuration_of(metadata: Mapping[str, str], path: Path) -> dict[str, object]:
    """What PEFT was told: from the header, else from the file beside it; empty where there is neither or it is
    damaged.
    """
    text = metadata.get("lora_adapter_metadata", "")
    beside = path.parent / _BESIDE
    try:
        if not text and path.name == "adapter_model.safetensors" and beside.stat().st_size <= _MOST_CONFIGURATION:
            text = beside.read_text(encoding="utf-8")
        found = json.loads(text[:_MOST_CONFIGURATION]) if text else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def layer_of(
    table: Table, key: str, tensor: Callable[[str], Tensor], configuration: Mapping[str, Any]
) -> list[Carried]:
    """The updates of one layer, whole and checked: of its weight, of its bias, or both.

    Raises :class:`ValueError` for tensors that do not fit each other.
    """
    layout = _of_layout(next(iter(table.layers[key].values())))
    assert layout is not None
    parts: Parts = {part: tensor(name) for part, name in table.layers[key].items()}
    parts = layout[0].finish(table.names[key], parts, configuration)
    bias = {name: value for name, value in parts.items() if name == "diff_b"}
    weight = {name: value for name, value in parts.items() if name != "diff_b"}
    found = [Carried("", key, part) for part in (weight, bias) if part]
    for piece in found:
        _check(piece)
    return found


def _check(piece: Carried) -> None:
    """Raise ValueError, which goes on behind "its layer ... is one", where a piece cannot be what it says."""
    lacking = [name for name in _NEEDED[piece.kind] if name not in piece.tensors]
    if lacking:
        raise ValueError(f"without {lacking[0]}")
    for name, tensor in piece.tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
            raise ValueError(f"whose {name} holds what is not a number")
        if not tensor.numel():
            raise ValueError(f"whose {name} is empty")
    alpha = piece.tensors.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise ValueError("with more than one alpha")
    if not math.prod(piece.size()) <= MOST_FEATURES**2 or max(piece.size()) > 16 * MOST_FEATURES:
        raise ValueError("far larger than any of SDXL's")
    norms = piece.tensors.get(DORA, piece.tensors.get(MAGNITUDE))
    if norms is not None and norms.numel() not in norms.shape[:2]:
        raise ValueError("with norms of neither rows nor columns")


_NEEDED: dict[str, tuple[str, ...]] = {
    "lora": ("lora_up.weight", "lora_down.weight"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "lokr": (),
    "oft": ("oft_blocks",),
    "oft_r": ("oft_r",),
    "diff": ("diff",),
    "diff_b": ("diff_b",),
}
