"""The processes of one training that torchrun or ``accelerate launch`` started: they speak to one another and to nobody
else, over torch.distributed. The only file that may (test_imports.py), and no node imports it.

Before every step all say that they are well, which costs a fraction of a millisecond. So none waits for gradients that
another will never have; and when one fails or is asked to stop, all end after the same step and the first keeps it.
"""

import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import B4MError
from .several import ALONE, Made, Processes, Share

TO_MEET, FOR_A_WORD, FOR_SUMS = timedelta(minutes=2), timedelta(minutes=30), timedelta(minutes=10)
"""How long a process waits for the others: at the start; while the first may be painting a picture or writing to a slow
disk; and for gradients, when all have said that theirs are ready. One that dies is missed at once.
"""
NUMBERS, PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("MASTER_ADDR", "MASTER_PORT")
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.uint8)}
_LONGEST_SHOWN = 24


@dataclass(frozen=True)
class Launch:
    """What a launcher tells a process: its number among all ``count``, and among those of its machine."""

    index: int
    count: int
    local: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Launch | None":
        """None for a process alone. It is LOCAL_RANK that says that a launcher started this very process; clusters set
        the others for whatever runs on them. Raises :class:`B4MError` where they make no sense together.
        """
        if "LOCAL_RANK" not in environment:
            return None
        missing = [name for name in (*NUMBERS, *PLACE) if not environment.get(name)]
        given = [environment.get(name, "") for name in NUMBERS]
        if not missing and all(text.isascii() and text.isdigit() for text in given):
            index, count, local = map(int, given)
            if local <= index < count:
                return cls(index, count, local) if count > 1 else None
        told = ", ".join(f"{name}={text}" for name, text in zip(NUMBERS, given, strict=True) if text)
        raise B4MError(
            f"The environment names this process as one of several, but not so that they can meet ({told}"
            f"{'; not set: ' + ', '.join(missing) if missing else ''}): start them by torchrun or accelerate launch, or "
            "unset LOCAL_RANK to train in one process."
        )


@contextlib.contextmanager
def joined(environment: Mapping[str, str]) -> Iterator[Processes]:
    """Within: the processes that the launcher started have met, and the first alone is heard; one alone is by itself.
    What one of them raises ends all of them. Raises :class:`B4MError` where they do not meet.
    """
    launch = Launch.of(environment)
    if launch is None:
        yield ALONE
        return
    group = _meeting(lambda: Group(launch), f"at {environment['MASTER_ADDR']}:{environment['MASTER_PORT']}")
    before = {number: signal.signal(number, group.ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.nullcontext() if group.leads else _silence():
            yield group
        group.part()
    except BaseException as error:
        group.end(error)  # the signals stay noted: a launcher ends the rest when one has ended, and the first has yet to speak
        raise
    finally:
        group.leave()
    for number, handler in before.items():
        signal.signal(number, handler)


class Elsewhere(B4MError):  # noqa: N818
    """Another process has ended the training; this is its sentence."""


class Group(Processes):
    """One of several processes, in :func:`joined`."""

    def __init__(self, launch: Launch) -> None:
        self.index, self.count, self._local = launch.index, launch.count, launch.local
        self._asked_to_stop, self._over = threading.Event(), False
        dist.init_process_group("gloo", timeout=TO_MEET)
        self._words: Any = dist.new_group(backend="gloo", timeout=FOR_A_WORD)
        self._sums: Any = self._words

    def ask_to_stop(self, *_: object) -> None:
        """Stop after this step, all of them; a launcher passes a signal on, so it may come several times."""
        self._asked_to_stop.set()

    def check(self) -> None:  # noqa: D102
        if self._asked_to_stop.is_set():
            raise KeyboardInterrupt

    def device(self, asked: str) -> str:
        """The card of this process. Raises :class:`B4MError` where there is none for it."""
        on_cards = asked == "cuda"
        if not on_cards and asked != "cpu":
            raise B4MError(f"--device is {asked}: several processes train on cuda, each on a card of its own, or on cpu.")
        if on_cards:
            self._take_card()
        self.require_same(lambda: {"--device": asked})
        if on_cards:
            self._sums = _meeting(self._card_sums, "on their cards")
        return f"cuda:{self._local}" if on_cards else asked

    def _take_card(self) -> None:
        cards = torch.cuda.device_count()
        if self._local >= cards:
            raise B4MError(
                f"More processes were started than there are cards: {cards} can be used on this machine, so start {max(cards, 1)} "
                f"(torchrun --nproc-per-node {max(cards, 1)}, accelerate launch --num_processes {max(cards, 1)})."
            )
        if not dist.is_nccl_available():
            raise B4MError("This PyTorch has no NCCL, by which cards add up: train on one card, or on Linux.")
        torch.cuda.set_device(self._local)

    def _card_sums(self) -> Any:
        group: Any = dist.new_group(backend="nccl", timeout=FOR_SUMS)
        dist.all_reduce(torch.zeros(1, device="cuda"), group=group)  # takes the memory that it keeps, before a step is planned
        torch.cuda.synchronize()
        return group

    def require_same(self, facts: Callable[[], Mapping[str, str]]) -> None:  # noqa: D102
        words = self._agreed({"facts": dict(facts())})
        for what, first in words[0]["facts"].items():
            for number, word in enumerate(words):
                other = word["facts"].get(what)
                if other != first:
                    shown = f" ({other} instead of {first})" if len(f"{first}{other}") < _LONGEST_SHOWN * 2 else ""
                    raise B4MError(
                        f"Process {number} of this training has another {what} than the first{shown}: give all of them the same "
                        "command, pictures, model and versions."
                    )

    def from_first(self, make: Callable[[], Made | None]) -> Made | None:  # noqa: D102
        made = make() if self.leads else None
        found = None if made is None else (made[0], {name: tensor.detach().cpu().contiguous() for name, tensor in made[1].items()})
        table = None if found is None else [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in found[1].items()]
        told = self._agreed({"made": None if found is None else [found[0], table]})[0]["made"]
        if told is None:
            return None
        if found is None:
            found = told[0], {name: torch.empty(shape, dtype=_DTYPES[dtype]) for name, dtype, shape in told[1]}
        with self._missing_nobody():
            for tensor in found[1].values():
                dist.broadcast(tensor, src=0, group=self._words)
        return found if made is None else made

    def summed(self, losses: Tensor, gradients: Sequence[Tensor], share: Share) -> Tensor:  # noqa: D102
        self._agreed({})
        every = losses.new_zeros(share.pieces, 2)
        every[share.mine.start :: share.mine.step] = losses.view(-1, 2)
        with self._missing_nobody():
            for tensor in (every, *gradients):
                dist.all_reduce(_in_a_row(tensor), group=self._sums)
        return every.view(-1)

    def part(self) -> None:
        """The end of a training that went well: the first has written its file."""
        self._ended_by_none(self._heard({}))

    def end(self, error: BaseException) -> None:
        """The end of one that did not: let all know why, and wait until the first has kept what there is."""
        said = {"stop": True} if isinstance(error, KeyboardInterrupt) else {"error": self._sentence(error)}
        with contextlib.suppress(B4MError):
            if not self._over and not self.lost:
                self._heard(said)
            if not self.lost:
                self._heard({})

    def leave(self) -> None:
        """Give back what the group holds; where one is lost, the end of the process does."""
        if not self.lost:
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    def _sentence(self, error: BaseException) -> str:
        ours = isinstance(error, B4MError)
        return str(error) if ours else f"Process {self.index} ended by {type(error).__name__}: {error}"

    def _agreed(self, said: Mapping[str, Any]) -> list[Any]:
        """What every process says, when all are well."""
        words = self._heard({"stop": True} if self._asked_to_stop.is_set() else said)
        self._ended_by_none(words)
        if any("stop" in word for word in words):
            self._over = True
            raise KeyboardInterrupt
        return words

    def _ended_by_none(self, words: Sequence[Mapping[str, Any]]) -> None:
        errors = [str(word["error"]) for word in words if "error" in word]
        if errors:
            self._over = True
            raise Elsewhere(errors[0])

    def _heard(self, said: Mapping[str, Any]) -> list[Any]:
        """What every process says, in their order; waits for all."""
        text = json.dumps(said).encode() if said else b""
        with self._missing_nobody():
            lengths = [int(length) for length in self._gathered(torch.tensor([len(text)]))]
            if not any(lengths):
                return [{} for _ in lengths]
            filled = torch.zeros(max(lengths), dtype=torch.uint8)
            filled[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
            rows = self._gathered(filled)
        return [json.loads(bytes(row[:length].tolist()) or b"{}") for row, length in zip(rows, lengths, strict=True)]

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(found, tensor, group=self._words)
        return found

    @contextlib.contextmanager
    def _missing_nobody(self) -> Iterator[None]:
        """Within: that another process is gone becomes a sentence, and cards no longer wait for it."""
        try:
            yield
        except RuntimeError as error:
            self.lost = True
            with contextlib.suppress(RuntimeError, AttributeError):  # torch's newer versions can
                self._sums.abort()
            raise B4MError(
                "Another process of this training is gone or cannot be reached: start the same command again, it goes on from "
                "what was kept last."
            ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Within: nothing is printed but what is logged as an error."""
    logging.getLogger("b4m").setLevel(logging.ERROR)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _meeting(made: Callable[[], Any], where: str) -> Any:
    """What is made when all processes are there."""
    try:
        return made()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise B4MError(
            f"The processes of this training did not meet {where} within {TO_MEET.total_seconds() / 60:g} minutes ({reason}): start all "
            "of them by one torchrun or accelerate launch."
        ) from error


def _in_a_row(tensor: Tensor) -> Tensor:
    """The numbers of a tensor without gaps, as they lie in memory, (n,)."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).view(-1)
