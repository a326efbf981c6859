"""A function of tensors as one CUDA graph: its thousands of launches become one."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Captured:
    """``function`` (tensors by name to one tensor) recorded for the shapes of ``example``; a call copies its inputs in and replays.

    The result is a tensor that the next call overwrites. Graphs that never run at once may share their memory: ``pool``. The function runs
    once before it is recorded, which lets libraries choose and compile, and may read nothing back from the card.
    """

    def __init__(self, function: Callable[..., Tensor], example: Mapping[str, Tensor], device: torch.device, pool: Any = None) -> None:
        self.inputs = {name: value.to(device, copy=True) for name, value in example.items()}
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            function(**self.inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):  # the host's other threads go on meanwhile
            self.result = function(**self.inputs)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        for name, value in inputs.items():
            source = value if value.is_cuda else value.pin_memory()  # from pinned memory the copy waits for nobody
            self.inputs[name].copy_(source, non_blocking=True)
        self.graph.replay()
        return self.result
