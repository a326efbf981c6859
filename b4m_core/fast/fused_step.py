"""One micro-step (micro_step.py) with SDXL's network written out (network.py), replayed as a CUDA graph where that can
be.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..memory import is_out_of_memory
from ..objective import row_losses
from ..planner import FIRST_OFFLOADED, MEMORY_MODES, explained, fastest_way, free_memory
from ..projection import PartlyLearnableProjection
from ..row_split import Rows
from ..stacks import Stack
from .accelerate import kernels_for
from .fused_adapter import FusedAdapter
from .graph import Captured, give_back_memory, keep_what_cannot_be_freed
from .network import Network, feed_forwards
from .projection_groups import kinds
from .streamed import Resident, Streamed

MOST_GRAPHS = 8  # one for every shape of a batch; shapes beyond that run without
_log = logging.getLogger("b4m")


class _Counts(NamedTuple):
    """Of the rows of one pass, how many are ``train_rows``; how many train and other rows their batch has; whether
    the others are preservation rows; how many sets are taught.
    """

    train_rows: int
    all_train: int
    all_others: int
    preserve: bool
    taught: int


class FusedStep:
    """The network written out, with its launches recorded where ``graph`` allows, in one of the ways of planner.py,
    from ``first`` on.

    The weights of the transformer blocks may come in main memory, in any dtype; then the feed-forward ones stay there.
    They are read, and never written to.
    """

    def __init__(
        self,
        unet: nn.Module,
        layers: Mapping[str, PartlyLearnableProjection],
        stacks: Sequence[Stack],
        *,
        micro_steps: int,
        graph: bool,
        first: int = 0,
    ) -> None:
        weight = next(unet.parameters())
        self.device, self.dtype, self.micro_steps = weight.device, weight.dtype, micro_steps
        apart = feed_forwards(unet)[0][0].weight.device != self.device
        first = max(first, FIRST_OFFLOADED) if apart else first
        self.first, self.mode = first, first if weight.device.type != "cuda" else None
        kernels = kernels_for(self.device, self.dtype) if self.dtype != torch.float64 else None
        self.layout = torch.contiguous_format if kernels is None else torch.channels_last
        for module in unet.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=self.layout)
        if not apart:
            for widening, _ in feed_forwards(unet):
                widening.weight.data = (
                    widening.weight.data.T.contiguous().T
                )  # its long sum is that of the backward pass
        weights = self._streamed(unet) if MEMORY_MODES[first].offload else Resident()
        try:
            self.groups = FusedAdapter(unet, layers, stacks, kinds(_shapes(layers)), kernels)
            self.network = Network(unet, self.groups, kernels, weights)
        except BaseException:
            weights.close()
            raise
        self._wanted = graph and self.device.type == "cuda"
        self._begin()

    @staticmethod
    def stacks(layers: Mapping[str, PartlyLearnableProjection], device: torch.device) -> list[Stack]:
        """``layers`` on ``device``: one stack for every kind of layer, group after group."""
        groups = kinds(_shapes(layers)).values()
        return [Stack([layers[path] for group in kind for path in group], device) for kind in groups]

    def _begin(self) -> None:
        """Forget what was recorded."""
        self.graph = self._wanted
        self._captured: dict[tuple[object, ...], Captured] = {}
        if self.device.type == "cuda":
            give_back_memory(self.device)
        self._pool = torch.cuda.graph_pool_handle() if self.graph else None

    def __call__(
        self, inputs: Mapping[str, Tensor], train_rows: int, rows: Rows, *, preserve: bool = False, taught: int = 1
    ) -> Tensor:  # noqa: D102
        count = len(inputs["noisy"])
        if self.mode is None:
            self.mode = self._fastest(count, inputs["noisy"][0, 0].numel())
        mode = MEMORY_MODES[self.mode]
        self.network.gradient_checkpointing = mode.gradient_checkpointing
        if mode.offload and not isinstance(self.network.weights, Streamed):
            self.network.weights = self._streamed(self.network.unet)
        total = torch.zeros(2, device=self.device)
        for part, of_train, which in (
            _one_by_one(inputs, train_rows, rows) if mode.sequential else [(inputs, train_rows, rows)]
        ):
            total = total + self._pass(part, which, _Counts(of_train, train_rows, count - train_rows, preserve, taught))
            self.groups.gather(which, len(part["noisy"]))
        return total

    def _streamed(self, unet: Any) -> Resident:
        return Streamed(feed_forwards(unet), self.device, self.dtype)

    def _fastest(self, rows: int, latent_pixels: int) -> int:
        saved = self.network.weights.saved  # planner.py counts that as a way's
        free, convolutions = free_memory(self.device) - saved, self.groups.adapts_convolutions
        number = fastest_way(free, rows, latent_pixels, self.first, convolutions)
        _log.info(explained(number, free, rows, latent_pixels, saved, convolutions))
        return number

    def _pass(self, inputs: Mapping[str, Tensor], rows: Rows, counts: _Counts) -> Tensor:
        """The losses of some rows; their gradients stay with the families."""
        self.groups.rows = rows
        key = (
            counts,
            rows.up.start,
            rows.up.stop,
            rows.down.start,
            rows.down.stop,
            *((tuple(value.shape), value.requires_grad) for value in inputs.values()),
        )
        if self.graph and key not in self._captured and len(self._captured) < MOST_GRAPHS:
            self._capture(key, inputs, counts)
        if key in self._captured:
            return self._captured[key](inputs)
        return self._losses(
            counts, **{name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
        )

    def _capture(self, key: tuple[object, ...], inputs: Mapping[str, Tensor], counts: _Counts) -> None:
        """Record the step for this shape; a card or a driver that cannot is not asked again."""
        try:
            self._captured[key] = Captured(
                lambda **given: self._losses(counts, **given), inputs, self.device, self._pool
            )
        except Exception as error:
            keep_what_cannot_be_freed(self.groups.abandon())
            if is_out_of_memory(error):
                raise
            self.graph = False
            _log.warning("This card records no graphs (%s): the training goes on without them, slower.", error)
            torch.cuda.synchronize()

    def _losses(self, counts: _Counts, *, noisy: Tensor, target: Tensor, mask: Tensor, **given: Tensor) -> Tensor:
        """The shares of these rows in the mean losses of their batch."""
        train_rows, weights = counts.train_rows, self.network.weights
        weights.begin()
        if counts.preserve and train_rows < len(noisy):
            with torch.no_grad(), self.groups.disabled():
                preserved = self._predicted(
                    noisy=noisy[train_rows:], **{name: value[train_rows:] for name, value in given.items()}
                )
            target = torch.cat([target[:train_rows], preserved])  # (R, 4, h, w)
        losses = row_losses(self._predicted(noisy=noisy, **given), target, mask)  # (R,)
        means = (
            losses[:train_rows].sum() / max(counts.all_train, 1),
            losses[train_rows:].sum() / max(counts.all_others, 1),
        )
        weights.back()
        ((counts.taught * means[0] + means[1]) / self.micro_steps).backward()  # type: ignore[no-untyped-call]
        self.groups.learned()
        weights.end()
        return torch.stack(means).detach()  # (2,)

    def _predicted(
        self, *, noisy: Tensor, timesteps: Tensor, context: Tensor, pooled: Tensor, size_ids: Tensor
    ) -> Tensor:
        """The network's prediction, in float32 or finer."""
        x = noisy.to(self.dtype, memory_format=self.layout)
        predicted = self.network(x, timesteps, context.to(self.dtype), pooled.to(self.dtype), size_ids)
        return predicted if self.dtype == torch.float64 else predicted.float()

    def refresh(self) -> None:  # noqa: D102
        self.groups.refresh()

    def reduce_memory(self) -> bool:
        """Take the next way of planner.py."""
        if self.mode is None or self.mode + 1 == len(MEMORY_MODES):
            return False
        self.mode += 1
        self._begin()
        _log.warning("The card's memory ran out: from here on %s.", MEMORY_MODES[self.mode].words)
        return True

    def close(self) -> None:  # noqa: D102
        self._captured.clear()
        if self._wanted:
            give_back_memory(self.device)
        self.network.weights.close()


def _shapes(layers: Mapping[str, PartlyLearnableProjection]) -> dict[str, tuple[int, int]]:
    return {path: layer.shape for path, layer in layers.items()}


def _one_by_one(
    inputs: Mapping[str, Tensor], train_rows: int, rows: Rows
) -> Iterator[tuple[dict[str, Tensor], int, Rows]]:
    """Every row of a batch as a batch of one: its inputs, whether it is a train row, and what it moves."""
    count = len(inputs["noisy"])
    for row in range(count):
        moves = [slice(0, 1) if row in range(count)[which] else slice(0, 0) for which in rows]
        yield {name: value[row : row + 1] for name, value in inputs.items()}, int(row < train_rows), Rows(*moves)
