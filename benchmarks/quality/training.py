"""Many small trainings as one: G adapters, each with its own pictures, rate and seed, in one batch and, on a GPU, one CUDA graph."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .families import Adapters, Bank
from .grouped import Factors, Segment
from .metrics import Metric, cosine_and_condition
from .optimiser import ManyAdamW, clip_each
from .references import PictureTable, Studio

Worn = Literal["base", "partner", "own"]
Teacher = Literal["noise", "base", "partner", "sum"] | Factors


@dataclass
class Said:
    """``weight`` times what is said to the pictures of ``captions`` (a part's table under other captions) by the base model, by the row's
    partner alone, or by the adapter that is being trained, alone and as it is now."""

    captions: PictureTable
    by: Worn
    weight: float


@dataclass
class Part:
    """Rows of every step that are treated alike: ``rows`` pictures of run g's ``sets[g]``, whose loss moves the tensors named in ``live``.

    ``teacher`` is what they are taught: what their noise asks for, the base model's own prediction, that of fixed factors, or that of the
    row's partner alone. With a ``bank`` every row wears a partner from it: one drawn anew in every step, or that of its picture,
    ``partner_of`` (sets, pictures). ``weight`` is that of the part's mean loss; ``first`` the first of the step's noises that its rows see.
    Rows whose teacher is "sum" are taught the sum of what is ``said``.
    """

    table: PictureTable
    sets: list[list[int]]
    rows: int
    live: frozenset[str]
    teacher: Teacher = "noise"
    bank: Bank | None = None
    partner_of: Tensor | None = None
    weight: float = 1.0
    first: int = 0
    said: tuple[Said, ...] = ()


@dataclass
class Trainings:
    """What is to be trained: run g at ``rates[g]`` with the random stream of ``seeds[g]``.

    The rows of later parts share noise and timestep with those of the first. ``shares`` are factors on the rates of single tensors,
    ``metric`` changes the gradients before AdamW, ``penalty`` is added to the loss, and ``decay`` lets the rates fall to zero over the
    second half. ``snapshots`` is filled with copies of the adapters after the numbers of steps that are its keys. ``noises`` is how many a
    step draws, by default one for each row of the first part. Timesteps are drawn as the base model's were; a ``tilt`` above 1 draws those
    with less noise more often, below 1 with more. What is trained is the mean over the last ``average`` steps, where that is not 0.
    """

    parts: list[Part]
    seeds: list[int]
    rates: list[float]
    steps: int
    shares: dict[str, float] = field(default_factory=dict)
    metric: Metric | None = None
    penalty: Callable[[Adapters], Tensor] | None = None
    decay: bool = False
    notes: list[tuple[int, float, float]] = field(default_factory=list)  # step, cosine and condition of the metric
    snapshots: dict[int, Adapters | None] = field(default_factory=dict)
    noises: int | None = None
    tilt: float = 1.0
    average: int = 0


class Batch:
    """The rows of one step in fixed places, filled anew before every step; tensors are (G, rows, ...), part after part."""

    def __init__(self, studio: Studio, what: Trainings) -> None:
        self.studio, self.what = studio, what
        self.parts = [part for part in what.parts if part.rows]
        ends = torch.tensor([part.rows for part in self.parts]).cumsum(0).tolist()
        self.slices = [slice(end - part.rows, end) for part, end in zip(self.parts, ends, strict=True)]
        groups, first, device = len(what.seeds), self.parts[0].table, studio.device
        self.latents = torch.empty(groups, ends[-1], *first.latents.shape[2:], device=device)
        self.noise = torch.empty_like(self.latents)
        self.context = torch.empty(groups, ends[-1], *first.context.shape[2:], device=device)
        self.pooled = torch.empty(groups, ends[-1], first.pooled.shape[-1], device=device)
        self.times = torch.empty(groups, ends[-1], dtype=studio.noise.dtype, device=device)
        self.noises = what.noises or self.parts[0].rows
        self.ids = torch.zeros(groups, ends[-1], first.context.shape[2], dtype=torch.long, device=device)
        self.weights: Tensor | None = None
        if any(part.table.weights is not None for part in self.parts):
            self.weights = torch.ones(groups, ends[-1], 1, *first.latents.shape[3:], device=device)
        self.said = [[self._text(part, each.captions) for each in part.said] for part in self.parts]
        self.beside = torch.cat([(part.first + torch.arange(part.rows)) % self.noises for part in self.parts])
        self.sets = [torch.tensor(part.sets) for part in self.parts]
        self.counts = [part.table.counts.cpu() for part in self.parts]
        distinct = sorted(set(what.seeds))
        self.lane = torch.tensor([distinct.index(seed) for seed in what.seeds])
        self.generators = [torch.Generator().manual_seed(1000 + seed) for seed in distinct]
        # partners have a stream of their own, so that the pictures drawn are the same with a bank and without
        self.partners = [torch.zeros(groups, part.rows, dtype=torch.long, device=device) for part in self.parts]
        self.partner_generator = torch.Generator().manual_seed(2000)

    def _text(self, part: Part, table: PictureTable) -> tuple[Tensor, Tensor]:
        """Room for other captions of the rows of ``part``."""
        size = len(self.what.seeds), part.rows
        device = self.studio.device
        return torch.empty(*size, *table.context.shape[2:], device=device), torch.empty(*size, table.pooled.shape[-1], device=device)

    def fill(self) -> None:
        """Draw the next step: one stream for each training seed, the same for every method."""
        noise = torch.stack([torch.randn(self.noises, *self.noise.shape[2:], generator=each) for each in self.generators])
        times = torch.stack([self.studio.noise.draw(self.noises, each, self.what.tilt) for each in self.generators])
        self.noise.copy_(noise[self.lane][:, self.beside])
        self.times.copy_(times[self.lane][:, self.beside])
        parts = zip(self.parts, self.slices, self.sets, self.counts, self.partners, self.said, strict=True)
        for part, places, sets, counts, partners, others in parts:
            uniform = torch.stack([torch.rand(2, part.rows, generator=each) for each in self.generators])[self.lane]
            chosen = sets.gather(1, (uniform[:, 0] * sets.shape[1]).long())
            where = (chosen.to(self.studio.device), (uniform[:, 1] * counts[chosen]).long().to(self.studio.device))
            self.latents[:, places] = part.table.latents[where]
            self.context[:, places] = part.table.context[where]
            self.pooled[:, places] = part.table.pooled[where]
            if part.table.ids is not None:
                self.ids[:, places] = part.table.ids[where]
            if self.weights is not None and part.table.weights is not None:
                self.weights[:, places] = part.table.weights[where]
            for said, (context, pooled) in zip(part.said, others, strict=True):
                context.copy_(said.captions.context[where])
                pooled.copy_(said.captions.pooled[where])
            if part.partner_of is not None:
                partners.copy_(part.partner_of[where])
            elif part.bank is not None:
                partners.copy_(torch.randint(part.bank.adapters.count, partners.shape, generator=self.partner_generator))


class Step:
    """Forward and backward of all runs; ``losses`` (G, parts) are those of the last step."""

    def __init__(self, studio: Studio, what: Trainings, adapters: Adapters, batch: Batch) -> None:
        self.studio, self.what, self.adapters, self.batch = studio, what, adapters, batch
        self.groups = len(what.seeds)
        self.losses = torch.zeros(self.groups, len(batch.parts), device=studio.device)
        self.weights = torch.tensor([part.weight for part in batch.parts], device=studio.device)
        names = frozenset().union(*(part.live for part in batch.parts))
        self.live = {name: [stack[name] for stack in adapters.learned if name in stack] for name in adapters.learned[0] if name in names}
        for tensor in (tensor for tensors in self.live.values() for tensor in tensors):
            tensor.requires_grad_(True)
            tensor.grad = torch.zeros_like(tensor)

    def __call__(self) -> None:
        batch, net = self.batch, self.studio.learner
        for tensor in (tensor for tensors in self.live.values() for tensor in tensors):
            tensor.grad.zero_()
        noisy = self.studio.noise.add(batch.latents.flatten(0, 1), batch.noise.flatten(0, 1), batch.times.flatten())
        inputs = (noisy, batch.times.flatten(), *self._text())
        rows = zip(batch.parts, batch.slices, batch.partners, batch.said, strict=True)
        target = torch.cat([self._target(part, inputs, places, partners, said) for part, places, partners, said in rows], 1)
        net.wear(self.groups, self._segments())
        error = (net(*inputs).unflatten(0, (self.groups, -1)) - target).square()
        error = (error if batch.weights is None else error * batch.weights).mean((2, 3, 4))
        losses = torch.stack([error[:, places].mean(1) for places in batch.slices], 1)
        total = (losses * self.weights).sum()
        if self.what.penalty is not None:
            total = total + self.what.penalty(self.adapters)
        total.backward()
        self.losses.copy_(losses.detach())

    def _text(self) -> tuple[Tensor, Tensor]:
        """Context and pooled of all rows, through the text encoders where words are learned."""
        words = self.adapters.words()
        if words is None:
            return self.batch.context.flatten(0, 1), self.batch.pooled.flatten(0, 1)
        return self.studio.read(self.batch.ids.flatten(0, 1), words.repeat_interleave(self.batch.ids.shape[1], 0))

    def _segments(self) -> list[Segment]:
        """What the rows wear; parts that wear the same are one segment, which saves copies of what every layer sees."""
        batch, segments, before = self.batch, list[Segment](), None
        for part, places, partners in zip(batch.parts, batch.slices, batch.partners, strict=True):
            if before is not None and before.bank is part.bank is None and before.live == part.live:
                segments[-1].last = places.stop
            else:
                segments.append(Segment(places.start, places.stop, self._worn(part, partners)))
            before = part
        return segments

    def _worn(self, part: Part, partners: Tensor) -> Factors:
        if part.bank is None:
            return self.adapters.factors(part.live, self.studio.learner.dtype)
        return self.adapters.wearing(part.bank, partners, part.live, self.studio.learner.dtype)

    @torch.no_grad()
    def _target(
        self, part: Part, inputs: Sequence[Tensor], places: slice, partners: Tensor, said: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """What the rows of ``part`` are taught, (G, rows, 4, h, w)."""
        if part.teacher == "noise":
            return self.studio.noise.target(self.batch.latents[:, places], self.batch.noise[:, places])
        rows = [x.unflatten(0, (self.groups, -1))[:, places].flatten(0, 1) for x in inputs]
        if part.teacher != "sum":
            return self._answer(part, rows, part.teacher, partners)
        total = torch.zeros_like(self.batch.noise[:, places])
        for each, (context, pooled) in zip(part.said, said, strict=True):
            total += each.weight * self._answer(part, [*rows[:2], context.flatten(0, 1), pooled.flatten(0, 1)], each.by, partners)
        return total

    def _answer(self, part: Part, rows: Sequence[Tensor], by: Teacher | Worn, partners: Tensor) -> Tensor:
        """What the network says to ``rows``, wearing what ``by`` says."""
        dtype = self.studio.learner.dtype
        if by == "partner" and part.bank is not None:
            by = self.adapters.wearing(part.bank, partners, frozenset(), dtype, alone=True)
        elif by == "own":
            by = self.adapters.factors(frozenset(), dtype)
        self.studio.learner.wear(self.groups, [Segment(0, part.rows, by)] if isinstance(by, Factors) else [])
        return self.studio.learner(*rows).unflatten(0, (self.groups, -1))


def captured(studio: Studio, step: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph, where the base model's steps are."""
    if studio.device.type != "cuda" or not studio.captured:
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def train(studio: Studio, what: Trainings, adapters: Adapters) -> list[list[float]]:
    """Train ``adapters`` in place; returns the mean losses of the parts at every twentieth step."""
    batch = Batch(studio, what)
    step = Step(studio, what, adapters, batch)
    rate = torch.tensor(what.rates, device=studio.device)
    named = [(name, tensor) for name, tensors in step.live.items() for tensor in tensors]
    optimiser = ManyAdamW([tensor for _, tensor in named], [rate * what.shares.get(name, 1.0) for name, _ in named])
    batch.fill()
    replay = captured(studio, step)
    curve = []
    sums = [torch.zeros_like(tensor) for _, tensor in named] if what.average else []
    for number in range(what.steps):
        batch.fill()
        replay()
        if what.metric is not None:
            if number in (0, what.steps // 2, what.steps - 1):
                what.notes.append((number, *_look(what.metric, adapters)))
            _apply(what.metric, adapters)
        for tensors in step.live.values():
            clip_each([tensor.grad for tensor in tensors])
        optimiser.step(min(1.0, 2 * (1 - number / what.steps)) if what.decay else 1.0)
        if what.average and number >= what.steps - what.average:
            for total, (_, tensor) in zip(sums, named, strict=True):
                total.add_(tensor.detach(), alpha=1 / what.average)
        if number + 1 in what.snapshots:
            what.snapshots[number + 1] = adapters.take(list(range(adapters.count)))
        if number % 20 == 0:
            curve.append(step.losses.mean(0).tolist())
    for _, tensor in named:
        tensor.requires_grad_(False)
        tensor.grad = None
    for total, (_, tensor) in zip(sums, named, strict=False):
        tensor.copy_(total)
    studio.learner.wear(1, [])
    return curve


def _gradients(stack: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.grad for name, tensor in stack.items() if tensor.grad is not None}


def _apply(metric: Metric, adapters: Adapters) -> None:
    for learned, frozen in zip(adapters.learned, adapters.frozen, strict=True):
        metric({**learned, **frozen}, _gradients(learned))


def _look(metric: Metric, adapters: Adapters) -> tuple[float, float]:
    """The mean over shapes of what the metric does to the gradients, and of the condition it sees."""
    seen = [
        cosine_and_condition(metric, {**learned, **frozen}, _gradients(learned))
        for learned, frozen in zip(adapters.learned, adapters.frozen, strict=True)
    ]
    return sum(cosine for cosine, _ in seen) / len(seen), sum(condition for _, condition in seen) / len(seen)
