"""B4M's training step as the training loop runs it: gradients, clipping, optimiser, refresh."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from b4m_core import Adapter, TrainingSettings
from b4m_core.fast.kinds import kinds
from b4m_core.fast.step import FastStep, PlainStep, Step
from b4m_core.row_split import Rows
from b4m_core.stacks import Stack
from b4m_core.trainings import training


class Ours:
    """One training; ``way`` is a number in planner.py, ``plain`` the step without the fast path."""

    def __init__(
        self,
        unet: Any,
        adapter: Adapter,
        device: torch.device,
        *,
        way: int = 0,
        plain: bool = False,
        graph: bool = True,
        role: str = "content",
        correspondence: str = "partner",
    ) -> None:
        adapter = adapter.clone()
        of_kind = kinds(adapter.shapes())
        self.stacks = [Stack([adapter.layers[path] for group in kind for path in group], device) for kind in of_kind.values()]
        facts = adapter.facts
        self.settings = TrainingSettings(rank=facts.rank, split=facts.split, correspondence=correspondence)
        self.training = training(role, correspondence)
        self.moved = self.training.moved(facts.kind, partners=True)
        for stack in self.stacks:
            for part in set(facts.kind.learned()) - set(self.moved):
                stack.rest(part)
        self.optimiser = self.training.optimiser(self.stacks, self.settings)
        graph = graph and device.type == "cuda"
        self.step: Step
        if plain:
            self.step = PlainStep(unet, adapter, micro_steps=1)
        else:
            self.step = FastStep(unet, adapter, self.stacks, of_kind, micro_steps=1, graph=graph, way=way)

    def whole(self, inputs: Mapping[str, Tensor], own: int = 1) -> Callable[[], Tensor]:
        """A step of ``own`` own rows and the others, as one call."""
        halves = [[stack.parts[part] for stack in self.stacks] for part in self.moved]
        rows: Rows = self.training.rows(own, len(inputs["noisy"]))

        def step() -> Tensor:
            for half in halves:
                torch._foreach_zero_([parameter.grad for parameter in half])
            losses = self.step(inputs, own, rows, keep=self.training.keeps)
            norms = [torch.nn.utils.clip_grad_norm_(half, self.settings.clip) for half in halves]
            read = torch.cat([losses, torch.stack(norms)]).cpu()
            self.optimiser.step()
            self.step.refresh()
            return read

        return step

    def optimiser_alone(self) -> Callable[[], None]:
        """The optimiser's step on gradients that stand still."""
        for stack in self.stacks:
            for part in self.moved:
                stack.parts[part].grad.normal_(std=1e-3)  # type: ignore[union-attr]
        return self.optimiser.step
