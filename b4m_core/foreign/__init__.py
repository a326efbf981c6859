"""Adapters of other tools: their LoRAs as a content, as a style or as both.

One file a layout of keys (kohya.py, diffusers.py, peft.py, published.py), all of one face (layout.py). read.py makes an
adapter of what they found: an up and a down at an attention is a free content or style, exactly; all else is carried
along (carried.py). others.py says what a file is that is no LoRA for SDXL.
"""

from .read import USES, read

__all__ = ["USES", "read"]
