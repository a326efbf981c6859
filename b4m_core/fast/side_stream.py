"""Work that nothing waits for, beside the main chain of a backward pass: on a card a second stream, in a graph a branch
of its own.

The kernels of a small step leave much of a large card idle; what an adapter's halves learn can be computed in those
gaps.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .streams import stream

MOST_HELD = 4  # about one attention block: late enough that nobody waits, early enough that memory is given back


class SideStream:
    """A second queue of ``device``; where there are no streams it is the first one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = stream(device, "aside")
        self._held: list[tuple[Tensor, ...]] = []

    @contextlib.contextmanager
    def rows_beside(self, *read: Tensor) -> Iterator[None]:
        """What is launched within runs aside, after all that was launched before. ``read`` is kept alive until the next
        :meth:`join`.
        """
        if self._stream is None:
            yield
            return
        if len(self._held) >= MOST_HELD:
            self.join()
        self._held.append(read)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> torch.cuda.Event | None:
        """Within :meth:`beside`: this point, to wait for."""
        return None if self._stream is None else self._stream.record_event()

    def wait(self, point: torch.cuda.Event | None) -> None:
        """Let the main chain go on only after ``point``."""
        if point is not None:
            torch.cuda.current_stream(self._device).wait_event(point)

    def abandon(self) -> list[tuple[Tensor, ...]]:
        """Forget what runs aside, after a recording that failed; what it reads, for the caller to keep or drop."""
        held, self._held = self._held, []
        return held

    def join(self) -> None:
        """Let the main chain go on only after all that was launched aside."""
        if self._stream is not None and self._held:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._held.clear()
