"""The training loop: one for content, style and both together.

``train`` says what a training is; ``_Loop.run`` reads as its story. Every micro-step is one batch, one forward and one backward pass
(row_split.py); every optimiser step is a pure function of its number, the weights and the moments, so that a run that was cancelled or
killed goes on to the same bytes.
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
from .batches import Batch, Batches
from .errors import B4MError
from .facts import Concept, Facts
from .objective import NoiseSchedule, row_losses
from .pictures import PictureSet
from .runs import Run, RunStore, content_key
from .samples import encode_sets
from .settings import TrainingSettings
from .stacks import stack_layers
from .trainings import training

SAVE_SECONDS = 60.0
KEPT_LOSSES = 200
HALVES = ("up", "down")


@dataclass(frozen=True)
class Plan:
    """What is to be trained: the role (a row of trainings.py), the own pictures, the partners' pictures, the settings.

    ``content`` and ``style`` start from a fresh adapter, with up to three auxiliary sets as partners; ``together`` starts from ``start``,
    the merged adapter, with the content pictures as own and the style pictures as its one partner.
    """

    role: str
    own: PictureSet
    partners: tuple[PictureSet, ...]
    settings: TrainingSettings
    start: Adapter | None = None

    def __post_init__(self) -> None:
        training(self.role)
        if self.role == "together" and (self.start is None or len(self.partners) != 1):
            raise B4MError("Training together needs a content adapter, a style adapter and the pictures of both.")

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

    ``losses`` are (step, own loss, partner loss), growing. ``adapter`` is the live one: read it, do not keep it; None while the pictures
    are being ``encoded`` (done, total), before the first step.
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
            with torch.inference_mode(False), torch.enable_grad(), _deterministic():
                adapter = _Loop(plan, base, run, watch).run()
        return adapter


class _Loop:
    """One training while it runs."""

    def __init__(self, plan: Plan, base: BaseModel, run: Run, watch: Watch) -> None:
        self.plan, self.settings, self.run_folder, self.watch = plan, plan.settings, run, watch
        self.row = training(plan.role)
        self.schedule: NoiseSchedule = base.schedule
        sets = [plan.own.with_flips() if self.settings.flip else plan.own, *plan.partners]
        own, *partners = encode_sets(base, sets, self.settings.resolution, all_lead=self.row.partners_lead, watch=self._encoding)
        self.batches = Batches(
            own,
            partners,
            batch=self.settings.batch,
            seed=self.settings.seed,
            timesteps=len(self.schedule),
            partners_lead=self.row.partners_lead,
        )
        self.unet = base.unet
        self.device, self.dtype = base.device, base.dtype
        self.adapter = _first_adapter(plan, base)
        self.stacks = stack_layers(self.adapter, self.device)
        self.moved = HALVES if partners else tuple(self.row.own)
        for stack in self.stacks:
            for half in set(HALVES) - set(self.moved):
                getattr(stack, half).grad = None  # nobody teaches it, so not even weight decay may touch it
        self.optimiser = self.row.optimiser(self.stacks, self.settings)
        self.step, self.consistent = 0, True
        self.losses: list[tuple[float, float, float]] = []
        self.durations: deque[float] = deque(maxlen=30)

    def run(self) -> Adapter:
        self._resume()
        self.adapter.attach(self.unet)
        try:
            saved = time.monotonic()
            while self.step < self.settings.steps:
                started = time.monotonic()
                self._one_step()
                self.watch(self._progress(step_done=True))
                self.durations.append(time.monotonic() - started)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
            return self.run_folder.finish(self._result())
        except BaseException:
            if self.consistent and self.step:
                self._save()
            raise
        finally:
            self.adapter.detach()
            self.unet.disable_gradient_checkpointing()  # type: ignore[operator]

    def _encoding(self, done: int, total: int) -> None:
        self.watch(Progress(0, self.settings.steps, step_done=False, losses=[], encoded=(done, total)))

    def _one_step(self) -> None:
        losses = self._gradients_that_fit()
        self._clip()
        self.consistent = False
        with self._memory_advice():
            self.optimiser.step()
        self.consistent = True
        self.step += 1
        self.losses.append((float(self.step), *losses))

    def _gradients_that_fit(self) -> tuple[float, float]:
        """The gradients of one step; when memory runs out, once more with activations recomputed instead of kept."""
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            return self._gradients()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.unet.enable_gradient_checkpointing()  # type: ignore[operator]
        with self._memory_advice():
            return self._gradients()

    @contextlib.contextmanager
    def _memory_advice(self) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise B4MError(
                f"The graphics card's memory is too small at resolution {self.settings.resolution} and rank {self.settings.rank}: "
                "lower one of them, or close other programs that use the card."
            ) from error

    def _gradients(self) -> tuple[float, float]:
        """Accumulate the gradients of one step; the mean own and partner loss."""
        for stack in self.stacks:
            for half in self.moved:
                getattr(stack, half).grad.zero_()
        totals = torch.zeros(2, dtype=torch.float64)
        for micro in range(self.settings.accumulation):
            batch = self.batches.draw(self.step * self.settings.accumulation + micro).to(self.device)
            own, partner = self._losses(batch)
            ((own + partner) / self.settings.accumulation).backward()  # type: ignore[no-untyped-call]
            totals += torch.stack([own.detach(), partner.detach()]).double().cpu() / self.settings.accumulation
            if not torch.isfinite(totals).all():
                raise self._not_a_number("loss")
            self.watch(self._progress(step_done=False))
        return float(totals[0]), float(totals[1])

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of the own rows and that of the partner rows, from one pass through the network."""
        self.adapter.rows = self.row.rows(batch.own, len(batch.latents))
        noisy = self.schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
        predicted = predict(self.unet, noisy, batch, self.dtype)
        losses = row_losses(predicted, self.schedule.target(batch.latents, batch.noise, batch.timesteps), batch.mask)
        partner = losses[batch.own :]
        return losses[: batch.own].mean(), partner.mean() if len(partner) else losses.new_zeros(())

    def _clip(self) -> None:
        """Bound the gradient norm of each half on its own."""
        for half in self.moved:
            parameters = [getattr(stack, half) for stack in self.stacks]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip)
            if not torch.isfinite(norm):
                raise self._not_a_number("gradient")

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
        self.losses = [(step, own, partner) for step, own, partner in tensors["losses"].tolist()]
        for name, parameter in self._parameters():
            parameter.data.copy_(tensors[name])
            if f"{name}.exp_avg" in tensors:
                moments = {moment: tensors[f"{name}.{moment}"].to(self.device).clone() for moment in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[parameter] = {"step": torch.tensor(float(self.step)), **moments}

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for index, stack in enumerate(self.stacks):
            yield f"{index}.up", stack.up
            yield f"{index}.down", stack.down

    def _result(self) -> Adapter:
        every = math.ceil(len(self.losses) / KEPT_LOSSES)
        kept = tuple(self.losses[::every]) + tuple(self.losses[-1:] if (len(self.losses) - 1) % every else ())
        rounded = tuple(tuple(float(f"{value:.6g}") for value in row) for row in kept)
        return self.adapter.with_facts(losses=rounded, steps=self.settings.steps).rounded()


def predict(unet: torch.nn.Module, noisy: Tensor, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The network's prediction for ``noisy`` latents (rows, 4, h, w), in float32 or finer."""
    output = unet(
        noisy.to(dtype),
        batch.timesteps,
        encoder_hidden_states=batch.context.to(dtype),
        added_cond_kwargs={"text_embeds": batch.pooled.to(dtype), "time_ids": batch.size_ids},
    )
    return output.sample.float() if dtype != torch.float64 else output.sample  # type: ignore[no-any-return]


def _first_adapter(plan: Plan, base: BaseModel) -> Adapter:
    """Where the training begins: a fresh adapter, or for ``together`` a copy of the merged one, as it was loaded."""
    own = _concept(plan.own)
    facts = Facts(
        role=plan.role,
        rank=plan.settings.rank,
        basis_seed=plan.settings.basis_seed,
        start=plan.settings.start,
        base=base.fingerprint,
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
    if known.base and known.base != base.fingerprint:
        raise B4MError(
            f"These adapters were trained on {known.base_name or 'another model'} ({known.base[:8]}) and the model here is {base.name} "
            f"({base.fingerprint[:8]}): train together on the model that they were trained on."
        )
    facts = dataclasses.replace(
        facts, rank=known.rank, basis_seed=known.basis_seed, basis=known.basis, start=known.start, parents=known.parents
    )
    return Adapter(plan.start.clone().layers, facts)


def _concept(pictures: PictureSet) -> Concept:
    return Concept(pictures.trigger, pictures.class_word, pictures.prompts())


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic kernels where torch has them; the same bytes on the same device."""
    algorithms, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic  # torch's types do not know its switch
    filled = memory.fill_uninitialized_memory
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = filled
