"""The end of an optimiser step: bound the gradients, look whether everything found is a number, and only then move what
is learned.

A card is not waited for. What it found is read while it is at work on the next step, so it must itself leave everything
as it is once something is not a number, and go on leaving it.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..memory import is_out_of_memory
from .graph import Captured, memory_comes_with_the_replay


class StepResult:
    """The losses and gradient norms of one step, on their way from the device."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=values.is_cuda)  # elsewhere nothing says when they are there
        self._there = None
        if values.is_cuda:
            self._there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._there.record()

    def read(self) -> Tensor:
        """The values, float64 on the CPU; waits until they are there."""
        if self._there is not None:
            self._there.synchronize()
        return self._values.double()


class Update:
    """Clip, check and step; ``halves`` are the learned tensors of each part, whose gradient norm is bounded by
    ``max_grad_norm`` part by part.

    ``refresh`` is called when the halves have moved.
    """

    def __init__(
        self,
        optimiser: Optimizer,
        halves: Sequence[Sequence[Tensor]],
        max_grad_norm: float,
        refresh: Callable[[], None],
    ) -> None:
        self.optimiser, self.halves, self.max_grad_norm, self.refresh = optimiser, halves, max_grad_norm, refresh

    def __call__(self, values: Tensor) -> StepResult:
        """Move the halves by their gradients, unless one of ``values`` is not a number."""
        if torch.isfinite(values).all():
            self.optimiser.step()
            self.refresh()
        return StepResult(values)

    def bounded(self, losses: Tensor) -> Tensor:
        """Bound the gradients; ``losses`` and the norms that there were, in one row. Nothing that is learned moves."""
        norms = [torch.nn.utils.clip_grad_norm_(half, self.max_grad_norm) for half in self.halves]
        return torch.cat([losses, torch.stack(norms)])

    def close(self) -> None:
        """There are no more steps."""


class UpdateAhead(Update):
    """The same without waiting: whether to move is decided on the device. For optimisers whose fused kernels know
    ``found_inf``.

    The optimiser's moments are there from the beginning, so that a memory plan can count them. The launches of one
    whose groups are ``capturable`` are recorded, once: what it steps stays where it is.
    """

    def __init__(
        self,
        optimiser: Optimizer,
        halves: Sequence[Sequence[Tensor]],
        max_grad_norm: float,
        refresh: Callable[[], None],
    ) -> None:
        super().__init__(optimiser, halves, max_grad_norm, refresh)
        self._stopped = torch.ones(
            (), device=halves[0][0].device
        )  # the fused kernels' word: 1 leaves everything as it is
        optimiser.found_inf = self._stopped  # type: ignore[attr-defined]
        self._moved()
        self._move = self._recorded() or self._moved
        self._stopped.zero_()

    def __call__(self, values: Tensor) -> StepResult:  # noqa: D102
        self._stopped.copy_(torch.maximum(self._stopped, (~torch.isfinite(values).all()).float()))
        self._move()
        return StepResult(values)

    def _recorded(self) -> Callable[[], object] | None:
        """A replay of :meth:`_moved`, where one that is impossible does no harm: not all of torch's solvers can be
        recorded.
        """
        capturable = all(group.get("capturable") for group in self.optimiser.param_groups)
        if not self._stopped.is_cuda or not capturable or memory_comes_with_the_replay():
            return None
        try:
            captured = Captured(self._moved, {}, self._stopped.device, torch.cuda.graph_pool_handle())
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return None
        return functools.partial(captured, {})

    def _moved(self) -> Tensor:
        self.optimiser.step()
        self.refresh()
        return self._stopped

    def close(self) -> None:
        """Let go of what was recorded."""
        self._move = self._moved
