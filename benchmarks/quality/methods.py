"""What the rows of the contest are made with: trainings apart, a merge, perhaps a joint training; then pictures, then marks."""

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.world.judge import Judge

from . import concepts
from .concepts import Split
from .families import FAMILIES, SLOW, WORDS, Adapters, Bank, joined, merged, side_by_side, zip_penalty, zipped
from .grouped import Factors
from .metrics import Metric
from .painting import marks, paint, questions
from .references import (
    PictureTable,
    Studio,
    auxiliary_captions,
    auxiliary_sets,
    both_triggers,
    content_set,
    object_masks,
    style_set,
    told_by_both,
)
from .restyled import restyled
from .training import Part, Said, Teacher, Trainings, train

PARTNER_RATE = 0.1  # of the own rate, as in the paper

Partners = Literal["none", "others", "keep", "leak", "keep both"]
Names = tuple[str, ...]
OWN_AND_BESIDE: dict[str, Callable[[Names, Names], tuple[frozenset[str], frozenset[str]]]] = {
    "none": lambda mine, other: (frozenset(mine), frozenset()),
    "others": lambda mine, other: (frozenset(mine), frozenset(other)),
    "keep": lambda mine, other: (frozenset(mine), frozenset(mine)),
    "keep both": lambda mine, other: (frozenset(mine), frozenset(mine)),
    "leak": lambda mine, other: (frozenset(mine + other), frozenset(mine + other)),
}


@dataclass(frozen=True)
class Apart:
    """Stage one: a family at a rank, trained on each concept alone.

    ``partners`` says what auxiliary rows do: nothing; move the other concept's tensors ("others", the paper's way); hold the own
    tensors to the base model's prediction on them ("keep"), on auxiliary sets of both kinds ("keep both"); or, like the published code,
    every row moves everything ("leak").
    """

    family: str = "lora"
    rank: int = 16
    content_rate: float = 1e-3
    style_rate: float = 1e-3
    steps: int = 250
    rows: tuple[int, int] = (4, 0)
    partners: Partners = "none"
    sets: int = 4
    decay: bool = False
    slow: float = 1.0  # share of the rate for the leaning family's bases
    bank: bool = False  # every own row wears a finished partner: an auxiliary concept under the trigger, trained the same way alone
    fitted: int = 0  # own rows of a style that show the picture's thing under a content's trigger, wearing that thing's adapter of a bank
    fitted_worn: bool = True  # else the words alone
    on_partner: int = 0  # other rows that wear the bank's adapter of what they show, and are taught what it says alone
    made: int = 0  # other rows of a style that are taught the sum of its own effect and a bank's content's, on that content's photographs
    named_by_trigger: int = 0  # other rows that are named by the other concept's trigger, and are taught what the base model says
    restyled: int = 0  # own rows of a content in known styles, which its adapter without them painted (restyled.py)
    restyled_worn: bool = False  # these rows wear the bank's adapter of their style, and are named by the style's trigger
    tilt: float = 1.0
    average: int = 0
    weight: float = 1.0  # of the other rows' loss
    mirrored: bool = False  # own pictures in a mirror too
    outside: float | None = None  # what a content's loss counts where the object is not, against 1 where it is
    words: float = 0.0  # the rate of the trigger's learned words, for the families that have them
    words_first: int = 0  # steps in which the words alone are learned, before the adapter


@dataclass(frozen=True)
class Joint:
    """Stage two: all learned tensors but words, which stay as they were learned, on the content's and the style's pictures together."""

    rate: float
    steps: int = 150
    rows: tuple[int, int] = (2, 2)
    metric: Metric | None = None
    decay: bool = False
    kept: int = 0  # rows that are held to the base model's prediction
    live: frozenset[str] | None = None
    fitted: int = 0  # of the style's rows: under a content's trigger, wearing the bank's adapter of what they show
    bank_of: Apart | None = None
    words: float = 0.0  # the rate of words, where they are among ``live``


class Contest:
    """One half of the contest on a device: its pictures, its finished stage-one trainings, and what has been asked of the judges."""

    def __init__(self, studio: Studio, judges: dict[str, Judge], split: Split, seeds: Sequence[int], most_steps: int | None = None) -> None:
        self.studio, self.judges, self.split, self.seeds, self.most_steps = studio, judges, split, list(seeds), most_steps
        self.contents = studio.table([content_set(studio, name) for name in split.contents])
        self.styles = studio.table([style_set(studio, name) for name in split.styles])
        most = len(concepts.AUXILIARY_STYLES)
        self.auxiliary = {kind: studio.table(auxiliary_sets(studio, kind, most)) for kind in ("styles", "contents")}
        self.done: dict[tuple[Apart, str], Adapters] = {}
        self.seen: list[tuple[int, float, float]] = []  # by the last joint training's metric: step, cosine, condition
        self._list_pairs()

    def _list_pairs(self) -> None:
        split = self.split
        self.pairs = [(seed, content, style) for seed in range(len(self.seeds)) for content, style in split.pairs]
        self.asked = [questions(self.studio, split.contents[content], split.styles[style]) for _, content, style in self.pairs]

    def with_seeds(self, seeds: Sequence[int]) -> "Contest":
        """The same pictures with other training seeds, nothing trained yet."""
        other = copy.copy(self)
        other.seeds, other.done = list(seeds), {}
        other._list_pairs()
        return other

    def prepare(self, several: Sequence[Apart], roles: Sequence[str] = ("content", "style")) -> None:
        """Train what is not yet there of ``several`` settings, which differ in rates or in families of the same tensors, as one batch."""
        for role in roles:
            self.prepare_role(several, role)

    def _train_apart(self, several: list[Apart], role: str) -> None:
        trained = self._apart(several, role, self._own(several[0], role), self.seeds)
        self.done.update({(apart, role): adapters for apart, adapters in zip(several, trained, strict=True)})

    def train_on(self, apart: Apart, role: str, table: PictureTable) -> Adapters:
        """An adapter for each set of ``table``, whatever the contest is about; seed 0."""
        return self._apart([apart], role, table, [0])[0]

    def _own(self, apart: Apart, role: str) -> PictureTable:
        """The pictures of all concepts of ``role``."""
        table = self.contents if role == "content" else self.styles
        if apart.mirrored:
            sets = map(content_set, *self._named("content")) if role == "content" else map(style_set, *self._named("style"))
            table = self.studio.table([(torch.cat([pictures, pictures.flip(-1)]), captions * 2) for pictures, captions in sets])
        return self._where_it_is(table, apart) if role == "content" and apart.outside is not None else table

    def _named(self, role: str) -> tuple[list[Studio], tuple[str, ...]]:
        """The studio for every concept of ``role``, and its name."""
        names = self.split.contents if role == "content" else self.split.styles
        return [self.studio] * len(names), names

    def _where_it_is(self, table: PictureTable, apart: Apart) -> PictureTable:
        """A content's pictures whose loss counts ``outside`` as much where the content is not; the mean is 1."""
        masks = torch.stack(list(map(object_masks, *self._named("content"))))
        masks = torch.cat([masks, masks.flip(-1)], 1) if apart.mirrored else masks
        shown = F.interpolate(masks.flatten(0, 1), size=table.latents.shape[-2:], mode="area").unflatten(0, masks.shape[:2])
        weights = shown + (apart.outside or 0.0) * (1 - shown)
        return dataclasses.replace(table, weights=weights / weights.mean((2, 3, 4), keepdim=True))

    def _bank(self, apart: Apart, role: str) -> Bank:
        """Auxiliary concepts of ``role``, learned under the trigger and without a bank. None of them is in any pair."""
        alone, kind = Apart(apart.family, apart.rank, rows=apart.rows, partners=apart.partners, sets=apart.sets), f"{role}s"
        if (alone, f"bank of {kind}") not in self.done:
            self.done[alone, f"bank of {kind}"] = self._apart([alone], role, self._by_trigger(kind), [0])[0]
        family = FAMILIES[apart.family]
        return Bank(self.done[alone, f"bank of {kind}"], family.content if role == "content" else family.style)

    def _by_trigger(self, kind: str) -> PictureTable:
        """The auxiliary sets of ``kind``, captioned as if they were to be learned."""
        known = self.auxiliary[kind]
        texts = [self.studio.encode_text(auxiliary_captions(kind, k, trigger=True)) for k in range(len(known.counts))]
        context, pooled = (torch.stack(column) for column in zip(*texts, strict=True))
        return PictureTable(known.latents, context, pooled, known.counts)

    def _by_both_triggers(self) -> tuple[PictureTable, Tensor]:
        """The styles' pictures, captioned as a content in the style, and which content of the bank each shows."""
        texts = self.studio.encode_text(both_triggers())
        context, pooled = (text.expand(len(self.styles.counts), *text.shape) for text in texts)
        shown = torch.tensor([concepts.AUXILIARY_CONTENTS.index(thing) for thing, _ in concepts.STYLE_PICTURES])
        table = PictureTable(self.styles.latents, context, pooled, self.styles.counts)
        return table, shown.expand(len(self.styles.counts), -1).to(self.studio.device)

    def _apart(self, several: list[Apart], role: str, table: PictureTable, seeds: Sequence[int]) -> list[Adapters]:
        """One training for each setting, seed and set of ``table``; settings of one family stand together."""
        first = several[0]
        family = FAMILIES[first.family]
        mine, other = (family.content, family.style) if role == "content" else (family.style, family.content)
        runs = [(apart, seed, concept) for apart in several for seed in seeds for concept in range(len(table.counts))]
        each = len(seeds) * len(table.counts)
        fresh = {
            name: Adapters.fresh(FAMILIES[name], self.studio.learner, first.rank, settings * each, seed=seeds[0])
            for name, settings in Counter(apart.family for apart in several).items()
        }
        adapters = side_by_side(list(fresh.values()))
        others = dict.fromkeys(SLOW, first.slow) if first.family == "leaning" else dict.fromkeys(other, PARTNER_RATE)
        what = Trainings(
            parts=self._parts(first, role, table, [concept for _, _, concept in runs]),
            seeds=[seed for _, seed, _ in runs],
            rates=[apart.content_rate if role == "content" else apart.style_rate for apart, _, _ in runs],
            steps=self._steps(first.steps),
            shares=others | dict.fromkeys(WORDS, first.words / (first.content_rate if role == "content" else first.style_rate)),
            decay=first.decay,
            noises=first.rows[0],
            tilt=first.tilt,
            average=self._steps(first.average),
        )
        if first.words_first:
            alone = frozenset(WORDS).intersection(mine)
            parts = [dataclasses.replace(part, live=alone) for part in what.parts]
            train(self.studio, dataclasses.replace(what, parts=parts, steps=self._steps(first.words_first)), adapters)
        train(self.studio, what, adapters)
        trained = [adapters.take(list(range(place * each, (place + 1) * each))).learned for place in range(len(several))]
        kinds = [fresh[apart.family] for apart in several]
        return [Adapters(kind.family, learned, kind.frozen) for kind, learned in zip(kinds, trained, strict=True)]

    def _restyled(self, apart: Apart) -> tuple[PictureTable, PictureTable, Tensor]:
        """Every content of every seed in known styles, by its plain adapter."""
        plain = Apart(apart.family, apart.rank, rows=apart.rows, partners=apart.partners, sets=apart.sets)
        self.prepare_role([plain], "content")
        return restyled(self.studio, self.done[plain, "content"], list(self.split.contents) * len(self.seeds))

    def _parts(self, apart: Apart, role: str, table: PictureTable, shown: list[int]) -> list[Part]:
        """The rows of every step of stage one; training g learns set ``shown[g]`` of ``table``."""
        family, kind, runs = FAMILIES[apart.family], "styles" if role == "content" else "contents", len(shown)
        mine, other = (family.content, family.style) if role == "content" else (family.style, family.content)
        own_live, beside_live = OWN_AND_BESIDE[apart.partners](mine, other)
        own, others = apart.rows
        n_fitted, n_restyled = (0, apart.restyled) if role == "content" else (apart.fitted, 0)
        n_made = 0 if role == "content" else apart.made
        needs_bank = apart.bank or apart.on_partner or n_made or (n_fitted and apart.fitted_worn) or (n_restyled and apart.restyled_worn)
        bank = self._bank(apart, kind.removesuffix("s")) if needs_bank else None
        sets = [[concept] for concept in shown]
        plainly = own - n_fitted - n_restyled
        parts = [Part(table, sets, plainly, own_live, bank=bank if apart.bank else None, weight=plainly / own)]
        if n_restyled:
            named, triggered, looks = self._restyled(apart)
            worn, which = (bank, looks) if apart.restyled_worn else (None, None)
            among = triggered if apart.restyled_worn else named
            every = [[run] for run in range(runs)]
            weight = n_restyled / own
            parts.append(Part(among, every, n_restyled, own_live, bank=worn, partner_of=which, weight=weight, first=plainly))
        if n_fitted:
            fitted, partners = self._by_both_triggers()
            worn, which = (bank, partners) if apart.fitted_worn else (None, None)
            weight = n_fitted / own
            parts.append(Part(fitted, sets, n_fitted, own_live, bank=worn, partner_of=which, weight=weight, first=plainly))
        teacher: Teacher = "base" if apart.partners.startswith("keep") else "noise"
        plain = others - apart.on_partner - apart.named_by_trigger - n_made

        def beside(among: PictureTable, rows: int, first: int, said: Teacher, worn: Bank | None = None) -> Part:
            every = [list(range(len(among.counts)))] * runs
            each = torch.arange(len(among.counts))[:, None].expand(-1, among.latents.shape[1]).to(self.studio.device)
            which = None if worn is None else each
            return Part(among, every, rows, beside_live, said, worn, which, apart.weight * rows / max(others, 1), first)

        parts.append(beside(self._partners(apart, role), plain, 0, teacher))
        if apart.named_by_trigger:
            parts.append(beside(self._by_trigger(kind).first(apart.sets), apart.named_by_trigger, plain, teacher))
        if apart.on_partner:
            parts.append(beside(self._by_trigger(kind), apart.on_partner, plain + apart.named_by_trigger, "partner", bank))
        if n_made:
            told = self._told_by_both()
            made = beside(told["both"], n_made, others - n_made, "sum", bank)
            said = (Said(told["content"], "partner", 1.0), Said(told["style"], "own", 1.0), Said(told["plain"], "base", -1.0))
            parts.append(dataclasses.replace(made, said=said))
        return parts

    def _told_by_both(self) -> dict[str, PictureTable]:
        """The auxiliary contents' photographs: as they are called, as a content to be learned, in the style, and as both."""
        known = self.auxiliary["contents"]
        captions = [told_by_both(k) for k in range(len(known.counts))]
        tables = {}
        for name in captions[0]:
            texts = [self.studio.encode_text(each[name]) for each in captions]
            context, pooled = (torch.stack(column) for column in zip(*texts, strict=True))
            tables[name] = PictureTable(known.latents, context, pooled, known.counts)
        return tables

    def _steps(self, wanted: int) -> int:
        """``wanted``, or what a quick run allows."""
        return wanted if self.most_steps is None else min(wanted, self.most_steps)

    def _partners(self, apart: Apart, role: str) -> PictureTable:
        names = ("styles", "contents") if apart.partners == "keep both" else ("styles" if role == "content" else "contents",)
        return PictureTable.join([self.auxiliary[name].first(apart.sets) for name in names])

    def prepare_role(self, several: Sequence[Apart], role: str) -> None:
        """Train the contents, or the styles, with what is not yet there of ``several``."""
        missing = [apart for apart in dict.fromkeys(several) if (apart, role) not in self.done]
        if missing:
            self._train_apart(missing, role)

    def merge(self, apart: Apart, style: Apart | None = None) -> Adapters:
        """Adapter p is that of ``pairs[p]``; ``style``: how the styles are trained, if another way."""
        self.prepare_role([apart], "content")
        self.prepare_role([style or apart], "style")
        contents, looks = len(self.split.contents), len(self.split.styles)
        return merged(
            self.done[apart, "content"],
            [seed * contents + content for seed, content, _ in self.pairs],
            self.done[style or apart, "style"],
            [seed * looks + style for seed, _, style in self.pairs],
        )

    def together(self, adapters: Adapters, several: Sequence[Joint]) -> list[Adapters]:
        """``adapters`` after each of several joint trainings that differ in their rates alone; as one batch, or as few as the device
        holds, which changes nothing, since every batch draws its seeds' numbers anew."""
        runs, trained, self.seen = [(joint, pair) for joint in several for pair in range(len(self.pairs))], list[Adapters](), []
        for first in range(0, len(runs), self.studio.runs_at_once):
            some = runs[first : first + self.studio.runs_at_once]
            copies = adapters.take([pair for _, pair in some])
            what = self._joint(copies, some)
            train(self.studio, what, copies)
            self.seen = self.seen or what.notes
            trained.append(copies)
        for step, cosine, condition in self.seen:
            print(f"  preconditioning at step {step}: cosine to the raw gradient {cosine:.3f}, condition {condition:.0f}", flush=True)
        whole, count = joined(trained), len(self.pairs)
        return [whole.take(list(range(place * count, (place + 1) * count))) for place in range(len(several))]

    def lengths(self, adapters: Adapters, joint: Joint, steps: Sequence[int]) -> dict[int, Adapters]:
        """``adapters`` after each number of joint steps, from one run: at a constant rate the longer contains the shorter."""
        copies = adapters.take(list(range(len(self.pairs))))
        longest = dataclasses.replace(joint, steps=max(steps))
        what = self._joint(copies, [(longest, pair) for pair in range(len(self.pairs))])
        what.snapshots = dict.fromkeys(map(self._steps, steps))
        train(self.studio, what, copies)
        self.seen = what.notes
        found = {step: what.snapshots[self._steps(step)] for step in steps}
        return {step: each for step, each in found.items() if each is not None}

    def _joint(self, copies: Adapters, runs: Sequence[tuple[Joint, int]]) -> Trainings:
        """Run g is the joint training and the pair of ``runs[g]``."""
        first = runs[0][0]
        live = frozenset(copies.learned[0]).difference(WORDS) if first.live is None else first.live
        pairs = [self.pairs[pair] for _, pair in runs]
        beside = PictureTable.join([self.auxiliary[name].first(4) for name in ("styles", "contents")])
        plain = first.rows[1] - first.fitted
        return Trainings(
            parts=[
                Part(self.contents, [[content] for _, content, _ in pairs], first.rows[0], live),
                Part(self.styles, [[style] for _, _, style in pairs], plain, live, weight=plain / max(first.rows[1], 1)),
                *self._fitted_together(first, pairs, live),
                Part(beside, [list(range(len(beside.counts)))] * len(pairs), first.kept, live, "base"),
            ],
            seeds=[100 + self.seeds[seed] for seed, _, _ in pairs],
            rates=[joint.rate for joint, _ in runs],
            steps=self._steps(first.steps),
            shares=dict.fromkeys(WORDS, first.words / first.rate),
            metric=first.metric,
            decay=first.decay,
        )

    def _fitted_together(self, joint: Joint, pairs: list[tuple[int, int, int]], live: frozenset[str]) -> list[Part]:
        if not joint.fitted or joint.bank_of is None:
            return []
        table, shown = self._by_both_triggers()
        bank, first, weight = self._bank(joint.bank_of, "content"), joint.rows[1] - joint.fitted, joint.fitted / joint.rows[1]
        return [Part(table, [[style] for _, _, style in pairs], joint.fitted, live, "noise", bank, shown, weight, first)]

    def zip(self, adapters: Adapters, rate: float, steps: int = 100) -> Adapters:
        """ZipLoRA's mergers on two finished LoRAs, learned to answer as each of them alone does on its own pictures."""
        masks, dtype = zipped(adapters), self.studio.learner.dtype
        live = frozenset(masks.learned[0])
        alone = [adapters.scaled(*strengths).factors(frozenset(), dtype) for strengths in ((1.0, 0.0), (0.0, 1.0))]
        what = Trainings(
            parts=[
                Part(self.contents, [[content] for _, content, _ in self.pairs], 2, live, alone[0]),
                Part(self.styles, [[style] for _, _, style in self.pairs], 2, live, alone[1]),
            ],
            seeds=[100 + self.seeds[seed] for seed, _, _ in self.pairs],
            rates=[rate] * len(self.pairs),
            steps=self._steps(steps),
            penalty=zip_penalty,
        )
        train(self.studio, what, masks)
        return masks

    def one_for_both(self, rank: int, rates: Sequence[float], steps: int, kept: int = 0, words: float = 0.0) -> list[Adapters]:
        """One LoRA for each pair, trained on both sets from the start, at several rates: the usual joint training. ``words``: the rate of
        both triggers' words, if they are learned too."""
        family = FAMILIES["lora, words" if words else "lora"]
        fresh = Adapters.fresh(family, self.studio.learner, rank, len(self.pairs), seed=self.seeds[0])
        live = frozenset(FAMILIES["lora"].content).union(WORDS if words else ())
        return self.together(fresh, [Joint(rate, steps=steps, kept=kept, live=live, words=words) for rate in rates])

    def pictures(self, worn: Adapters | Factors | None) -> Tensor:
        """uint8 (pairs, pictures, 3, S, S)."""
        return paint(self.studio, worn, self.asked)

    def judged(self, pictures: Tensor) -> dict[str, Tensor]:
        """By every judge, bool (pairs, pictures, 3)."""
        return {name: marks(judge, pictures, self.asked) for name, judge in self.judges.items()}


def released_damage(adapters: Adapters) -> Adapters:
    """What the published stage two does to what it loaded: D, and the frozen rows, of every square projection drawn anew."""
    generator = torch.Generator().manual_seed(0)
    learned, frozen = [dict(stack) for stack in adapters.learned], [dict(stack) for stack in adapters.frozen]
    for stack, rest in zip(learned, frozen, strict=True):
        rank = stack["B"].shape[-1]
        if rest["A"].shape[-2] == rest["C"].shape[-1]:
            stack["D"] = (torch.randn(stack["D"].shape, generator=generator) / rank).to(stack["D"])
            rest["A"] = torch.linalg.qr(torch.randn(rest["A"].shape, generator=generator))[0].to(rest["A"]) * 0.5**0.5
    return Adapters(adapters.family, learned, frozen)
