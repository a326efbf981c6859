"""How a training step is made to fit into the memory that is there: measured where it can be, tried where it cannot.

There is nothing to set. The fastest way that should fit is taken; when it was wrong, because another program took
memory meanwhile, the training goes on from its last state in the next one.
"""

from dataclasses import dataclass

import torch

GIB = 2**30


@dataclass(frozen=True)
class MemoryMode:
    """One way to do a step: all rows of a batch at once or one after the other, activations kept or recomputed, and
    where the feed-forward weights are: on the card or ``offload``ed to main memory.

    ``activation_bytes`` is how much of what is computed for one row of one latent pixel stays until the backward pass,
    in bytes, and ``convolution_bytes`` how much more where convolutions are adapted, which then keep their inputs;
    ``fixed_bytes`` is what a step needs besides, less what streaming gives back.
    """

    words: str
    sequential: bool
    gradient_checkpointing: bool
    offload: bool
    activation_bytes: int
    convolution_bytes: int
    fixed_bytes: int

    def needed(self, rows: int, latent_pixels: int, convolutions: bool = False) -> int:
        """The bytes of a step of ``rows`` pictures of ``latent_pixels``, beside the network and the adapter;
        ``convolutions``: whether these are adapted too.
        """
        of_each = self.activation_bytes + self.convolution_bytes * convolutions
        return self.fixed_bytes + of_each * latent_pixels * (1 if self.sequential else rows)


MEMORY_MODES = (
    MemoryMode("whole steps", False, False, False, 280_000, 21_000, int(1.6 * GIB)),
    MemoryMode("activations computed twice", False, True, False, 41_000, 3_000, int(1.4 * GIB)),
    MemoryMode(
        "activations computed twice, almost half of the network in main memory",
        False,
        True,
        True,
        41_000,
        3_000,
        int(-1.2 * GIB),
    ),
    MemoryMode(
        "one picture after the other, activations computed twice, almost half of the network in main memory",
        True,
        True,
        True,
        76_000,
        3_000,
        int(-1.2 * GIB),
    ),
)
"""Fastest first. One picture after the other with the network on the card is slower than the third way, and larger. The
bytes are those of an H100 at SDXL's size, 512 and 1024 px, as the allocator reserved them (docs/speed.md); those of
convolutions are what they keep, summed up over the network.
"""
FIRST_OFFLOADED = [mode.offload for mode in MEMORY_MODES].index(True)
ADAPTER = 50 * 2**20
"""The bytes of one rank, with gradients, moments and the copy to compute with, when content and style both move."""


CONVOLUTIONS = 13 * 2**20
"""The same of what convolutions add: 379 thousand numbers a rank to 1.45 million."""


def least_beside(rank: int, rows: int, latent_pixels: int, convolutions: bool = False) -> int:
    """The bytes beside the network without which a part of it has to be streamed: an adapter of SDXL's, and the smaller
    step that streams nothing.
    """
    adapter = rank * (ADAPTER + CONVOLUTIONS * convolutions)
    return adapter + MEMORY_MODES[FIRST_OFFLOADED - 1].needed(rows, latent_pixels, convolutions)


def fastest_way(free: int, rows: int, latent_pixels: int, first: int = 0, convolutions: bool = False) -> int:
    """The number of the fastest way, from ``first`` on, that fits into ``free`` bytes; of the smallest one when none
    does.
    """
    fitting = [
        number
        for number, mode in enumerate(MEMORY_MODES)
        if number >= first and mode.needed(rows, latent_pixels, convolutions) <= free
    ]
    return fitting[0] if fitting else len(MEMORY_MODES) - 1


def free_memory(device: torch.device) -> int:
    """The bytes of a card that this process can still have, what others and the host hold taken off."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def explained(number: int, free: int, rows: int, latent_pixels: int, saved: int = 0, convolutions: bool = False) -> str:
    """One line about the choice; ``saved`` bytes of the network are not on the card already, which the ways' needs
    count as given back.
    """
    mode = MEMORY_MODES[number]
    needed = max(0, mode.needed(rows, latent_pixels, convolutions) + saved)
    return f"Memory: {(free + saved) / GIB:.1f} GB free, a step needs about {needed / GIB:.1f}: {mode.words}."
