"""B4M's training step as the training loop runs it: through the same engine, what was found read a step later."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from b4m_core import Adapter, TrainingSettings
from b4m_core.batches import MicroBatch
from b4m_core.engine import Engine
from b4m_core.learned_words import LearnedWords
from b4m_core.trainings import training


class Ours:
    """One training, an optimiser step a micro-step.

    ``first`` is the fastest way of planner.py that it may take; ``plain`` is the step without the fast path;
    ``partners`` sets stand beside the own one.
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
        correspondence: str = "multi_correspondence",
        partners: int = 3,
        words: LearnedWords | None = None,
    ) -> None:
        facts = adapter.facts
        settings = TrainingSettings(rank=facts.rank, split=facts.split, correspondence=correspondence, gradient_accumulation_steps=1)
        row = training(role, correspondence)
        self.engine = Engine.build(
            unet, adapter.clone(), row, settings, other_sets=partners, fused=not plain, graph=graph, first=first, words=words
        )

    def whole(self, inputs: Mapping[str, Tensor], own: int = 1) -> Callable[[], None]:
        """A step of ``own`` own rows and the others, as one call."""
        engine, batch = self.engine, MicroBatch(dict(inputs), own)

        def step() -> None:
            engine.gradients(batch)
            engine.step()
            for _ in engine.read(ahead=engine.most_ahead):
                pass

        return step

    @property
    def way(self) -> int:
        """The way of planner.py that the fast step takes now."""
        return self.engine.micro_step.mode  # type: ignore[attr-defined,no-any-return]

    def next_way(self) -> bool:
        """Take the next way of planner.py; False where there is none."""
        return self.engine.reduce_memory()

    def optimiser_alone(self) -> Callable[[], None]:
        """The optimiser's step, as the loop has it recorded, on gradients that stand still."""
        learned = self.engine.learned
        for half in learned.halves:
            for parameter in half:
                parameter.grad.normal_(std=1e-3)  # type: ignore[union-attr]
        found = torch.zeros(2 + len(learned.halves), device=learned.stacks[0].up.device)
        update = type(self.engine.update)(learned.optimiser, learned.halves, self.engine.settings.max_grad_norm, lambda: None)
        return lambda: update(found)

    def close(self) -> None:
        """Leave the network with its own weights."""
        self.engine.close()
