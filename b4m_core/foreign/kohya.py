"""kohya's sd-scripts and LyCORIS: ``lora_unet_input_blocks_4_1_..._to_q.lora_up.weight``, ``.alpha``; LoCon, LoHa, LoKr,
DoRA, OFT and whole weights.

The layers go by the original network's names or diffusers', behind ``lora_unet_``, ``lycoris_`` or ``oft_unet_``.
"""

import re

import torch

from ..carried import ALPHA, DORA, DOWN
from .layout import Configuration, Layout, Parts

_KEY = re.compile(
    r"(.+)\.(lora_(?:up|down|mid)\.weight|alpha|dora_scale|hada_[wt]\w+|lokr_[wt]\w+|oft_blocks|rescale|diff|diff_b|w_norm|b_norm)"
)
_NORMS = {"w_norm": "diff", "b_norm": "diff_b"}


def split(key: str) -> tuple[str, str] | None:
    """(layer, part) of a key."""
    match = _KEY.fullmatch(key)
    return None if match is None else (match[1], _NORMS.get(match[2], match[2]))


def finish(layer: str, parts: Parts, configuration: Configuration) -> Parts:
    """Work a LoCon's core into its down, stand norms beside their rows, and turn OFT's bound into that of the norm."""
    core, down = parts.get("lora_mid.weight"), parts.get(DOWN)
    if core is not None and down is not None:  # W = up (core down): the core of CP decomposition, (r, r, k, k)
        parts = {name: tensor for name, tensor in parts.items() if name != "lora_mid.weight"}
        parts[DOWN] = torch.einsum("i j ..., j n -> i n ...", core.float(), down.flatten(1).float())
    if DORA in parts and parts[DORA].ndim == 1:
        parts = {**parts, DORA: parts[DORA].reshape(-1, 1)}
    if "oft_blocks" in parts and ALPHA in parts:  # both write the bound for one row
        rows = len(parts["oft_blocks"]) * parts["oft_blocks"].shape[-1]
        parts = {**parts, ALPHA: parts[ALPHA].float() * rows}
    return parts


KOHYA = Layout("kohya", "kohya", split, finish)
