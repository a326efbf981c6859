"""Block weights: a factor for each block of the network, in the notation that the field has for SDXL.

Numbers with commas between them, BASE first (the text encoders, and what is in no block): 12 for the blocks with
attention, as sd-webui-lora-block-weight has them for SDXL (BASE, IN04, IN05, IN07, IN08, MID, OUT00 to OUT05), or 20
for all (BASE, IN00 to IN08, MID, OUT00 to OUT08). A block that has no number counts in full.
"""

import math
import re
from dataclasses import dataclass

from .errors import B4MError
from .models.sdxl.modules import UNET, original_key

_BLOCK = re.compile(r"lora_unet_(?:(input|output)_blocks_(\d+)|(middle)_block)_")
BASE, MIDDLE = "BASE", "MID"
ALL_BLOCKS = (BASE, *(f"IN{n:02d}" for n in range(9)), MIDDLE, *(f"OUT{n:02d}" for n in range(9)))
ATTENTION_BLOCKS = (BASE, "IN04", "IN05", "IN07", "IN08", MIDDLE, *(f"OUT{n:02d}" for n in range(6)))
_MOST = 1000.0


@dataclass(frozen=True)
class BlockWeights:
    """``weights``: (block, factor) of every block that has one."""

    weights: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parsed(cls, text: str) -> "BlockWeights":
        """From the notation; empty text is 1 everywhere. Raises :class:`B4MError` for anything else."""
        if not text.strip():
            return NO_BLOCKS
        values = [value.strip() for value in text.strip().strip(",").split(",")]
        names = next((names for names in (ATTENTION_BLOCKS, ALL_BLOCKS) if len(names) == len(values)), None)
        if names is None:
            raise B4MError(
                f"The block weights have {len(values)} numbers: write {len(ATTENTION_BLOCKS)} ({', '.join(ATTENTION_BLOCKS)}) or "
                f"{len(ALL_BLOCKS)} of them, with commas between them."
            )
        return cls(tuple((name, _number(name, value)) for name, value in zip(names, values, strict=True)))

    def of(self, key: str) -> float:
        """The factor on a layer, by its name in carried.py."""
        return dict(self.weights).get(block_of(key), 1.0)


NO_BLOCKS = BlockWeights()


def block_of(key: str) -> str:
    """The block that a layer is in."""
    match = _BLOCK.match(original_key(key)) if key.startswith(UNET) else None
    if match is None:
        return BASE
    side, number, _ = match.groups()
    return MIDDLE if side is None else f"{'IN' if side == 'input' else 'OUT'}{int(number):02d}"


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _MOST:
        raise B4MError(f"The block weight of {name} is {text[:20]!r}: write a number such as 1 or 0.5.")
    return value
