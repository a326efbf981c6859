"""Whether this machine can run the Triton kernels: where it can they add speed, where it cannot nothing is missing."""

from typing import Any

import torch
from torch.nn.functional import gelu


def kernels_for(device: torch.device) -> Any:
    """The module of kernels (triton_kernels.py), or None where Triton, its compiler or a fitting card is missing."""
    if device.type != "cuda":
        return None
    try:
        from . import triton_kernels as kernels

        h, g = torch.randn(2, 4, 32, device=device).unbind()
        right = torch.allclose(kernels.geglu(torch.cat([h, g], dim=-1)), h * gelu(g), atol=1e-5)
    except Exception:  # a missing package, a missing compiler, a card that it does not know: all mean the same
        return None
    return kernels if right else None
