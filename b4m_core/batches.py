"""Which rows a micro-step sees: a pure function of the seed and the micro-step's number, so that a resumed run sees the
same.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .encoding import EncodedSet
from .models.family import Schedule
from .several import Share


class Batch(NamedTuple):
    """Rows of one micro-step, the first ``train_rows`` of them train rows; all share one bucket.

    ``latents``, ``noise`` (R, C, h, w), ``timesteps`` (R,), ``mask`` (R, 1, h, w) and the family's ``conditioning`` by
    name, each (R, ...); on the CPU.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    mask: Tensor
    conditioning: dict[str, Tensor]
    train_rows: int


class MicroBatch(NamedTuple):
    """What one micro-step goes through the network with, on the CPU (micro_step.py), and how many of its rows are train
    rows.
    """

    inputs: dict[str, Tensor]
    train_rows: int


class MicroSteps:
    """The inputs of every micro-step, or the pieces of them that are this process's ``share``; those of a next one can
    be made while a card is at work.
    """

    def __init__(self, batches: "Batches", schedule: Schedule, share: Share) -> None:
        self._batches, self._schedule, self._share = batches, schedule, share
        self._prepared: dict[int, MicroBatch] = {}

    def of_step(self, number: int) -> Iterator[MicroBatch]:
        """The pieces of optimiser step ``number``."""
        for piece in self._share.mine:
            index = number * self._share.pieces + piece
            yield self._prepared.pop(index) if index in self._prepared else self._made(index)

    def prepare(self, number: int) -> None:
        """Make the first piece of optimiser step ``number``."""
        index = number * self._share.pieces + self._share.mine.start
        self._prepared = {index: self._made(index)}

    def _made(self, piece: int) -> MicroBatch:
        index, place = divmod(piece, self._share.cuts)
        batch = self._batches.draw(index)
        inputs = {
            "noisy": self._schedule.add_noise(batch.latents, batch.noise, batch.timesteps),
            "target": self._schedule.target(batch.latents, batch.noise, batch.timesteps),
            "mask": batch.mask,
            "timesteps": batch.timesteps,
            **batch.conditioning,
        }
        return _piece(MicroBatch(inputs, batch.train_rows), place, self._share.cuts, self._batches.batch_size)


class Batches:
    """Draws the batches of one training.

    Every row of the first set has one row of each other set beside it, which shares its noise and its timestep (the
    paper's correspondences). The first ``primary_sets`` sets lead in turn, one in a micro-step: its next pictures
    choose the bucket. With ``preserves`` and auxiliary sets, all rows of primary sets are train rows, and each has a
    single row beside it, of such a set chosen at random.
    """

    def __init__(
        self,
        first: EncodedSet,
        others: Sequence[EncodedSet],
        *,
        batch_size: int,
        seed: int,
        schedule: Schedule,
        primary_sets: int = 1,
        preserves: bool = False,
    ) -> None:
        self._sets, self._primary_sets = [first, *others], primary_sets
        self.batch_size, self._seed, self._schedule = batch_size, seed, schedule
        self._preserves = preserves and len(self._sets) > primary_sets

    def draw(self, index: int) -> Batch:
        """The batch of micro-step ``index``, counted from 0 over the whole run."""
        turn, leader = divmod(index, self._primary_sets)
        generator = _generator(self._seed, "rows", index)
        leading = self._in_turn(leader, turn)
        bucket = self._sets[leader].home[leading[0]]
        rows = self._groups(leader, leading, generator)
        samples = [self._sets[number].at[bucket, pick] for group in rows for number, pick in group]
        noise = torch.randn(self.batch_size, *samples[0].latents.shape, generator=generator)  # (batch_size, C, h, w)
        timesteps = self._schedule.sample(self.batch_size, generator)  # (batch_size,)
        groups = len(rows)  # R = groups * batch_size: the rows beside each other share noise and timestep
        return Batch(
            torch.stack([sample.latents for sample in samples]),
            noise.repeat(groups, 1, 1, 1),
            timesteps.repeat(groups),
            torch.stack([sample.mask for sample in samples]),
            {name: _stacked([sample.conditioning[name] for sample in samples]) for name in samples[0].conditioning},
            self.batch_size * (self._primary_sets if self._preserves else 1),
        )

    def _in_turn(self, leader: int, turn: int) -> list[int]:
        """The leading pictures, all of one bucket: every picture of the set once, in a new order, before any comes
        again.
        """
        home = self._sets[leader].home
        chunks = sum(-(-home.count(bucket) // self.batch_size) for bucket in set(home))
        round_, place = divmod(turn, chunks)
        generator = _generator(self._seed, f"order {leader}", round_)
        order = torch.randperm(len(home), generator=generator).tolist()
        whole = [self._chunks([index for index in order if home[index] == bucket]) for bucket in sorted(set(home))]
        return [chunk for group in whole for chunk in group][int(torch.randperm(chunks, generator=generator)[place])]

    def _chunks(self, members: list[int]) -> list[list[int]]:
        """``members`` in pieces of ``batch_size``; the last one is filled up from the beginning."""
        filled = [
            members[place % len(members)] for place in range(-(-len(members) // self.batch_size) * self.batch_size)
        ]
        return [filled[first : first + self.batch_size] for first in range(0, len(filled), self.batch_size)]

    def _groups(self, leader: int, leading: list[int], generator: torch.Generator) -> list[list[tuple[int, int]]]:
        """The rows as (set, picture), ``batch_size`` in a group: the train rows, then those beside them."""
        numbers = range(self._primary_sets if self._preserves else len(self._sets))
        groups = [
            [
                (number, pick)
                for pick in (leading if number == leader else self._beside(number, generator, self.batch_size))
            ]
            for number in numbers
        ]
        if self._preserves:
            groups += [[self._any(generator) for _ in range(self.batch_size)] for _ in numbers]
        return groups

    def _any(self, generator: torch.Generator) -> tuple[int, int]:
        """A picture of any set that never leads, at random."""
        number = self._primary_sets + int(torch.randint(len(self._sets) - self._primary_sets, (), generator=generator))
        return number, self._beside(number, generator, 1)[0]

    def _beside(self, number: int, generator: torch.Generator, count: int) -> list[int]:
        """``count`` pictures of a set that is led, at random."""
        return torch.randint(len(self._sets[number].home), (count,), generator=generator).tolist()


def _piece(batch: MicroBatch, place: int, cuts: int, batch_size: int) -> MicroBatch:
    """One of ``cuts`` equal parts of a micro-step: as many rows of every group, so that rows stay beside each other."""
    if cuts == 1:
        return batch
    size = batch_size // cuts

    def rows(values: Tensor) -> Tensor:
        groups = values.view(-1, batch_size, *values.shape[1:])  # (groups, batch_size, ...)
        return groups[:, place * size : (place + 1) * size].flatten(0, 1)

    return MicroBatch({name: rows(values) for name, values in batch.inputs.items()}, batch.train_rows // cuts)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors as one (R, ...); texts of several lengths (S, n) are repeated to the least common one, as the host does it:
    attention weighs every token as before, since all stand there equally often.
    """
    if len({tensor.shape for tensor in tensors}) == 1:
        return torch.stack(list(tensors))
    length = math.lcm(*(len(tensor) for tensor in tensors))
    return torch.stack([tensor.repeat(length // len(tensor), *[1] * (tensor.dim() - 1)) for tensor in tensors])


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A CPU generator of its own for every purpose and number, so that no state needs to be saved."""
    digest = hashlib.sha256(f"b4m {purpose}|{seed}|{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
