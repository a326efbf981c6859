"""Feed-forward weights that stay in main memory, for cards that cannot hold the network: they are almost half of it.

Two places on the card take turns. While one block is at work the weights of the next one arrive on a second stream, as
a branch of the graph where there is one.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import B4MError
from ..memory import by_one_name
from .streams import stream

PLACES = 2


class Resident:
    """Weights that are always there. ``saved``: the bytes that the card need not hold."""

    saved = 0

    def begin(self) -> None:
        """A pass begins: forward."""

    def back(self) -> None:
        """From here on the blocks come in reverse order."""

    def ensure_resident(self, first: nn.Linear) -> None:
        """Let the main chain go on only when the weights of the block whose first layer this is are there."""

    def end(self) -> None:
        """The pass is over: nothing may be on its way."""

    def close(self) -> None:
        """Leave the weights where they were."""


class Streamed(Resident):
    """The weights of ``blocks``, each the layers of one block, in the order of a forward pass, for ``device`` in
    ``dtype``, wherever and in whatever dtype they are now. A block's first layer lies transposed, as step.py has it.

    Raises :class:`B4MError` when main memory has no room for them.
    """

    def __init__(self, blocks: Sequence[Sequence[nn.Linear]], device: torch.device, dtype: torch.dtype) -> None:
        self._blocks, self._device = blocks, device
        self._index = {id(block[0]): index for index, block in enumerate(blocks)}
        self._side = stream(device, "weights")
        self._arrived: list[torch.cuda.Event | None] = [None] * PLACES
        self._came_from = blocks[0][0].weight.device
        self._homes = [
            [_go_home(layer, device, dtype, transposed=not place) for place, layer in enumerate(block)]
            for block in blocks
        ]
        sizes = [[home.numel() for home in homes] for homes in self._homes]
        self.saved = (sum(map(sum, sizes)) - PLACES * max(map(sum, sizes))) * dtype.itemsize
        places = [torch.empty(max(map(sum, sizes)), device=device, dtype=dtype) for _ in range(PLACES)]
        for index, (block, homes) in enumerate(zip(blocks, self._homes, strict=True)):
            parts = torch.split(places[index % PLACES][: sum(sizes[index])], sizes[index])
            for layer, home, part in zip(block, homes, parts, strict=True):
                layer.weight.data = part.as_strided(home.shape, home.stride())
        self.begin()

    def begin(self) -> None:  # noqa: D102
        self._towards, self._holds = 1, [-1] * PLACES

    def back(self) -> None:  # noqa: D102
        self._towards = -1

    def ensure_resident(self, first: nn.Linear) -> None:  # noqa: D102
        index = self._index[id(first)]
        for wanted in (index, index + self._towards):
            if wanted in range(len(self._blocks)) and self._holds[wanted % PLACES] != wanted:
                self._fetch(wanted)
        arrived = self._arrived[index % PLACES]
        if arrived is not None:
            torch.cuda.current_stream(self._device).wait_event(arrived)

    def _fetch(self, index: int) -> None:
        """Send for a block; what has its place now was launched before and is waited for."""
        self._holds[index % PLACES] = index
        if self._side is None:
            self._copy(index)
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            self._copy(index)
            self._arrived[index % PLACES] = self._side.record_event()

    def _copy(self, index: int) -> None:
        for layer, home in zip(self._blocks[index], self._homes[index], strict=True):
            layer.weight.data.copy_(home, non_blocking=True)

    def end(self) -> None:  # noqa: D102
        if self._side is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._side)

    def close(self) -> None:  # noqa: D102
        self.end()
        pairs = [
            pair
            for block, homes in zip(self._blocks, self._homes, strict=True)
            for pair in zip(block, homes, strict=True)
        ]
        for layer, home in pairs:
            layer.weight.data = home  # right wherever it is, should the card have no room for it now
        with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
            for layer, home in pairs:
                layer.weight.data = home.to(self._came_from)


def _go_home(layer: nn.Linear, device: torch.device, dtype: torch.dtype, *, transposed: bool) -> Tensor:
    """The layer's weight, moved to where the card can fetch it by itself; one after the other, so that nothing is held
    twice.
    """
    weight = layer.weight.data
    try:
        home = torch.empty(
            weight.mT.shape if transposed else weight.shape, dtype=dtype, pin_memory=device.type == "cuda"
        )
        layer.weight.data = (home.mT if transposed else home).copy_(weight)
        return layer.weight.data
    except RuntimeError as error:  # of every kind: torch has none of its own for main memory
        raise B4MError(
            "The graphics card's memory is too small for this training, and main memory has no room for a part of the model: "
            "close other programs, or lower resolution or rank."
        ) from error
