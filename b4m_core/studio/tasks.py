"""What a plan has to be done, in an order in which it can be done, and how one task is done wherever it runs."""

from __future__ import annotations

import functools
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .. import presets
from ..errors import B4MError
from ..memory import is_out_of_memory
from ..settings import TrainingSettings
from . import library, stopping
from .auxiliary_task import AuxiliaryWork
from .pair_task import PairWork
from .place import Place, Tell
from .plan_file import Entry, StudioPlan
from .training_task import TrainingWork

if TYPE_CHECKING:
    from ..diffusers_folder import DiffusersFolder


class Work(Protocol):
    """What a task does: plain data, so that it can be sent to a worker."""

    def do(self, base: DiffusersFolder, place: Place, tell: Tell) -> str:
        """Do it with the base model; what was done, in words. Raises :class:`B4MError` where it cannot be done."""


@dataclass(frozen=True)
class Task:
    """``name``: "training content cat"; ``needs``: the names of the tasks that come before it."""

    name: str
    work: Work
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """How a task came out: what was ``done``, or the ``error`` in a sentence; neither where it was stopped. ``where`` it
    ran, and for how many ``seconds``.
    """

    name: str
    done: str = ""
    error: str = ""
    where: str = ""
    seconds: float = 0.0


def tasks_of(plan: StudioPlan, base: DiffusersFolder) -> list[Task]:
    """All tasks of a plan for a model like ``base``, each after those that it needs. Raises :class:`B4MError` for settings
    that cannot be, and for files in the library's place that are not its own.
    """
    mine = library.indexed(plan.output)
    works = [_training(plan, entry, base, mine) for entry in plan.entries]
    shared = {_auxiliary_of(work): None for work in works if _auxiliary_of(work) is not None}
    auxiliary = {work: f"auxiliary {work.role} {number}" for number, work in enumerate(filter(None, shared), start=1)}
    tasks = [Task(name, work) for work, name in auxiliary.items()]
    first: dict[object, str] = {}
    for work in works:
        name = training_name(work.entry)
        before = _auxiliary_of(work)
        same = first.setdefault(_what_it_learns(work), name)
        needs = (*((auxiliary[before],) if before is not None else ()), *((same,) if same != name else ()))
        tasks.append(Task(name, work, needs))
    side = min(plan.sheets.size or base.native_size, base.native_size)
    for content, style in plan.pairs():
        needs = (training_name(content), training_name(style))
        tasks.append(Task(f"pair {content.name} + {style.name}", PairWork(content, style, plan.sheets, side), needs))
    return tasks


def training_name(entry: Entry) -> str:
    """What the task that trains it is called."""
    return f"training {entry.role} {entry.name}"


def _training(plan: StudioPlan, entry: Entry, base: DiffusersFolder, mine: Mapping[str, object]) -> TrainingWork:
    preset = presets.preset_named(entry.preset, presets.kind_of(base.family.name, base.native_size))
    stage = preset.stage(entry.role)
    values = {
        "steps": stage.steps,
        "learning_rate": stage.learning_rate,
        "batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.gradient_accumulation_steps,
        "rank": preset.rank,
        "resolution": min(preset.resolution, base.native_size),
        **entry.settings,
    }
    path = library.path_of(plan.output, entry.role, entry.name)
    ours = path.relative_to(plan.output).as_posix() in mine
    sets = preset.auxiliary_sets if plan.auxiliary_sets is None else plan.auxiliary_sets
    pictures = preset.auxiliary_pictures if plan.auxiliary_pictures is None else plan.auxiliary_pictures
    try:
        return TrainingWork(entry, TrainingSettings(**values), sets, pictures, ours)
    except B4MError as error:
        raise B4MError(f"{plan.file.name}, [{entry.role}.{entry.name}]: {error}") from error


def _auxiliary_of(work: TrainingWork) -> AuxiliaryWork | None:
    """The painting that a training shares with others; None where it has pictures of its own, or none."""
    sets, pictures = work.auxiliary_sets, work.auxiliary_pictures
    if work.entry.auxiliary is not None or not sets or not pictures:
        return None
    return AuxiliaryWork(work.entry.role, sets, pictures, work.settings.resolution)


def _what_it_learns(work: TrainingWork) -> object:
    """Equal for two trainings that are one run: the second waits for the first and takes its result."""
    entry = work.entry
    words = entry.role, entry.folder, entry.trigger, entry.class_word, entry.caption, entry.auxiliary
    return *words, work.settings, work.auxiliary_sets, work.auxiliary_pictures


def perform(task: Task, place: Place, before: Iterable[Result], tell: Tell) -> Result:
    """Do one task here, after those that it needs. Whatever is wrong with it is in the result, as a sentence."""
    where, began = f"{platform.node()}, process {os.getpid()}", time.monotonic()

    def result(done: str = "", error: str = "") -> Result:
        return Result(task.name, done, error, where, time.monotonic() - began)

    lacking = [each.name for each in before if not each.done]
    if lacking:
        return result(error=f"It needs {' and '.join(lacking)}, which did not come to an end.")
    try:
        stopping.check(place.session)
        return result(done=task.work.do(place.base(), place, tell))
    except stopping.Stopped:
        return result()
    except B4MError as error:
        return result(error=str(error))
    except OSError as error:
        return result(error=f"{error.filename or 'A file'} could not be read or written ({error.strerror or error}).")
    except Exception as error:  # one task's accident is not the others'
        logging.getLogger("b4m").debug("%s", task.name, exc_info=True)
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            return result(error="Memory ran out: close other programs, or lower resolution or rank.")
        return result(error=f"It ended by an unexpected {type(error).__name__}: {error}")


def _tell(tell: Tell, what: str, line: str) -> None:
    tell(f"{what}: {line}")


def in_turn(tasks: Iterable[Task], place: Place, tell: Tell) -> Iterator[Result]:
    """All tasks here, one after the other. Ctrl-C ends the one that is at work, which keeps what it has."""
    results: dict[str, Result] = {}
    for task in tasks:
        before = [results[name] for name in task.needs]
        results[task.name] = perform(task, place, before, functools.partial(_tell, tell, task.name))
        yield results[task.name]
