"""``python b4m.py studio plan.toml``: the words of the command line, who works, and what is printed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..atomic import advice
from ..errors import B4MError
from ..loading import load_model
from ..locks import holding
from . import contact_sheets, library, tasks
from .place import Place
from .plan_file import StudioPlan, read_plan
from .tasks import Result, Task
from .training_task import TrainingWork

if TYPE_CHECKING:
    from ..diffusers_folder import DiffusersFolder

_LOCK = ".studio.lock"
_ENGINE = "Dask, which shares work out to several workers, is not installed: pip install distributed bokeh"
Commands = Any
"""argparse's collection of commands, whose type has no public name."""


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "train many contents and styles by a plan, into a library with contact sheets"
    parser = commands.add_parser("studio", help=about, description=about)
    parser.set_defaults(run=run)
    parser.add_argument("plan", type=Path, help="a TOML file that names contents, styles and a model (docs/studio.md)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cards", help="the graphics cards that work, such as 0,1 (default: all that there are)")
    where.add_argument("--cpu", type=int, metavar="N", help="work on the processor, with N workers that share its cores")
    where.add_argument("--scheduler", metavar="ADDRESS", help="work on a Dask cluster that exists, such as tcp://server:8786")
    parser.add_argument("--check", action="store_true", help="say what is to be done, and do nothing")


def run(options: argparse.Namespace) -> None:
    """Do what the plan asks for. Raises :class:`B4MError` where it cannot begin, and at the end if a task failed."""
    plan = read_plan(options.plan)
    seats = _seats(options)
    if len(seats) != 1 and not _has_engine(options):
        seats = seats[:1]
    device = "cuda" if seats and seats[0].startswith("card") else "" if options.scheduler else "cpu"
    base = load_model(plan.model, tokenizer=plan.tokenizer, device="cpu")  # what is asked of it needs no weights
    base.check_tokenizers()
    todo = tasks.tasks_of(plan, base)
    _say(_summary(plan, todo))
    for note in plan.notes:
        _say(f"note: {note}")
    if options.check:
        return
    threads = max(1, (os.cpu_count() or 1) // max(len(seats), 1)) if len(seats) > 1 else 0
    place = Place(plan.model, plan.tokenizer, plan.store, plan.output, device, plan.dtype, threads, uuid.uuid4().hex)
    with _alone(plan):
        _end(plan, base, _results(options, seats, todo, place), todo)


def _seats(options: argparse.Namespace) -> list[str]:
    """The workers on this machine, by name. Raises :class:`B4MError` for cards that are not there."""
    if options.scheduler:
        return []
    if options.cpu is not None:
        if not 1 <= options.cpu <= 1024:
            raise B4MError(f"--cpu is {options.cpu}: say how many workers share the processor, from 1 up.")
        return [f"processor {number}" for number in range(options.cpu)]
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if options.cards is None:
        return [f"card {number}" for number in range(there)] or ["processor 0"]
    try:
        wanted = [int(each) for each in options.cards.split(",")]
    except ValueError as error:
        raise B4MError(f"--cards is {options.cards!r}: write their numbers with commas, such as 0,1.") from error
    if missing := [number for number in wanted if not 0 <= number < there]:
        known = f"this machine has {', '.join(map(str, range(there)))}" if there else "PyTorch sees no graphics card here"
        raise B4MError(f"There is no card {missing[0]}: {known}.")
    if len(set(wanted)) < len(wanted):
        raise B4MError(f"--cards is {options.cards!r}, which names a card twice: each is one worker.")
    return [f"card {number}" for number in wanted]


def _results(options: argparse.Namespace, seats: Sequence[str], todo: Sequence[Task], place: Place) -> Iterator[Result]:
    """The results of all tasks as they come: here one after the other for a single worker, else by the cluster."""
    if len(seats) == 1:
        if seats[0].startswith("card"):
            torch.cuda.set_device(int(seats[0].split()[1]))
        yield from tasks.in_turn(todo, place, _say)
        return
    cluster = _engine()
    with contextlib.ExitStack() as stack:
        if options.scheduler is not None:
            client = stack.enter_context(cluster.joined(options.scheduler))
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="b4m-dask-", ignore_cleanup_errors=True))
            client = stack.enter_context(cluster.started([cluster.Seat(name, _environment(name)) for name in seats], scratch))
        _say(f"status page: {cluster.status_page(client)}")
        yield from cluster.run(client, todo, place, _say)


def _has_engine(options: argparse.Namespace) -> bool:
    """Whether Dask is there. Where it was not asked for, several cards do without, and that is said."""
    try:
        _engine()
    except B4MError as error:
        if options.cards or options.cpu or options.scheduler:
            raise
        _say(f"note: one card works alone. {error}")
        return False
    return True


def _engine() -> Any:
    """The module that knows Dask. Raises :class:`B4MError` where that is not installed."""
    try:
        from . import cluster
    except ImportError as error:
        raise B4MError(f"{_ENGINE} (missing: {error.name}).") from error
    return cluster


def _environment(name: str) -> dict[str, str]:
    """What shows a worker its card, or none."""
    if not name.startswith("card"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    number, visible = int(name.split()[1]), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[number] if visible else str(number)}


@contextlib.contextmanager
def _alone(plan: StudioPlan) -> Iterator[None]:
    """Hold the library, so that no second command writes into it. Raises :class:`B4MError` while another does."""
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
        with holding(plan.output / _LOCK) as real:
            if not real:
                _say(f"note: the drive of {plan.output} has no locks: start no second command for it until this one has ended.")
            yield
    except BlockingIOError as error:
        raise B4MError(f"Another command is filling {plan.output} just now: wait for it, or choose another output.") from error
    except PermissionError as error:
        raise B4MError(f"{plan.output} cannot be written ({error.strerror}): {advice(error)}.") from error


def _end(plan: StudioPlan, base: DiffusersFolder, results: Iterable[Result], todo: Sequence[Task]) -> None:
    """Take the results, keep the index up to date, draw the sheets and say what came of it all."""
    works = {task.name: task.work for task in todo}
    failed: list[Result] = []
    done = 0
    for result in results:
        done += 1
        said = result.done or (f"FAILED: {result.error}" if result.error else "stopped")
        _say(f"[{done}/{len(todo)}] {result.name}: {said} ({result.seconds:.1f} s, {result.where})")
        if result.error:
            failed.append(result)
        work = works[result.name]
        if result.done and isinstance(work, TrainingWork):
            run_key = result.done.partition("(run ")[2].rstrip(")")
            library.write_index(plan.output, [(work.entry.role, work.entry.name, run_key)])
    side = min(plan.sheets.size or base.native_size, base.native_size)
    for file in contact_sheets.draw_sheets(plan, side):
        print(file)
    print(plan.output / library.INDEX)
    if failed:
        raise B4MError(
            f"{len(failed)} of {len(todo)} tasks failed, and the others are done: mend what is said above, and the same command does them."
        )


def _summary(plan: StudioPlan, todo: Sequence[Task]) -> str:
    contents, styles, pairs = len(plan.of("content")), len(plan.of("style")), len(plan.pairs())
    pictures = pairs * len(plan.sheets.prompts) * len(plan.sheets.seeds)
    return (
        f"{contents} contents and {styles} styles: {contents + styles} trainings; {pairs} pairs to paint, {pictures} pictures; "
        f"{len(todo)} tasks into {plan.output}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
