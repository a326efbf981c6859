"""Layer names: diffusers' module path on one side, the key that kohya's SDXL LoRA files use on the other.

Kohya numbers the blocks of the original SDXL network: input block 1 + i (L + 1) + j, output block i (L + 1) + j, with L
= 2 ResNets a level.
"""

import re

from ...errors import B4MError

RESNETS_PER_LEVEL = 2
_STRIDE = RESNETS_PER_LEVEL + 1
_PATH = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.(attn[12])\.(to_q|to_k|to_v|to_out\.0)"
)
_KEY = re.compile(
    r"lora_unet_(?:(input|output)_blocks_(\d+)|middle_block)_1_transformer_blocks_(\d+)_(attn[12])_(to_q|to_k|to_v|to_out_0)"
)


def kohya_key(path: str) -> str:
    """``down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`` ->
    ``lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q``.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise B4MError(f"Layer {path} has no name in an SDXL LoRA file: the network is not an SDXL UNet.")
    side, level, attention, depth, attn, projection = match.groups()
    if side is None:
        block = "middle_block"
    elif side == "down":
        block = f"input_blocks_{1 + int(level) * _STRIDE + int(attention)}"
    else:
        block = f"output_blocks_{int(level) * _STRIDE + int(attention)}"
    return f"lora_unet_{block}_1_transformer_blocks_{depth}_{attn}_{projection.replace('.', '_')}"


def module_path(key: str) -> str:
    """The inverse of :func:`kohya_key`."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise B4MError(f"Layer {key[:80]!r} is not an attention projection of SDXL: this is not a B4M adapter.")
    side, number, depth, attn, projection = match.groups()
    if side is None:
        block = "mid_block.attentions.0"
    elif side == "input":
        level, attention = divmod(int(number) - 1, _STRIDE)
        block = f"down_blocks.{level}.attentions.{attention}"
    else:
        level, attention = divmod(int(number), _STRIDE)
        block = f"up_blocks.{level}.attentions.{attention}"
    path = f"{block}.transformer_blocks.{depth}.{attn}.{projection.replace('_0', '.0')}"
    if not _PATH.fullmatch(path) or kohya_key(path) != key or (side == "input" and attention == RESNETS_PER_LEVEL):
        raise B4MError(f"Layer {key[:80]!r} is not an attention projection of SDXL: this is not a B4M adapter.")
    return path
