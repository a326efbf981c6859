"""Queues beside a card's first one: one for each purpose, as long as the process lives.

cuBLAS keeps a workspace for every stream that it has seen. New streams would cost that memory again and again; and one
that is first seen while a graph is recorded has its workspace in that graph's memory, and goes on using it when the
graph is gone.
"""

import functools

import torch


def stream(device: torch.device, purpose: str) -> torch.cuda.Stream | None:
    """The stream of ``device`` for ``purpose``; None where there are no streams."""
    return _stream(device, purpose) if device.type == "cuda" else None


@functools.cache
def _stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
