"""Launching kernels; and compiling them ahead of need, many at once.

A kernel is compiled at its first launch, which takes some tenths of a second, and a network asks for a dozen, one after
the other. Tensors of the device "meta" have a shape and no contents: a launch with them compiles the kernel that the
same launch with real ones will ask for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from .graph import memory_comes_with_the_replay

THREADS = 8  # a part of every compilation is Python's, of which there is one at a time
_locks: dict[int, Lock] = {}


def launch(kernel: Any, grid: tuple[int, ...], *given: Any, **options: Any) -> None:
    """Run the kernel on what is given, tensors first; only compile it where they have no contents."""
    with _locks.setdefault(id(kernel), Lock()):  # who needs what another thread compiles waits for that
        if given[0].is_meta:
            kernel.warmup(*given, grid=grid, **options).run  # noqa: B018 (building what starts it takes as long again)
        elif given[0].is_cuda and memory_comes_with_the_replay() and torch.cuda.is_current_stream_capturing():
            _launch_on_addresses(kernel, grid, given, options)
        else:
            kernel[grid](*given, **options)


def _launch_on_addresses(kernel: Any, grid: tuple[int, ...], given: Sequence[Any], options: Mapping[str, Any]) -> None:
    """The same with addresses in place of tensors: Triton refuses tensors whose memory is not there yet."""
    names = [parameter.name for parameter in kernel.params]
    bound = {**dict(zip(names, given, strict=False)), **options}
    compiled = kernel.warmup(*given, grid=grid, **options)
    compiled[(*grid, 1, 1)[:3]](
        *(bound[name].data_ptr() if isinstance(bound[name], Tensor) else bound[name] for name in names)
    )


def begin(calls: Iterable[Callable[[], object]], device: torch.device) -> None:
    """Begin calls whose launches only compile. What fails is compiled when it is needed, and fails where that can be
    handled.
    """

    def run(call: Callable[[], object]) -> None:
        with torch.cuda.device(device):
            call()

    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="b4m-compile")
    for call in calls:
        pool.submit(run, call)
    pool.shutdown(wait=False)
