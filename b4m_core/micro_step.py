"""One micro-step: the losses of a batch and, in passing, the gradients of what is learned.

Two ways to the same sums, both held to reference.py by the tests. ``ReferenceStep`` here is the network as its library
wrote it, with the update beside every Linear (adapter.py): any network, any device. ``FusedStep`` (fast/fused_step.py)
is the network written out for speed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .adapter import Adapter
from .models import family_named
from .objective import row_losses
from .projection import PartlyLearnableProjection
from .row_split import Rows
from .stacks import Stack, stack_layers


class MicroStep(Protocol):
    """What the engine asks of either."""

    def __call__(
        self, inputs: Mapping[str, Tensor], train_rows: int, rows: Rows, *, preserve: bool = False, taught: int = 1
    ) -> Tensor:
        """Add the gradients of one micro-step to the stacks'; the mean losses of the train rows and of the others,
        (2,), on the device.

        The gradients are those of the losses' sum divided by the number of micro-steps in an optimiser step. A
        ``context`` that requires a gradient has it afterwards, as torch's own backward pass would leave it. The result
        is the caller's.

        ``inputs``: ``noisy`` and ``target`` (R, C, h, w), ``mask`` (R, 1, h, w), ``timesteps`` (R,), and the
        conditioning, each (R, ...); the first ``train_rows`` rows are the train rows, ``rows`` says who moves what.
        ``preserve``: the others are preservation rows, their target is what the network says without the adapter.
        ``taught``: from how many sets the train rows come, in equal parts; each set's mean counts.
        """

    def refresh(self) -> None:
        """What is learned has moved."""

    def reduce_memory(self) -> bool:
        """Need less memory from now on; False where there is no way left."""

    def close(self) -> None:
        """Leave the network with its own weights and nothing beside them."""


class ReferenceStep:
    """The network's own forward pass, one launch after the other."""

    def __init__(
        self,
        network: Any,
        adapter: Adapter,
        stacks: Sequence[Stack],
        *,
        micro_steps: int,
        graph: bool = False,
        first: int = 0,
    ) -> None:
        self.network, self.adapter, self.micro_steps = network, adapter, micro_steps
        self.family = family_named(adapter.facts.family)
        weight = next(network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        adapter.attach(network)

    @staticmethod
    def stacks(layers: Mapping[str, PartlyLearnableProjection], device: torch.device) -> list[Stack]:
        """``layers`` on ``device``, in the order that the step needs."""
        return stack_layers(layers, device)

    def __call__(
        self, inputs: Mapping[str, Tensor], train_rows: int, rows: Rows, *, preserve: bool = False, taught: int = 1
    ) -> Tensor:  # noqa: D102
        self.adapter.rows = rows
        given = {name: value.to(self.device) for name, value in inputs.items()}
        if preserve and train_rows < len(given["noisy"]):
            with torch.no_grad(), self.adapter.disabled():
                preserved = self.family.predict(
                    self.network, {name: value[train_rows:] for name, value in given.items()}, self.dtype
                )  # (R - train rows, C, h, w)
            given["target"] = torch.cat([given["target"][:train_rows], preserved])
        losses = row_losses(
            self.family.predict(self.network, given, self.dtype), given["target"], given["mask"]
        )  # (R,)
        others = losses[train_rows:]
        means = losses[:train_rows].mean(), others.mean() if len(others) else losses.new_zeros(())
        ((taught * means[0] + means[1]) / self.micro_steps).backward()  # type: ignore[no-untyped-call]
        return torch.stack(means).detach()

    def refresh(self) -> None:  # noqa: D102
        pass

    def reduce_memory(self) -> bool:
        """Recompute activations instead of keeping them."""
        if self.network.is_gradient_checkpointing:
            return False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.network.enable_gradient_checkpointing()
        return True

    def close(self) -> None:  # noqa: D102
        self.adapter.detach()
        self.network.disable_gradient_checkpointing()
