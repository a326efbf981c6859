"""A function of tensors as one CUDA graph: its thousands of launches become one."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..memory import is_out_of_memory
from .native_calls import never_free, trim_graph_memory
from .streams import stream


def memory_comes_with_the_replay() -> bool:
    """Whether what is allocated while a graph is recorded is there only when it is replayed; to free it before that
    ends the process.

    So it is with cudaMallocAsync, which is ComfyUI's choice on most cards.
    """
    return torch.cuda.get_allocator_backend() == "cudaMallocAsync"


def keep_what_cannot_be_freed(held: object) -> None:
    """Keep what a recording that failed has allocated, where to free it would end the process: better memory lost than
    a host.
    """
    if memory_comes_with_the_replay():
        never_free(held)


class Places:
    """The inputs of a recording, ``tensors`` by name where a replay reads them. One that requires a gradient has it in
    a place of its own too, which every replay fills anew.
    """

    def __init__(self, example: Mapping[str, Tensor], device: torch.device) -> None:
        self.tensors = {name: value.detach().to(device, copy=True) for name, value in example.items()}
        self._graded = {name: self.tensors[name] for name, value in example.items() if value.requires_grad}
        for place in self._graded.values():
            place.requires_grad_().grad = torch.zeros_like(place)

    def clear(self) -> None:
        """Begin to add the gradients up; a part of the recording."""
        for place in self._graded.values():
            place.grad.zero_()  # type: ignore[union-attr]

    def fill(self, given: Mapping[str, Tensor]) -> None:
        """Copy the inputs of a replay in."""
        for name, value in given.items():
            place = self.tensors[name].detach()
            pinned = place.is_cuda and not value.is_cuda  # from pinned memory the copy waits for nobody
            place.copy_(value.detach().pin_memory() if pinned else value.detach(), non_blocking=True)

    def hand_back(self, given: Mapping[str, Tensor]) -> None:
        """Take the gradients of a replay on to what was given, as torch's backward pass would have done."""
        for name, place in self._graded.items():
            given[name].backward(place.grad.to(given[name].device, copy=True))  # type: ignore[union-attr,no-untyped-call]


class Captured:
    """``function`` (tensors by name to one tensor) recorded for the shapes of ``example``; a call copies its inputs in
    and replays.

    Inputs that require a gradient get the one that the function leaves them, as if they had gone through it themselves.
    The result is a tensor that the next call overwrites. Graphs that never run at once may share their memory:
    ``pool``. The function runs once before it is recorded, on the same stream, which lets libraries choose, compile and
    take what they keep; it may read nothing back from the card. Raises what the recording raises, as torch's own
    OutOfMemoryError where that was the reason.
    """

    def __init__(
        self, function: Callable[..., Tensor], example: Mapping[str, Tensor], device: torch.device, pool: Any
    ) -> None:
        self.places = Places(example, device)
        side: Any = stream(device, "recording")
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self.result = function(**self.places.tensors)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(
            torch.cuda.current_stream(device)
        ):  # torch itself does not come back from a recording that fails
            self._record(function, device, side, pool)

    def _record(self, function: Callable[..., Tensor], device: torch.device, side: Any, pool: Any) -> None:
        within: Exception | None = None
        try:  # the host's other threads go on meanwhile
            with torch.cuda.graph(self.graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                try:
                    self.places.clear()
                    self.result.copy_(function(**self.places.tensors))
                except Exception as error:
                    within = error
                    raise
        except Exception as error:
            keep_what_cannot_be_freed(error)  # its frames hold tensors
            if error is not within:
                _give_up(device, pool)
            raise _named(within or error) from None
        finally:
            within = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.places.fill(inputs)
        try:
            self.graph.replay()
        except RuntimeError as error:
            raise _named(error) from None
        self.places.hand_back(inputs)
        return self.result


def _named(error: Exception) -> Exception:
    """The error, as torch's own OutOfMemoryError where a driver said so in words."""
    return torch.cuda.OutOfMemoryError(str(error)) if is_out_of_memory(error) else error


def give_back_memory(device: torch.device) -> None:
    """Let other programs, and other parts of this one, have the memory of graphs that are gone."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    if memory_comes_with_the_replay():  # the driver would keep it for the next graph
        trim_graph_memory(_index(device))


def _give_up(device: torch.device, pool: Any) -> None:
    """End a recording that could not be ended: torch would keep its memory and refuse random numbers as long as the
    process lives.
    """
    index, ended = _index(device), False
    with contextlib.suppress(
        RuntimeError, AttributeError
    ):  # torch has no public word for it, and has done it itself where it could
        torch._C._cuda_endAllocateToPool(index, pool)
        ended = True
    with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        torch.zeros((), device=device)  # one that ends well closes the random numbers' side of it
    if ended:
        torch._C._cuda_releasePool(index, pool)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
