"""B4M's training step as the training loop runs it: gradients, clipping, optimiser, refresh, what was found read a step later."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from b4m_core import Adapter, TrainingSettings
from b4m_core.fast.kinds import kinds
from b4m_core.fast.step import FastStep, PlainStep, Step
from b4m_core.fast.update import Found, Update, UpdateAhead
from b4m_core.row_split import Rows
from b4m_core.stacks import Stack
from b4m_core.trainings import training


class Ours:
    """One training.

    ``first`` is the fastest way of planner.py that it may take; ``plain`` is the step without the fast path, which is the loop's off cards.
    """

    def __init__(
        self,
        unet: Any,
        adapter: Adapter,
        device: torch.device,
        *,
        first: int = 0,
        plain: bool = False,
        graph: bool = True,
        role: str = "content",
        correspondence: str = "partner",
    ) -> None:
        adapter, plain = adapter.clone(), plain or device.type != "cuda"
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
        self.step: Step
        if plain:
            self.step = PlainStep(unet, adapter, micro_steps=1)
        else:
            self.step = FastStep(unet, adapter, self.stacks, of_kind, micro_steps=1, graph=graph, first=first)
        self.halves = [[stack.parts[part] for stack in self.stacks] for part in self.moved]
        self.most_ahead = 1 if device.type == "cuda" and not plain else 0
        make = UpdateAhead if self.most_ahead else Update
        self.update: Update = make(self.optimiser, self.halves, self.settings.clip, self.step.refresh)
        self.ahead: list[Found] = []

    def whole(self, inputs: Mapping[str, Tensor], own: int = 1) -> Callable[[], None]:
        """A step of ``own`` own rows and the others, as one call."""
        count = len(inputs["noisy"])
        rows: Rows = self.training.rows(own, count)
        keep = self.training.kept(count // own - 1)

        def step() -> None:
            for half in self.halves:
                for parameter in half:
                    parameter.grad.zero_()  # type: ignore[union-attr]
            self.ahead.append(self.update(self.update.bounded(self.step(inputs, own, rows, keep=keep))))
            while len(self.ahead) > self.most_ahead:
                self.ahead.pop(0).read()

        return step

    @property
    def way(self) -> int:
        """The way of planner.py that the fast step takes now."""
        return self.step.way  # type: ignore[attr-defined,no-any-return]

    def optimiser_alone(self) -> Callable[[], None]:
        """The optimiser's step, as the loop has it recorded, on gradients that stand still."""
        for half in self.halves:
            for parameter in half:
                parameter.grad.normal_(std=1e-3)  # type: ignore[union-attr]
        found = torch.zeros(2 + len(self.halves), device=self.stacks[0].up.device)
        update = type(self.update)(self.optimiser, self.halves, self.settings.clip, lambda: None)
        return lambda: update(found)
