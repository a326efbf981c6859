"""A mediator: one small adapter for a base model that stands between any content and any style, learned once, from nobody's pictures.

The base model paints known contents in known styles when it is told both names, so two adapters that learned a known content and a known
style under the triggers have a teacher for both at once: what the base model says to the names. A bank of such adapters is trained as
everybody's are; the mediator is trained on all their pairs, and then worn with contents and styles that neither the base model nor the
bank has seen. It is the paper's second stage, amortised: one training for a base model in place of one for every pair.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.world import backgrounds, styles
from benchmarks.world.autoencoder import encode
from benchmarks.world.captions import with_article
from benchmarks.world.diffusion import alphas_cumprod

from . import concepts
from .families import WORDS, Adapters, Stack
from .grouped import Factors, GroupedNetwork, Segment
from .methods import Apart, Contest
from .references import Studio, phrase, start_noise
from .training import captured

KINDS = (0.4, 0.25, 0.25, 0.05, 0.05)  # shares of the rows: both triggers, the content's, the style's, neither, no words at all
AT_ONCE = 256  # pictures painted at once


@dataclass(frozen=True)
class Mediation:
    """What a mediator is made of and how it is trained.

    ``core``: (I + T) between the stacked ups and downs of both concepts, T (2r, 2r) learned for every layer; ``rank`` of an update of its
    own, 0 for none; one of the two at least. The bank has ``contents`` and ``styles``; a step has ``rows``.
    """

    core: bool = True
    rank: int = 0
    contents: int = 32
    styles: int = 32
    steps: int = 600
    rows: int = 64
    rate: float = 3e-4


@dataclass(frozen=True)
class Known:
    """Concepts that the base model knows and no contest asks for."""

    contents: tuple[str, ...]
    styles: tuple[str, ...]


def known_concepts(studio: Studio, contents: int, looks: int) -> Known:
    """``contents`` of those that nobody else uses, and ``looks`` styles, as many as there are at most."""
    used = {*concepts.AUXILIARY_CONTENTS, *(thing for thing, _ in concepts.STYLE_PICTURES)}
    names = [each.name for each in studio.world.contents if not each.held_out and each.name not in used]
    seen = [styles.NAMES[index] for index in styles.seen_styles()]
    drawn = random.Random(0)
    return Known(tuple(drawn.sample(names, contents)), tuple(drawn.sample(seen, min(looks, len(seen)))))


@torch.no_grad()
def painted(studio: Studio, prompts: Sequence[str], first_seed: int) -> Tensor:
    """What the base model paints, (N, 3, S, S)."""
    studio.painter.wear(1, [])
    made = []
    for first in range(0, len(prompts), AT_ONCE):
        some = prompts[first : first + AT_ONCE]
        noise = start_noise(range(first_seed + first, first_seed + first + len(some)), studio.side, studio.device)
        made.append(studio.sample(*studio.encode_text(some), noise))
    return torch.cat(made)


def bank(contest: Contest, apart: Apart, known: Known) -> tuple[Adapters, Adapters]:
    """An adapter for every known content and one for every known style, trained as those of the contest are, on four pictures each."""
    studio, sets = contest.studio, []
    for content in known.contents:
        places = [phrase(place) for place in concepts.CONTENT_PLACES]
        named = [f"a photo of {with_article(content)} {place}" for place in places]
        sets.append((named, [f"a photo of {concepts.subject(content)} {place}" for place in places]))
    for style in known.styles:
        shown = [f"{with_article(thing)} {phrase(place)} in {{}} style" for thing, place in concepts.STYLE_PICTURES]
        sets.append(([each.format(style) for each in shown], [each.format(concepts.STYLE_TRIGGER) for each in shown]))
    pictures = painted(studio, sum((named for named, _ in sets), []), 40_000)
    whole = [(some, called) for some, (_, called) in zip(pictures.split(4), sets, strict=True)]
    count = len(known.contents)
    contents = contest.train_on(apart, "content", studio.table(whole[:count]))
    return contents, contest.train_on(replace(apart, decay=False), "style", studio.table(whole[count:]))


class Lessons:
    """Pictures of known contents in known styles, the base model's own, and what they are called: by name and by trigger.

    latents (P, 4, h, w); ids (P, 2, 2, 77), of which [content by trigger?, style by trigger?]; content and style (P,), the style of a
    photograph being one more than there are.
    """

    def __init__(self, studio: Studio, known: Known) -> None:
        drawn, asked = random.Random(1), []
        asked_places = {place for place, _ in concepts.PROMPTS}
        places = [place for place in backgrounds.NAMES if place not in asked_places]
        wordings = sorted({wording for _, wording in concepts.PROMPTS})
        for c, content in enumerate(known.contents):
            for s, style in enumerate((*known.styles, "photo")):
                for place in drawn.sample(places, 4 if s == len(known.styles) else 1):
                    wording = drawn.choice(wordings) if s < len(known.styles) else "a photo of {thing} {place}"
                    called = [
                        wording.format(thing=thing, place=phrase(place), style=look)
                        for thing in (with_article(content), concepts.subject(content))
                        for look in (style, concepts.STYLE_TRIGGER)
                    ]
                    asked.append((c, s, called))
        pictures = painted(studio, [called[0] for _, _, called in asked], 60_000)
        with torch.no_grad():
            self.latents = torch.cat([encode(studio.autoencoder, some) for some in pictures.split(AT_ONCE)]).float()
        ids = [studio.tokens([called[variant] for _, _, called in asked]) for variant in range(4)]
        self.ids = torch.stack(ids, 1).unflatten(1, (2, 2))
        self.content, self.style = (torch.tensor([each[k] for each in asked]) for k in (0, 1))
        self.empty = studio.tokens([""])[0]
        self.photos, self.others = ((self.style == len(known.styles)) == want for want in (True, False))

    def draw(self, kinds: Tensor, generator: torch.Generator) -> Tensor:
        """A picture for each of ``kinds``: of the content's trigger alone a photograph, else one in a style."""
        one, other = (where.nonzero()[:, 0] for where in (self.photos, self.others))
        picked = [some[torch.randint(len(some), kinds.shape, generator=generator)] for some in (one, other)]
        return torch.where(kinds == 1, *picked)


class Mediator:
    """What was learned: the tensors of every layer shape."""

    def __init__(self, net: GroupedNetwork, mediation: Mediation, rank: int) -> None:
        """For adapters of ``rank`` for each concept; it changes nothing yet."""
        self.learned = list[Stack]()
        generator = torch.Generator().manual_seed(5)
        for (m, n), names in zip(net.shapes, net.names, strict=True):
            stack: Stack = {}
            if mediation.core:
                stack["core"] = torch.zeros(len(names), 1, 2 * rank, 2 * rank)
            if mediation.rank:
                stack["down"] = torch.randn(len(names), 1, mediation.rank, n, generator=generator) / mediation.rank
                stack["up"] = torch.zeros(len(names), 1, m, mediation.rank)
            self.learned.append({name: tensor.to(net.device) for name, tensor in stack.items()})

    def tensors(self) -> list[Tensor]:
        return [tensor for stack in self.learned for tensor in stack.values()]

    def changes(self, shape: int, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """What it adds to the stacked factors of both concepts, up (L, G, m, 2r) and down (L, G, 2r, n), as factors of the same kind."""
        stack, ups, downs = self.learned[shape], list[Tensor](), list[Tensor]()
        if "core" in stack:
            ups.append(up @ stack["core"].to(up.dtype))
            downs.append(down)
        if "up" in stack:
            ups.append(stack["up"].to(up.dtype).expand(-1, up.shape[1], -1, -1))
            downs.append(stack["down"].to(up.dtype).expand(-1, up.shape[1], -1, -1))
        return torch.cat(ups, -1), torch.cat(downs, -2)


class Mediated(Adapters):
    """Merged adapters under a mediator that is on by a share of its own for every sampling step."""

    def __init__(self, inner: Adapters, mediator: Mediator, shares: Sequence[float]) -> None:
        super().__init__(inner.family, inner.learned, inner.frozen)
        self.inner, self.mediator, self.shares = inner, mediator, tuple(shares)

    def factors(self, live: frozenset[str], dtype: torch.dtype) -> Factors:
        """What the mediator changes stands behind the adapters' own factors, under gates."""
        plain, ups, downs, gates = self.inner.factors(live, torch.float32), [], [], []
        shares = torch.tensor(self.shares, device=plain.up[0].device)
        for shape, (up, down) in enumerate(zip(plain.up, plain.down, strict=True)):
            more = self.mediator.changes(shape, up, down)
            ups.append(torch.cat([up, more[0]], -1).to(dtype))
            downs.append(torch.cat([down, more[1]], -2).to(dtype))
            gate = torch.ones(len(shares), *up.shape[:2], ups[-1].shape[-1], device=up.device)
            gate[..., up.shape[-1] :] = shares[:, None, None, None]
            gates.append(gate)
        return Factors(ups, downs, gates)

    def scaled(self, content: Tensor | float = 1.0, style: Tensor | float = 1.0) -> Adapters:
        return Mediated(self.inner.scaled(content, style), self.mediator, self.shares)

    def take(self, groups: list[int]) -> Adapters:
        return Mediated(self.inner.take(groups), self.mediator, self.shares)


class Mediating:
    """The training of a mediator on a finished bank, a step of ``rows`` rows that each wear a content and a style of their own."""

    def __init__(self, studio: Studio, mediation: Mediation, contents: Adapters, looks: Adapters, lessons: Lessons) -> None:
        rank = contents.learned[0]["content_up"].shape[-1]
        self.studio, self.lessons, self.mediation = studio, lessons, mediation
        self.mediator = Mediator(studio.learner, mediation, rank)
        dtype, rows, device = studio.learner.dtype, mediation.rows, studio.device
        self.banks = [
            {
                f"{role}_{part}": stack[f"{role}_{part}"].to(dtype)
                for role, stack in (("content", one), ("style", other))
                for part in ("up", "down")
            }
            for one, other in zip(contents.learned, looks.learned, strict=True)
        ]  # by layer shape
        self.bank_words = [each.learned[0][name][0] for name, each in zip(WORDS, (contents, looks), strict=True) if name in each.learned[0]]
        self.counts = contents.count, looks.count
        self.latents = torch.empty(rows, *lessons.latents.shape[1:], device=device)
        self.noise = torch.empty_like(self.latents)
        self.times = torch.empty(rows, dtype=studio.noise.dtype, device=device)
        self.ids, self.named = (torch.empty(rows, lessons.ids.shape[-1], dtype=torch.long, device=device) for _ in range(2))
        self.worn = torch.empty(2, rows, dtype=torch.long, device=device)
        self.alone = torch.empty(2, rows, device=device)  # of what the teacher wears
        self.loss = torch.zeros((), device=device)
        self.noise_share = 1 - alphas_cumprod(device)  # an error counts as much as there is noise in the picture
        self.generator = torch.Generator().manual_seed(17)

    def fill(self) -> None:
        rows, lessons, generator, device = self.mediation.rows, self.lessons, self.generator, self.studio.device
        kinds = torch.multinomial(torch.tensor(KINDS), rows, replacement=True, generator=generator)
        picked = lessons.draw(kinds, generator)
        triggers = torch.stack([(kinds == 0) | (kinds == 1), (kinds == 0) | (kinds == 2)])
        for role, shown in enumerate((lessons.content[picked], lessons.style[picked])):
            count = self.counts[role]
            first = (shown < count).long()  # a photograph's style is none of them
            another = (shown + first + (torch.rand(rows, generator=generator) * (count - first)).long()) % count  # not the one shown
            self.worn[role].copy_(torch.where(triggers[role], shown, another))
        alone = triggers & (kinds != 0)
        self.alone.copy_(alone)
        self.latents.copy_(lessons.latents[picked.to(device)])
        self.noise.copy_(torch.randn(self.noise.shape, generator=generator))
        self.times.copy_(self.studio.noise.draw(rows, generator, 1.0))
        ids, each, blank = lessons.ids[picked.to(device)], torch.arange(rows, device=device), (kinds == 4)[:, None].to(device)
        (content, style), (first, second) = triggers.long().to(device), alone.long().to(device)
        self.ids.copy_(torch.where(blank, lessons.empty, ids[each, content, style]))
        self.named.copy_(torch.where(blank, lessons.empty, ids[each, first, second]))

    def worn_by(self, *, mediated: bool) -> Factors:
        """What every row wears: both concepts, mediated; or what its teacher does, one concept alone or none."""
        ups, downs, roles = [], [], (("content", self.worn[0]), ("style", self.worn[1]))
        for bank in self.banks:
            up, down = ([bank[f"{role}_{part}"].index_select(1, worn) for role, worn in roles] for part in ("up", "down"))
            if not mediated:
                up = [own * share.to(own.dtype)[:, None, None] for own, share in zip(up, self.alone, strict=True)]
            both = torch.cat(up, -1), torch.cat(down, -2)
            if mediated:
                more = self.mediator.changes(len(ups), *both)
                both = torch.cat([both[0], more[0]], -1), torch.cat([both[1], more[1]], -2)
            ups.append(both[0])
            downs.append(both[1])
        return Factors(ups, downs)

    def __call__(self) -> None:
        studio, net = self.studio, self.studio.learner
        for tensor in self.mediator.tensors():
            tensor.grad.zero_()
        noisy = studio.noise.add(self.latents, self.noise, self.times)
        words = None
        if self.bank_words:
            words = torch.cat([bank[worn] for bank, worn in zip(self.bank_words, self.worn, strict=True)], 1)
        with torch.no_grad():
            net.wear(1, [Segment(0, self.mediation.rows, self.worn_by(mediated=False))])
            target = net(noisy, self.times, *studio.read(self.named, words))
            text = studio.read(self.ids, words)
        net.wear(1, [Segment(0, self.mediation.rows, self.worn_by(mediated=True))])
        errors = (net(noisy, self.times, *text) - target).square().mean((1, 2, 3))
        loss = (errors * self.noise_share[self.times]).mean()
        loss.backward()
        self.loss.copy_(loss.detach())

    def train(self) -> Mediator:
        """The mediator; its rates fall to zero over the second half."""
        tensors, steps = self.mediator.tensors(), self.mediation.steps
        for tensor in tensors:
            tensor.requires_grad_(True)
            tensor.grad = torch.zeros_like(tensor)
        optimiser = torch.optim.AdamW(tensors, lr=self.mediation.rate, weight_decay=0.0)
        self.fill()
        replay = captured(self.studio, self)
        for number in range(steps):
            self.fill()
            replay()
            torch.nn.utils.clip_grad_norm_(tensors, 1.0)
            optimiser.param_groups[0]["lr"] = min(1.0, 2 * (1 - number / steps)) * self.mediation.rate
            optimiser.step()
            if number % 100 == 99:
                print(f"  mediator, step {number + 1}: loss {float(self.loss):.5f}", flush=True)
        for tensor in tensors:
            tensor.requires_grad_(False)
            tensor.grad = None
        self.studio.learner.wear(1, [])
        return self.mediator
