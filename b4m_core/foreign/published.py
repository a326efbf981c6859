"""The code of the paper (Xu et al., ACM TOG 44(2), 2025): ``unet.unet.down_blocks...to_q.lora.down.weight``, the prefix
twice, float32, no alpha.

Each file holds the whole up = [A; B] and down = [C, D]: where the halves meet is known, so that their own A and C are
read with them. Its two runs draw A and C by the global seed, and weight decay moves them a little.
"""

from ..carried import DOWN, UP
from . import diffusers
from .layout import Layout, unchanged

PREFIX = "unet.unet."


def split(key: str) -> tuple[str, str] | None:
    """(layer, part) of a key."""
    found = diffusers.split(key) if key.startswith(PREFIX) else None
    return None if found is None or found[1] not in (UP, DOWN) else (found[0].removeprefix("unet."), found[1])


PUBLISHED = Layout("published", "the paper's code", split, unchanged)
