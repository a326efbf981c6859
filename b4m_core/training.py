"""The training loop: one for content, style and both together.

``train`` says what a training is; ``_Loop.run`` reads as its story. Every micro-step is one batch, one forward and one backward pass
(row_split.py), done by one of two steps with the same sums (fast/step.py); every optimiser step is a pure function of its number, the
weights and the moments, so that a run that was cancelled or killed goes on to the same bytes. A graphics card works ahead: what a step
found is read while the card is at the next one (fast/update.py).
"""

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .adapter import Adapter
from .base_model import BaseModel
from .batches import Batches
from .errors import B4MError
from .facts import Concept, Facts
from .fast.accelerate import find_out
from .fast.kinds import kinds
from .fast.network import is_written_out
from .fast.step import FastStep, PlainStep, Step
from .fast.update import Found, Update, UpdateAhead
from .memory import by_one_name
from .objective import NoiseSchedule
from .pictures import PictureSet
from .planner import FIRST_STREAMED
from .runs import Run, RunStore, content_key
from .samples import encode_sets
from .settings import TrainingSettings
from .stacks import Stack, stack_layers
from .trainings import training

SAVE_SECONDS = 60.0
KEPT_LOSSES = 200


@dataclass(frozen=True)
class Plan:
    """What is to be trained: the role (a row of trainings.py), the own pictures, the partners' pictures, the settings.

    ``content`` and ``style`` start from a fresh adapter, with auxiliary sets as partners; ``together`` starts from ``start``,
    the merged adapter, with the content pictures as own and the style pictures as its first partner, auxiliary sets of both kinds after it.
    """

    role: str
    own: PictureSet
    partners: tuple[PictureSet, ...]
    settings: TrainingSettings
    start: Adapter | None = None

    def __post_init__(self) -> None:
        row = training(self.role, self.settings.correspondence)
        if self.role == "together" and (self.start is None or not self.partners):
            raise B4MError("Training together needs a content adapter, a style adapter and the pictures of both.")
        if self.role == "together" and len(self.partners) > 1 and not row.keeps:
            raise B4MError("Training together keeps auxiliary pictures or has none: choose correspondence = keep, or leave them out.")

    def key(self, base: BaseModel) -> str:
        """The content key of the run: equal for identical inputs, and only for those."""
        sets = [
            {"trigger": pictures.trigger, "class": pictures.class_word, "pictures": [picture.digest() for picture in pictures.pictures]}
            for pictures in (self.own, *self.partners)
        ]
        return content_key(
            {
                "role": self.role,
                "sets": sets,
                "settings": self.settings.as_dict(),
                "start": None if self.start is None else self.start.digest(),
                "base": base.fingerprint,
                "schedule": [base.schedule.prediction, base.schedule.alphas_cumprod.tolist()],
                "arithmetic": [base.device.type, str(base.dtype)],
            }
        )


@dataclass(frozen=True)
class Progress:
    """Where a training stands, given to ``watch`` after every micro-step (``step_done`` False) and after every optimiser step (True).

    ``losses`` are (step, own loss, partner loss), growing; together they are content's and style's, or, where rows are kept, that of both
    and that of the kept ones. ``adapter`` is the live one, on a graphics card a step further on: read it, do not keep it; None while
    the pictures are being ``encoded`` (done, total), before the first step.
    """

    step: int
    total: int
    step_done: bool
    losses: list[tuple[float, float, float]]
    seconds_left: float | None = None
    adapter: Adapter | None = None
    encoded: tuple[int, int] | None = None


Watch = Callable[[Progress], None]


def train(plan: Plan, base: BaseModel, store: RunStore, watch: Watch = lambda progress: None, *, retrain: bool = False) -> Adapter:
    """Train ``plan`` on ``base`` and return the adapter as its file says it.

    An identical run that is finished is loaded, an unfinished one goes on, and ``retrain`` starts anew. ``watch`` may raise to cancel: the
    state is kept first. Raises :class:`B4MError` for a loss that is not a number (the last good state is kept), a full disk, or too
    little memory.
    """
    run = store.open(plan.key(base))
    with run.locked():
        if retrain:
            run.clear()
        adapter = run.finished()
        if adapter is None:
            with torch.inference_mode(False), torch.enable_grad(), _repeatable(base.device):
                adapter = _Loop(plan, base, run, watch).run()
        return adapter


class _Loop:
    """One training while it runs."""

    def __init__(self, plan: Plan, base: BaseModel, run: Run, watch: Watch) -> None:
        self.plan, self.settings, self.run_folder, self.watch = plan, plan.settings, run, watch
        self.row = training(plan.role, plan.settings.correspondence)
        self.schedule: NoiseSchedule = base.schedule
        find_out(base.device, base.dtype)  # kernels are compiled from here on, while pictures are encoded
        sets = [plan.own.with_flips() if self.settings.flip else plan.own, *plan.partners]
        own, *partners = encode_sets(base, sets, self.settings.resolution, leaders=self.row.leaders, watch=self._encoding)
        self.batches = Batches(
            own,
            partners,
            batch=self.settings.batch,
            seed=self.settings.seed,
            timesteps=len(self.schedule),
            leaders=self.row.leaders,
            one_beside=self.row.keeps,
        )
        self.keeps = self.row.kept(len(partners))
        with self._memory_advice():
            self.unet, self.device = base.unet, base.device
        self.adapter = _first_adapter(plan, base)
        kind = self.adapter.facts.kind
        self.fast = self.device.type == "cuda" and is_written_out(self.unet)
        with self._memory_advice():
            self.stacks = self._stacks()
        self.moved = self.row.moved(kind, partners=bool(partners))
        for stack in self.stacks:
            for part in set(kind.learned()) - set(self.moved):
                stack.rest(part)
        self.optimiser = self.row.optimiser(self.stacks, self.settings)
        self.step, self.consistent = 0, True  # the steps whose losses are read; those that follow are ``ahead``
        self.ahead: deque[Found] = deque()
        self.losses: list[tuple[float, float, float]] = []
        self.prepared: tuple[int, dict[str, Tensor], int] | None = None
        self.durations: deque[float] = deque(maxlen=30)

    def run(self) -> Adapter:
        self._resume()
        self.micro_step, self.update = self._make()
        try:
            saved = self.read_at = time.monotonic()
            for number in range(self.step, self.settings.steps):
                self._launch(number)
                due = time.monotonic() - saved > SAVE_SECONDS
                self._read(0 if due or not self.fast or number + 1 == self.settings.steps else 1)
                if due:
                    self._save()
                    saved = time.monotonic()
            return self.run_folder.finish(self._result())
        except BaseException:
            with contextlib.suppress(B4MError):
                while self.ahead:
                    self._settle()
            if self.consistent and self.step:
                self._save()
            raise
        finally:
            self.update.close()
            self.micro_step.close()

    def _stacks(self) -> list[Stack]:
        """The learned halves, in the order that the step needs."""
        if not self.fast:
            return stack_layers(self.adapter, self.device)
        self.adapter.targets(self.unet)  # refuses an adapter of another network
        groups = kinds(self.adapter.shapes()).values()
        return [Stack([self.adapter.layers[path] for group in kind for path in group], self.device) for kind in groups]

    def _make(self) -> tuple[Step, Update]:
        """The step and its end; where a card has no room to build them, with a part of the network in main memory from the beginning."""
        with self._memory_advice():
            with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
                return self._made(0)
            return self._made(FIRST_STREAMED)

    def _made(self, first: int) -> tuple[Step, Update]:
        halves = [[stack.parts[part] for stack in self.stacks] for part in self.moved]
        step, make = self._make_step(first), UpdateAhead if self.fast else Update
        try:
            return step, make(self.optimiser, halves, self.settings.clip, step.refresh)
        except BaseException:
            step.close()
            raise

    def _make_step(self, first: int) -> Step:
        if not self.fast:
            return PlainStep(self.unet, self.adapter, micro_steps=self.settings.accumulation)
        of_kind = kinds(self.adapter.shapes())
        return FastStep(self.unet, self.adapter, self.stacks, of_kind, micro_steps=self.settings.accumulation, graph=True, first=first)

    def _encoding(self, done: int, total: int) -> None:
        self.watch(Progress(0, self.settings.steps, step_done=False, losses=[], encoded=(done, total)))

    def _launch(self, number: int) -> None:
        """Do step ``number``, or give it to the card to do."""
        losses = self._gradients_that_fit(number)
        with self._memory_advice():
            values = self.update.bounded(losses)
            self.consistent = False
            self.ahead.append(self.update(values))
        self.consistent = True
        self._inputs((number + 1) * self.settings.accumulation)  # while the card is at work

    def _read(self, left: int) -> None:
        """Read what steps found until ``left`` are ahead."""
        while len(self.ahead) > left:
            self._settle()
            self.watch(self._progress(step_done=True))
            before, self.read_at = self.read_at, time.monotonic()
            self.durations.append(self.read_at - before)

    def _settle(self) -> None:
        """Count the first step that is ahead as done. Raises :class:`B4MError` where it found what is not a number."""
        read, count = self.ahead[0].read(), 2 * self.settings.accumulation
        losses = read[:count].view(-1, 2) / self.settings.accumulation
        for what, values in (("loss", losses), ("gradient", read[count:])):
            if not torch.isfinite(values).all():
                self.ahead.clear()  # nothing has moved since
                raise self._not_a_number(what)
        totals = torch.zeros(2, dtype=torch.float64)
        for loss in losses:
            totals += loss
        self.ahead.popleft()
        self.step += 1
        self.losses.append((float(self.step), float(totals[0]), float(totals[1])))

    def _gradients_that_fit(self, number: int) -> Tensor:
        """The gradients of one step; when memory runs out, once more in a way that needs less."""
        while True:
            with contextlib.suppress(torch.cuda.OutOfMemoryError), by_one_name():
                return self._gradients(number)
            if not self.micro_step.squeeze():
                with self._memory_advice():
                    return self._gradients(number)

    @contextlib.contextmanager
    def _memory_advice(self) -> Iterator[None]:
        try:
            with by_one_name():
                yield
        except torch.cuda.OutOfMemoryError as error:
            raise B4MError(
                f"The graphics card's memory is too small at resolution {self.settings.resolution} and rank {self.settings.rank}: "
                "lower one of them, or close other programs that use the card."
            ) from error

    def _gradients(self, step: int) -> Tensor:
        """Add up the gradients of one step; the own and partner loss of every micro-step, on the device."""
        for stack in self.stacks:
            for part in self.moved:
                stack.parts[part].grad.zero_()  # type: ignore[union-attr]
        found = []
        for micro in range(self.settings.accumulation):
            inputs, own = self._inputs(step * self.settings.accumulation + micro)
            rows = self.row.rows(own, len(inputs["noisy"]))
            taught = self.row.leaders if self.keeps else 1  # without kept rows the style's are the partner ones
            found.append(self.micro_step(inputs, own, rows, keep=self.keeps, taught=taught))
            self.watch(self._progress(step_done=False))
        return torch.cat(found)

    def _inputs(self, number: int) -> tuple[dict[str, Tensor], int]:
        """What micro-step ``number`` goes through the network with, on the CPU, and how many of its rows are own ones."""
        if self.prepared is None or self.prepared[0] != number:
            batch = self.batches.draw(number)
            inputs = {
                "noisy": self.schedule.add_noise(batch.latents, batch.noise, batch.timesteps),
                "target": self.schedule.target(batch.latents, batch.noise, batch.timesteps),
                **{name: getattr(batch, name) for name in ("mask", "timesteps", "context", "pooled", "size_ids")},
            }
            self.prepared = number, inputs, batch.own
        return self.prepared[1], self.prepared[2]

    def _not_a_number(self, what: str) -> B4MError:
        return B4MError(
            f"The {what} is not a number at step {self.step + 1} of {self.settings.steps}: training stopped and step {self.step} is kept; "
            f"lower learning_rate (now {self.settings.learning_rate:g})."
        )

    def _progress(self, *, step_done: bool) -> Progress:
        left = None
        if self.durations:
            left = (self.settings.steps - self.step) * sum(self.durations) / len(self.durations)
        return Progress(self.step, self.settings.steps, step_done, self.losses, left, self.adapter)

    def _save(self) -> None:
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, parameter in self._parameters():
            tensors[name] = parameter
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in self.optimiser.state[parameter]:
                    tensors[f"{name}.{moment}"] = self.optimiser.state[parameter][moment]
        self.run_folder.save_state(tensors, self.step)

    def _resume(self) -> None:
        found = self.run_folder.load_state()
        if found is None:
            return
        self.step, tensors = found
        counter = torch.tensor(float(self.step), device=self.device if self.device.type == "cuda" else "cpu")
        self.losses = [(step, own, partner) for step, own, partner in tensors["losses"].tolist()]
        for name, parameter in self._parameters():
            parameter.data.copy_(tensors[name])
            if f"{name}.exp_avg" in tensors:
                moments = {moment: tensors[f"{name}.{moment}"].to(self.device).clone() for moment in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[parameter] = {"step": counter.clone(), **moments}

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for index, group in enumerate(self.optimiser.param_groups):
            for place, parameter in enumerate(group["params"]):
                if parameter.requires_grad:
                    yield f"{index}.{place}", parameter

    def _result(self) -> Adapter:
        every = math.ceil(len(self.losses) / KEPT_LOSSES)
        kept = tuple(self.losses[::every]) + tuple(self.losses[-1:] if (len(self.losses) - 1) % every else ())
        rounded = tuple(tuple(float(f"{value:.6g}") for value in row) for row in kept)
        return self.adapter.with_facts(losses=rounded, steps=self.settings.steps).rounded()


def _first_adapter(plan: Plan, base: BaseModel) -> Adapter:
    """Where the training begins: a fresh adapter, or for ``together`` a copy of the merged one, as it was loaded."""
    own = _concept(plan.own)
    facts = Facts(
        role=plan.role,
        rank=plan.settings.rank,
        basis_seed=plan.settings.basis_seed,
        start=plan.settings.start,
        split=plan.settings.split,
        base=base.network_fingerprint,
        base_name=base.name,
        prediction=base.schedule.prediction,
        content=None if plan.role == "style" else own,
        style=own if plan.role == "style" else _concept(plan.partners[0]) if plan.role == "together" else None,
        settings=plan.settings.as_dict(),
        file_dtype=plan.settings.file_dtype,
    )
    if plan.start is None:
        return Adapter.for_unet(base.unet, facts)
    known = plan.start.facts
    facts = dataclasses.replace(facts, basis=known.basis, parents=known.parents, **known.common())
    return Adapter(plan.start.clone().layers, facts)


def _concept(pictures: PictureSet) -> Concept:
    return Concept.of(pictures.trigger, pictures.class_word, pictures.prompts())


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Deterministic kernels where torch has them: the same bytes on the same device. Not on a graphics card, where the fastest attention
    adds its gradients up in whatever order they come: there the same numbers to within rounding.
    """
    algorithms, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic  # torch's types do not know its switch
    filled = memory.fill_uninitialized_memory
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(device.type != "cuda", warn_only=True)
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = filled
