"""Running out of the device's memory, under whichever name it comes."""

import contextlib
from collections.abc import Iterator

import torch

WORDS = ("out of memory", "vram grow failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device has run out of memory: torch's allocator says so in a type, a driver (torch.AcceleratorError) and
    the memory manager of newer ComfyUIs (RuntimeError) only in words.
    """
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in WORDS)
    )


@contextlib.contextmanager
def by_one_name() -> Iterator[None]:
    """Let every such error leave as torch.cuda.OutOfMemoryError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise torch.cuda.OutOfMemoryError(str(error)) from error
