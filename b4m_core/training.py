"""The training loop: one for content, style and both together. Read ``_trained`` as its story.

Every optimiser step is a pure function of its number, the weights and the moments, so that a run that was cancelled or
killed goes on to the same bytes. The arithmetic is the engine's (engine.py), and what differs between the trainings is
a row of trainings.py.
"""

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .adapter import Adapter
from .attempts import Attempt, asked_for
from .base_model import BaseModel
from .batches import Batches, MicroSteps
from .causes import NotANumber
from .encoding import encode_sets
from .engine import Engine, memory_advice
from .errors import B4MError
from .fast.accelerate import find_out
from .keeping import KEEP_EVERY, Keeper, KeptElsewhere
from .learned_words import LearnedWords, Trigger, trigger_of
from .plan import Plan, first_adapter
from .record import joined, keep_record, record_of
from .run_store import RunStore
from .runs import silent
from .settings import TrainingSettings
from .several import ALONE, Processes
from .step_log import StepLog
from .trainings import training

KEPT_LOSSES = 200


@dataclass(frozen=True)
class Progress:
    """Where a training stands, given to ``watch`` after every micro-step (``step_done`` False) and after every
    optimiser step (True).

    ``losses`` are (step, loss of the train rows, loss of the others), growing; together they are content's and style's,
    or, with preservation rows, that of both and that of those rows. ``adapter`` is the live one, on a graphics card a
    step further on: read it, do not keep it; None while the pictures are being ``encoded`` (done, total), before the
    first step. ``attempt`` keeps samples beside what is learned.
    """

    step: int
    total: int
    step_done: bool
    losses: list[tuple[float, float, float]]
    seconds_left: float | None = None
    adapter: Adapter | None = None
    encoded: tuple[int, int] | None = None
    attempt: Attempt | None = None


Watch = Callable[[Progress], None]


def train(
    plan: Plan,
    base: BaseModel,
    store: RunStore,
    watch: Watch = lambda progress: None,
    *,
    retrain: bool = False,
    keep_every: int = KEEP_EVERY,
    tell: Callable[[str], None] = silent,
    told: Mapping[str, Any] | None = None,
    processes: Processes = ALONE,
) -> Adapter:
    """Train ``plan`` on ``base`` and return the adapter as its file says it.

    What is there of an identical run is used, whatever number of steps it was asked for: an adapter of these steps is
    loaded, and a training of fewer goes on. ``retrain`` starts anew, once: one that was stopped goes on, and what was
    there before stays until the new one has come as far. Every ``keep_every`` steps (0: never) the adapter is kept.
    ``watch`` may raise to cancel: what was learned is kept first. ``tell`` gets sentences for the artist, such as that
    a disk is full. ``told`` goes into the run's record (record.py) beside what plan and base model say of themselves.
    Of several ``processes`` the first calls this, and the others :func:`assist`. Raises :class:`B4MError` for what is
    not a number (the last good state is kept), for a disk that is too full to begin, or too little memory.
    """
    processes.require_same(lambda: plan.facts(base))
    run = store.open(plan.key(base))
    run.tell = tell
    with run.locked():  # what is held is not pruned
        store.prune()
        keep_record(run, joined(record_of(plan, base), told or {}), tell)
        attempt = run.begin(retrain=retrain)
        adapter = attempt.adapter(plan.settings.steps)
        if adapter is None and not attempt.retraining:
            adapter = run.adapter(plan.settings.steps)
        there = adapter is not None
        processes.from_first(lambda: (int(there), {}))
        if adapter is None:
            log = StepLog(attempt, plan.settings.learning_rate, tell)
            with log.kept(), _arithmetic(base.device):
                adapter = _trained(plan, base, attempt, _logged(watch, log), keep_every, tell, processes)
        run.settle(attempt)
        store.prune()
    return asked_for(adapter, plan.settings.as_dict())


def assist(plan: Plan, base: BaseModel, processes: Processes) -> None:
    """What each of several ``processes`` but the first does for :func:`train`, with the same plan: its share of every
    step. It keeps nothing and opens no store.

    Raises :class:`B4MError` for what is wrong here, and where another process has ended the training.
    """
    processes.require_same(lambda: plan.facts(base))
    told = processes.from_first(lambda: None)
    if told is not None and not told[0]:
        with _arithmetic(base.device):
            _trained(plan, base, None, lambda progress: None, 0, silent, processes)


def take(
    plan: Plan,
    base: BaseModel,
    store: RunStore,
    watch: Watch = lambda progress: None,
    *,
    tell: Callable[[str], None] = silent,
) -> Adapter:
    """What is trained of ``plan`` by now, as far as its steps: the adapter of the highest step that is kept. No step is
    trained. Raises :class:`B4MError` where nothing is kept.
    """
    run, most = store.open(plan.key(base)), plan.settings.steps
    run.tell = tell
    states = [step for attempt in run.attempts()[-1:] for step in attempt.steps_of("state") if step <= most]
    adapters = run.furthest(most) or 0
    step = max([*states, adapters], default=0)
    if not step:
        raise B4MError("Nothing of this is trained yet: choose run = continue or reuse, and press Run.")
    plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, steps=step))
    adapter = run.adapter(step) if step == adapters else None
    return train(plan, base, store, watch, tell=tell) if adapter is None else asked_for(adapter, plan.settings.as_dict())


def _logged(watch: Watch, log: StepLog) -> Watch:
    """A watcher that logs every step before it is watched."""

    def watching(progress: Progress) -> None:
        if progress.step_done:
            log.add(progress.losses)
        watch(progress)

    return watching


def _trained(
    plan: Plan,
    base: BaseModel,
    attempt: Attempt | None,
    watch: Watch,
    keep_every: int,
    tell: Callable[[str], None],
    processes: Processes,
) -> Adapter:
    """Encode, resume, step, read, keep, finish. Without an ``attempt`` another process keeps."""
    settings = plan.settings
    find_out(base.device, base.dtype)  # kernels are compiled from here on, while pictures are encoded
    sets, concept = [plan.pictures, *plan.others], plan.learns_words_of
    trigger = trigger_of(concept, sets, base, tell) if concept else None
    with memory_advice(settings):
        micro_steps = _encoded(plan, base, watch, processes, trigger)
        network = base.unet
        words = None if trigger is None else LearnedWords(trigger, base)
    adapter = first_adapter(plan, base)
    adapter = adapter if words is None else adapter.carrying(words.pieces())
    state = processes.from_first(lambda: None if attempt is None else attempt.load_state(settings.steps))
    row = training(plan.role, settings.correspondence)
    engine = Engine.build(
        network, adapter, row, settings, other_sets=len(plan.others), state=state, processes=processes, words=words
    )
    history = _History(settings, adapter, attempt, [] if state is None else state[1]["losses"].tolist())
    keeper = (
        KeptElsewhere(adapter)
        if attempt is None
        else Keeper(attempt, engine, adapter, lambda: (history.thinned(), history.losses), keep_every, tell)
    )
    try:
        keeper.require_room()
        for number in range(engine.steps, settings.steps):
            for batch in micro_steps.of_step(number):
                engine.gradients(batch)
                watch(history.progress(step_done=False))
            engine.step()
            micro_steps.prepare(number + 1)  # while the card is at work
            last, due = number + 1 == settings.steps, keeper.due(number + 1)
            for losses in engine.read(ahead=0 if due or last else engine.most_ahead):
                history.add(losses)
                watch(history.progress(step_done=True))
            if due and not last:
                keeper.keep(number + 1)
        return keeper.finish()
    except BaseException as error:
        with contextlib.suppress(B4MError):
            for losses in engine.read():
                history.add(losses)
        kept = keeper.stop()
        if isinstance(error, NotANumber):
            raise engine.explained(error, network, kept) from error
        raise
    finally:
        engine.close()


def _encoded(
    plan: Plan, base: BaseModel, watch: Watch, processes: Processes, trigger: Trigger | None
) -> MicroSteps:
    """The pictures as the network sees them, and this process's share of the batches that are drawn from them."""
    settings, row = plan.settings, training(plan.role, plan.settings.correspondence)

    def encoding(done: int, total: int) -> None:
        processes.check()
        watch(Progress(0, settings.steps, step_done=False, losses=[], encoded=(done, total)))

    sets = [plan.pictures.with_flips() if settings.flip else plan.pictures, *plan.others]
    learned = None if trigger is None else trigger.prompts
    first, *others = encode_sets(
        base, sets, settings.resolution, primary_sets=row.primary_sets, watch=encoding, learned=learned
    )
    batches = Batches(
        first,
        others,
        batch_size=settings.batch_size,
        seed=settings.seed,
        schedule=base.schedule,
        primary_sets=row.primary_sets,
        preserves=row.preserves,
    )
    return MicroSteps(batches, base.schedule, processes.share(settings))


class _History:
    """What the steps found, and how long they took."""

    def __init__(
        self, settings: TrainingSettings, adapter: Adapter, attempt: Attempt | None, losses: list[list[float]]
    ) -> None:
        self.settings, self.adapter, self.attempt = settings, adapter, attempt
        self.losses = [(step, trained, others) for step, trained, others in losses]
        self._durations: deque[float] = deque(maxlen=30)
        self._read_at = time.monotonic()

    def add(self, losses: tuple[float, float]) -> None:
        """One more step is done."""
        self.losses.append((float(len(self.losses) + 1), *losses))
        before, self._read_at = self._read_at, time.monotonic()
        self._durations.append(self._read_at - before)

    def progress(self, *, step_done: bool) -> Progress:
        """For those who watch."""
        done, total, left = len(self.losses), self.settings.steps, None
        if self._durations:
            left = (total - done) * sum(self._durations) / len(self._durations)
        return Progress(done, total, step_done, self.losses, left, self.adapter, attempt=self.attempt)

    def thinned(self) -> tuple[tuple[float, ...], ...]:
        """A few hundred of the losses, the last among them, as the file keeps them."""
        every = math.ceil(len(self.losses) / KEPT_LOSSES)
        kept = tuple(self.losses[::every]) + tuple(self.losses[-1:] if (len(self.losses) - 1) % every else ())
        return tuple(tuple(float(f"{value:.6g}") for value in row) for row in kept)


@contextlib.contextmanager
def _arithmetic(device: torch.device) -> Iterator[None]:
    """Gradients are taken, and kernels repeat what they did."""
    with torch.inference_mode(False), torch.enable_grad(), _repeatable(device):
        yield


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Deterministic kernels where torch has them: the same bytes on the same device. Not on a graphics card, where the
    fastest attention adds its gradients up in whatever order they come: there the same numbers to within rounding.
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
