"""diffusers before PEFT: ``unet.down_blocks...to_q.lora.up.weight``, also as attention processors; B-LoRA writes so too."""

import re

from ..carried import DOWN, UP
from .layout import Layout, unchanged

_KEY = re.compile(r"(.+?)(?:\.lora|_lora|\.lora_linear_layer)\.(up|down)\.weight")


def split(key: str) -> tuple[str, str] | None:
    """(layer, part) of a key."""
    match = _KEY.fullmatch(key)
    return None if match is None else (match[1], UP if match[2] == "up" else DOWN)


DIFFUSERS = Layout("diffusers", "diffusers", split, unchanged)
