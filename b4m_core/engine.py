"""The one door to a training's arithmetic: who trains, measures or tests a step comes in here.

    engine = Engine.build(network, adapter, training, settings, other_sets=2)
    for number in range(engine.steps, settings.steps):
        for batch in micro_steps(number):
            engine.gradients(batch)                     # one pass forward and back, any number of times
        engine.step()                                   # bound, look whether all is a number, move
        for trained, others in engine.read(ahead=engine.most_ahead):
            ...                                         # the mean losses of a step that is done
    engine.close()

The engine owns the stacked layers and the optimiser (:class:`Learned`), chooses the fused step or the reference one,
and takes less memory where there is too little. A graphics card works ahead: what a step found is read while the card
is at the next one (fast/optimizer_step.py).
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .batches import MicroBatch
from .causes import NotANumber, explained, require_finite
from .errors import B4MError
from .fast.optimizer_step import StepResult, Update, UpdateAhead
from .learned_words import LEARNING_RATE, LearnedWords
from .memory import by_one_name
from .micro_step import MicroStep, ReferenceStep
from .models import family_named
from .models.family import FusedStepKind
from .planner import FIRST_OFFLOADED
from .settings import TrainingSettings
from .several import ALONE, Processes
from .stacks import Stack
from .trainings import Training

MOMENTS = ("exp_avg", "exp_avg_sq")


@contextlib.contextmanager
def memory_advice(settings: TrainingSettings) -> Iterator[None]:
    """Within: memory that runs out becomes a sentence about what to do."""
    try:
        with by_one_name():
            yield
    except torch.cuda.OutOfMemoryError as error:
        raise B4MError(
            f"The graphics card's memory is too small at resolution {settings.resolution} and rank {settings.rank}: "
            "lower one of them, or close other programs that use the card."
        ) from error


def fused_step_for(network: nn.Module, family: str) -> FusedStepKind | None:
    """The step that has ``network`` written out, if there is one."""
    return family_named(family).fused_step(network)


def works_ahead(device: torch.device, step: MicroStep) -> bool:
    """Whether the processor need not wait for what a step found."""
    return device.type == "cuda" and not isinstance(step, ReferenceStep)


class Learned:
    """What is learned, in stacks, and the optimiser that moves it; what nobody teaches stays as it is, even from weight
    decay.
    """

    def __init__(
        self, stacks: Sequence[Stack], training: Training, settings: TrainingSettings, *, other_sets: bool,
        words: LearnedWords | None = None,
    ) -> None:  # fmt: skip
        self.stacks, self.words = list(stacks), words
        self.moved = training.moved(self.stacks[0].split, other_sets=other_sets)
        for stack in self.stacks:
            for part in set(stack.split.learned) - set(self.moved):
                stack.freeze(part)
        self.optimiser = training.optimiser(self.stacks, settings)
        if words is not None:
            self.optimiser.add_param_group({"params": words.rows, "lr": LEARNING_RATE, "weight_decay": 0.0})

    @property
    def halves(self) -> list[list[Tensor]]:
        """The tensors of each part that moves, (L, ...) for every stack, and those of learned words; a gradient's norm is
        bounded part by part.
        """
        parts: list[list[Tensor]] = [[stack.parts[part] for stack in self.stacks] for part in self.moved]
        return parts if self.words is None else [*parts, list(self.words.rows)]

    def zero_grad(self) -> None:
        """Forget the gradients; their tensors stay where they are."""
        for parameter in (parameter for half in self.halves for parameter in half):
            parameter.grad.zero_()  # type: ignore[union-attr]
        if self.words is not None:
            self.words.forget()

    def gradients(self) -> list[Tensor]:
        """The gradients of what moves, each once, without gaps in memory."""
        return [parameter.grad for _, parameter in self._parameters() if parameter.grad is not None]

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters and their moments, as they are, for a safetensors file."""
        tensors = {}
        for name, parameter in self._parameters():
            tensors[name] = parameter
            known = self.optimiser.state[parameter]
            tensors |= {f"{name}.{moment}": known[moment] for moment in MOMENTS if moment in known}
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on from :meth:`state_dict` after ``steps`` steps; what exists is filled in place, since a recording may
        hold its address.
        """
        for name, parameter in self._parameters():
            parameter.data.copy_(tensors[name])
            if f"{name}.exp_avg" not in tensors:
                continue
            state = self.optimiser.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device if parameter.is_cuda else "cpu")
                state |= {moment: torch.empty_like(parameter) for moment in MOMENTS}
            state["step"].fill_(steps)
            for moment in MOMENTS:
                state[moment].copy_(tensors[f"{name}.{moment}"])

    def named(self) -> dict[str, Tensor]:
        """The same tensors by names for people, one for every layer: "layer down_blocks... B", "... B's exp_avg"."""
        tensors: dict[str, Tensor] = {} if self.words is None else self.words.named()
        for stack in self.stacks:
            for part in self.moved:
                parts = {"": stack.parts[part], **self._moments_of(stack, part)}
                tensors |= {
                    f"layer {layer.name} {part}{what}": values[index]
                    for what, values in parts.items()
                    for index, layer in enumerate(stack.layers)
                }
        return tensors

    def _moments_of(self, stack: Stack, part: str) -> dict[str, Tensor]:
        """The moments of what shares its memory with a part of a stack, (L, ...)."""
        held = stack.parts[part].untyped_storage().data_ptr()
        for _, parameter in self._parameters():
            if parameter.untyped_storage().data_ptr() == held:
                known = self.optimiser.state[parameter]
                return {f"'s {moment}": known[moment] for moment in MOMENTS if moment in known}
        return {}

    def is_finite(self) -> bool:
        """Whether all of it are numbers: one look at a few large tensors, where they are if there is room."""
        tensors = list(self.state_dict().values())
        with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
            return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
        return all(bool(torch.isfinite(tensor.cpu()).all()) for tensor in tensors)

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for index, group in enumerate(self.optimiser.param_groups):
            for place, parameter in enumerate(group["params"]):
                if parameter.requires_grad:
                    yield f"{index}.{place}", parameter


class Results:
    """What steps of ``pieces`` found, in their order, on its way from the device; ``steps`` of them are read."""

    def __init__(self, pieces: int) -> None:
        self.pieces, self.steps = pieces, 0
        self._ahead: deque[StepResult] = deque()

    def __len__(self) -> int:
        return len(self._ahead)

    def append(self, result: StepResult) -> None:
        """One more step is on its way."""
        self._ahead.append(result)

    def forget(self) -> None:
        """What is on its way is not wanted any more."""
        self._ahead.clear()

    def finish_oldest_step(self) -> tuple[float, float]:
        """Wait for the oldest one and count it as done: the mean loss of its train rows and of its others; see
        :meth:`Engine.read`.
        """
        read, count = self._ahead[0].read(), 2 * self.pieces
        losses = read[:count].view(-1, 2) / self.pieces  # (pieces, train rows and others)
        for what, values in (("loss", losses), ("gradient", read[count:])):
            if not torch.isfinite(values).all():
                self.forget()  # nothing has moved since
                raise NotANumber(what, self.steps + 1)
        totals = torch.zeros(2, dtype=torch.float64)
        for loss in losses:
            totals += loss
        self._ahead.popleft()
        self.steps += 1
        return float(totals[0]), float(totals[1])


class Engine:
    """One training's steps. Made by :meth:`build`.

    ``consistent``: what is learned is the state after a whole number of steps; it is not where moving it was
    interrupted.
    """

    def __init__(
        self,
        learned: Learned,
        micro_step: MicroStep,
        update: Update,
        training: Training,
        settings: TrainingSettings,
        other_sets: int,
        processes: Processes,
    ) -> None:
        self.learned, self.micro_step, self.update = learned, micro_step, update
        self.training, self.settings, self.preserves = training, settings, training.has_preservation_rows(other_sets)
        self.processes, self.share = processes, processes.share(settings)
        self.results, self.consistent = Results(self.share.pieces), True
        self._batches: list[MicroBatch] = []  # of the step that is being done, and what they found
        self._losses: list[Tensor] = []

    @classmethod
    def build(
        cls,
        network: nn.Module,
        adapter: Adapter,
        training: Training,
        settings: TrainingSettings,
        *,
        other_sets: int,
        state: tuple[int, Mapping[str, Tensor]] | None = None,
        fused: bool = True,
        graph: bool = True,
        first: int = 0,
        processes: Processes = ALONE,
        words: LearnedWords | None = None,
    ) -> "Engine":
        """Make ready to train ``adapter`` under ``network``, which is frozen and stays where it is.

        ``other_sets``: the number of picture sets beside the first. ``state``: the steps done and :meth:`state_dict`,
        to go on from. ``fused``: take the step that has the network written out where there is one; ``graph``: let a
        card record it; ``first``: the fastest way of planner.py to begin with; ``processes``: those that share the steps
        out; ``words``: those that are learned beside the adapter, whose batches then have PROMPT (encoding.py). Where a
        card has no room to build the step, a part of the network stays in main memory from the beginning. Raises
        :class:`B4MError` for an adapter of another network and for too little memory.
        """
        adapter.targets(network)  # refuses an adapter of another network before anything is built
        device = next(network.parameters()).device
        written_out = fused_step_for(network, adapter.facts.family) if fused else None
        kind: Any = written_out or ReferenceStep
        with memory_advice(settings):
            learned = Learned(
                kind.stacks(adapter.layers, device), training, settings, other_sets=other_sets > 0, words=words
            )
            if state is not None:
                learned.load_state_dict(state[1], state[0])

            what = adapter if written_out is None else adapter.layers

            def steps(first: int) -> tuple[MicroStep, Update]:
                made = kind(
                    network,
                    what,
                    learned.stacks,
                    micro_steps=processes.share(settings).pieces,
                    graph=graph,
                    first=first,
                )
                return made, _update_of(made, learned, settings, ahead=works_ahead(device, made))

            engine = cls(learned, *_with_room(steps, first), training, settings, other_sets, processes)
        engine.results.steps = 0 if state is None else state[0]
        return engine

    @property
    def most_ahead(self) -> int:
        """How many steps a card may be ahead of what is read."""
        return int(isinstance(self.update, UpdateAhead))

    def gradients(self, batch: MicroBatch) -> None:
        """Add up the gradients of one micro-step; when memory runs out, those of the whole step once more in a way that
        needs less.
        """
        if not self._batches:
            self.learned.zero_grad()
        self._batches.append(batch)
        with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
            self._losses.append(self._pass(batch))
            return
        while self.reduce_memory():
            with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
                return self._again()
        with memory_advice(self.settings):
            self._again()

    def _again(self) -> None:
        self.learned.zero_grad()
        self._losses = [self._pass(batch) for batch in self._batches]

    def _pass(self, batch: MicroBatch) -> Tensor:
        rows = self.training.rows(batch.train_rows, len(batch.inputs["noisy"]))
        taught = (
            self.training.primary_sets if self.preserves else 1
        )  # without preservation rows the style's are the other ones
        words = self.learned.words
        inputs = batch.inputs if words is None else words.read(batch.inputs)
        return self.micro_step(inputs, batch.train_rows, rows, preserve=self.preserves, taught=taught)

    def step(self) -> None:
        """Add the gradients up over all processes, bound them and move what is learned, or give a card that to do;
        nothing moves where something is not a number.
        """
        with memory_advice(self.settings):
            self._learn_words()
            losses = self.processes.summed(torch.cat(self._losses), self.learned.gradients(), self.share)
            values = self.update.bounded(losses)
            self.consistent = False
            self.results.append(self.update(values))
        self.consistent = True
        self._batches, self._losses = [], []

    def _learn_words(self) -> None:
        """Take the step's gradients on to the words that are learned; when memory runs out, in a way that needs less."""
        words = self.learned.words
        if words is None:
            return
        with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
            return words.learn()
        self.reduce_memory()
        words.learn()

    def read(self, ahead: int = 0) -> Iterator[tuple[float, float]]:
        """The mean losses of the train rows and of the other rows of every step that is done, until ``ahead`` are left
        to the card.

        Raises :class:`B4MError` for a step that found what is not a number; neither it nor a step after it has moved
        anything. What a card had ahead when another process was lost is not to be had.
        """
        if self.processes.lost and len(self.results):
            self.results.forget()
            self.consistent = False
        while len(self.results) > ahead:
            yield self.results.finish_oldest_step()

    @property
    def steps(self) -> int:
        """How many steps are done and read; those that follow are ahead."""
        return self.results.steps

    def state_dict(self) -> dict[str, Tensor]:
        """What :meth:`load_state_dict` goes on from, to the same bytes on the same processor; read all steps before."""
        return self.learned.state_dict()

    def require_finite(self, kept: int) -> None:
        """Raise :class:`B4MError`, naming the layer, unless all that is learned are numbers; read all steps before.
        ``kept``: the step that is kept.
        """
        if not self.learned.is_finite():
            require_finite(self.learned.named(), self.steps, kept, self.settings)

    def explained(self, error: NotANumber, network: nn.Module, kept: int) -> B4MError:
        """Why a step found what is not a number, and what helps."""
        return explained(error, kept, self.settings, self.learned.named(), network)

    def load_state_dict(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on after ``steps`` steps."""
        self.learned.load_state_dict(tensors, steps)
        self.micro_step.refresh()
        self.results.steps = steps

    def reduce_memory(self) -> bool:
        """Need less memory from now on; False where there is no way left."""
        return self.micro_step.reduce_memory()

    def close(self) -> None:
        """Leave the network with its own weights and nothing beside them."""
        self.update.close()
        self.micro_step.close()


def _with_room(made: Callable[[int], tuple[MicroStep, Update]], first: int) -> tuple[MicroStep, Update]:
    with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
        return made(first)
    return made(max(first, FIRST_OFFLOADED))


def _update_of(step: MicroStep, learned: Learned, settings: TrainingSettings, *, ahead: bool) -> Update:
    try:
        return (UpdateAhead if ahead else Update)(
            learned.optimiser, learned.halves, settings.max_grad_norm, step.refresh
        )
    except BaseException:
        step.close()
        raise
