"""PEFT and today's diffusers: ``unet.down_blocks...to_q.lora_A.weight`` or behind ``base_model.model.``; DoRA, LoHa, LoKr
and OFT of PEFT too.

Alpha stands in adapter_config.json beside the file, or in the header under ``lora_adapter_metadata``; without either it
is the rank, as diffusers takes it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..carried import ALPHA, DOWN, MAGNITUDE, ROTATION, UP
from .layout import Configuration, Layout, Parts

_KEY = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_magnitude_vector|oft_R|hada_[wt]\d_?[ab]?|lokr_[wt]\d_?[ab]?)(?:\.(?!weight$|bias$)\w+)?(?:\.(weight|bias))?"
)
_PARTS = {"lora_A": DOWN, "lora_B": UP, "lora_magnitude_vector": MAGNITUDE}
_FOLDED = {"hada": "hada_w1_a", "lokr": "lokr_w1"}
_TERMS = 5


def split(key: str) -> tuple[str, str] | None:
    """(layer, part) of a key."""
    match = _KEY.fullmatch(key)
    if match is None or (match[2][:4] in _FOLDED and not match[1].startswith("base_model.")):
        return None
    if match[3] == "bias":
        return (match[1], "diff_b") if match[2] == "lora_B" else None
    return match[1], _PARTS.get(match[2], match[2])


def finish(layer: str, parts: Parts, configuration: Configuration) -> Parts:
    """Give a LoRA its alpha, work that of LoHa and LoKr into a factor, and make rotations of what OFT learned."""
    known = _configuration_of(layer, configuration)
    if "oft_R" in parts:
        rest = {name: tensor for name, tensor in parts.items() if name != "oft_R"}
        return {**rest, ROTATION: _rotations(parts["oft_R"].float(), known)}
    rank, alpha = (_number(layer, known, name) for name in ("r", "lora_alpha" if UP in parts else "alpha"))
    if not rank or alpha is None:
        return parts
    scale = alpha / (math.sqrt(rank) if known.get("use_rslora") else rank)
    if UP in parts:
        parts = {**parts, ALPHA: torch.tensor(scale * len(parts[DOWN]))} if DOWN in parts else parts
        return parts if "diff_b" not in parts else {**parts, "diff_b": parts["diff_b"].float() * scale}
    for name in ("hada_w1_a", "lokr_w1", "lokr_w1_a"):
        if name in parts:
            return {**parts, name: parts[name].float() * scale}
    return parts


def _configuration_of(layer: str, configuration: Configuration) -> Mapping[str, Any]:
    """PEFT's own settings of the part of the model that ``layer`` is in."""
    model = next((name for name in ("text_encoder_2", "text_encoder", "unet") if layer.startswith(f"{name}.")), "unet")
    named = {
        key.removeprefix(f"{model}."): value for key, value in configuration.items() if key.startswith(f"{model}.")
    }
    return named or {key: value for key, value in configuration.items() if "." not in key}


def _number(layer: str, known: Mapping[str, Any], name: str) -> float | None:
    """A setting, or what a pattern says of this layer: PEFT matches the end of its path."""
    patterns = known.get({"r": "rank_pattern"}.get(name, "alpha_pattern"))
    value = known.get(name)
    for pattern, other in patterns.items() if isinstance(patterns, dict) else ():
        plain = str(pattern).lstrip("^").replace("\\", "").rstrip("$")
        if layer == plain or layer.endswith(f".{plain}"):
            value = other
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _rotations(learned: Tensor, known: Mapping[str, Any]) -> Tensor:
    """(blocks, b, b) of what is above the diagonal of skew matrices, (blocks, b (b - 1) / 2)."""
    if learned.ndim != 2:
        raise ValueError("rotations of an older PEFT")
    side = (1 + math.isqrt(1 + 8 * learned.shape[1])) // 2
    if side * (side - 1) // 2 != learned.shape[1]:
        raise ValueError("rotations of no size")
    row, column = torch.triu_indices(side, side, 1)
    skew = torch.zeros(len(learned), side, side)
    skew[:, row, column] = learned
    skew, one = skew - skew.transpose(1, 2), torch.eye(side)
    if known.get("use_cayley_neumann", True):
        terms = known.get("num_cayley_neumann_terms", _TERMS)
        return _neumann(skew, terms if isinstance(terms, int) and 1 <= terms <= 100 else _TERMS)
    exact: Tensor = torch.linalg.solve(one + skew, one - skew, left=False)
    return exact


def _neumann(skew: Tensor, terms: int) -> Tensor:
    """I + 2 Q + 2 Q^2 + ... as PEFT cuts it off: from three ``terms`` on the last power counts once."""
    total, power = torch.eye(skew.shape[1]).expand_as(skew), skew
    total = total + 2 * skew if terms > 1 else total
    last = max(terms - 1, 3) if terms > 2 else 1
    for number in range(2, last + 1):
        power = power @ skew
        total = total + (power if number == last else 2 * power)
    return total


PEFT = Layout("peft", "PEFT", split, finish)
