"""Whether this machine can run the Triton kernels: where it can they add speed, where it cannot nothing is missing."""

import functools
from threading import Lock, Thread
from typing import Any

import torch
from torch.nn.functional import gelu

_one_at_a_time = Lock()


@functools.cache
def find_out(device: torch.device, dtype: torch.dtype) -> None:
    """Begin :func:`kernels_for`, once in a process, beside what the caller does next: Triton takes a second or two to
    get going.
    """
    if device.type == "cuda":
        Thread(target=kernels_for, args=(device, dtype), name="b4m-kernels").start()


def kernels_for(device: torch.device, dtype: torch.dtype) -> Any:
    """The module of kernels (triton_kernels.py), or None where Triton, its compiler or a fitting card is missing.

    What a network of ``dtype`` will ask for is being compiled from here on, while the caller goes on.
    """
    if device.type != "cuda":
        return None
    with _one_at_a_time, torch.cuda.device(device):  # a thread begins on the first card, whichever its process has
        return _kernels_that_work(device, dtype)


def _kernels_that_work(device: torch.device, dtype: torch.dtype) -> Any:
    try:
        from . import triton_kernels as kernels

        kernels.compile_ahead(dtype, device)
        h, g = (
            torch.linspace(-3, 3, 256, device=device, dtype=dtype).view(2, 4, 32).unbind()
        )  # the host's random numbers are not ours
        found = kernels.geglu(torch.cat([h, g], dim=-1)).float()
        right = torch.allclose(found, h.float() * gelu(g.float()), rtol=0.01, atol=0.01)
    except Exception:  # a missing package, a missing compiler, a card that it does not know: all mean the same
        return None
    return kernels if right else None
