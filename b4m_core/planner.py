"""How a training step is made to fit into the memory that is there: measured where it can be, tried where it cannot.

There is nothing to set. The fastest way that should fit is taken; when it was wrong, because another program took memory meanwhile, the
training goes on from its last state in the next one.
"""

from dataclasses import dataclass

import torch

GIB = 2**30


@dataclass(frozen=True)
class Way:
    """One way to do a step: all rows of a batch at once or one after the other, activations kept or recomputed.

    ``kept`` is how much of what is computed for one row of one latent pixel stays until the backward pass, in bytes; ``least`` is what a
    step needs besides.
    """

    words: str
    by_row: bool
    recompute: bool
    kept: int
    least: int

    def needed(self, rows: int, latent_pixels: int) -> int:
        """The bytes of a step of ``rows`` pictures of ``latent_pixels``, beside the network and the adapter."""
        return self.least + self.kept * latent_pixels * (1 if self.by_row else rows)


WAYS = (
    Way("whole steps", False, False, 340_000, int(1.2 * GIB)),
    Way("one picture after the other", True, False, 340_000, int(0.8 * GIB)),
    Way("activations computed twice", False, True, 60_000, int(0.8 * GIB)),
    Way("one picture after the other, activations computed twice", True, True, 60_000, int(0.6 * GIB)),
)
"""Fastest first."""


def fastest_way(free: int, rows: int, latent_pixels: int) -> int:
    """The number of the fastest way that fits into ``free`` bytes; of the smallest one when none does."""
    fitting = [number for number, way in enumerate(WAYS) if way.needed(rows, latent_pixels) <= free]
    return fitting[0] if fitting else len(WAYS) - 1


def free_memory(device: torch.device) -> int:
    """The bytes of a card that this process can still have, what others and the host hold taken off."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def explained(number: int, free: int, rows: int, latent_pixels: int) -> str:
    """One line about the choice."""
    way = WAYS[number]
    return f"Memory: {free / GIB:.1f} GB free, a step needs about {way.needed(rows, latent_pixels) / GIB:.1f}: {way.words}."
