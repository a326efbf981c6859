"""The rows of the contest: every rival, floor, ceiling and cheat, and ours. A row makes what its pairs wear, or the pictures themselves."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.world import backgrounds, styles
from benchmarks.world.autoencoder import decode, encode
from benchmarks.world.render import Labels

from . import concepts, metrics
from .choose import HALVES, OURS, PAPER, RATES, SUM, at
from .families import BLOCKS, Adapters
from .grouped import Factors
from .merging import choose_by_step, null_space, only_blocks
from .methods import Contest, Joint, released_damage
from .references import STEPS

Worn = Adapters | Factors | Tensor | None  # a tensor: the pictures themselves; None: the base model


@dataclass(frozen=True)
class Row:
    """``league``: "merge" (any content with any style, nothing trained for the pair), "pair" (a training for the pair), or "frame"."""

    league: str
    make: Callable[[], Worn]


def rows(contest: Contest, chosen: dict[str, float]) -> dict[str, Row]:
    """All rows, by name, in the order of the table."""

    def merged(name: str) -> Adapters:
        return contest.merge(at(RATES[name][0], chosen[name]))

    def joined(start: str, name: str, metric: metrics.Metric | None, kept: int) -> Adapters:
        return contest.together(merged(start), [Joint(chosen[name], metric=metric, kept=kept)])[0]

    def half_rank() -> Adapters:
        return contest.merge(at(dataclasses.replace(SUM, rank=8), chosen["sum"]))

    def plain_rows() -> Adapters:
        return contest.merge(at(dataclasses.replace(SUM, rows=(4, 0)), chosen["sum"]))

    def leaked() -> Adapters:
        apart = dataclasses.replace(PAPER, partners="leak")
        return contest.together(released_damage(contest.merge(apart)), [Joint(1e-3)])[0]

    def as_written() -> Adapters:
        return contest.together(contest.merge(PAPER), [Joint(1e-3, metric=metrics.of_halves)])[0]

    riemannian = metrics.of_two_pairs
    names = contest.studio.learner.names
    return {
        "base model": Row("frame", lambda: None),
        "content only": Row("frame", lambda: merged("sum").scaled(1.0, 0.0)),
        "style only": Row("frame", lambda: merged("sum").scaled(0.0, 1.0)),
        "true pictures": Row("frame", lambda: true_pictures(contest)),
        "cheat: content photo": Row("frame", lambda: pasted(contest, "content")),
        "cheat: style picture": Row("frame", lambda: pasted(contest, "style")),
        "sum of LoRAs": Row("merge", lambda: merged("sum").scaled(1.15, 1.15)),
        "sum of LoRAs, (1, 1)": Row("merge", lambda: merged("sum")),
        "sum of LoRAs, rank 8": Row("merge", half_rank),
        "sum of LoRAs, half the rows": Row("merge", plain_rows),
        "NP-LoRA": Row("merge", lambda: null_space(merged("sum"), 0.67)),
        "K-LoRA": Row("merge", lambda: choose_by_step(merged("sum"), steps=STEPS, alpha=0.5, beta=0.75)),
        "B-LoRA": Row("merge", lambda: only_blocks(merged("blocks"), names, *BLOCKS)),
        "Orthogonal Adaptation": Row("merge", lambda: merged("orthogonal")),
        "B4M, published start": Row("merge", lambda: contest.merge(PAPER)),
        "B4M, halves from zero": Row("merge", lambda: contest.merge(HALVES)),
        "B4M, full reach, kept": Row("merge", lambda: merged("full")),
        "ours: B4M, free, kept": Row("merge", lambda: merged("ours")),
        "ours at rank 4": Row("merge", lambda: merged("rank 4")),
        "ours, not kept": Row("merge", lambda: contest.merge(at(dataclasses.replace(OURS, rows=(8, 0), partners="none"), chosen["ours"]))),
        "sum + joint, AdamW (the control)": Row("pair", lambda: joined("sum", "sum, AdamW", None, 0)),
        "sum + joint, Riemannian": Row("pair", lambda: joined("sum", "sum, Riemannian", riemannian, 0)),
        "ZipLoRA": Row("pair", lambda: contest.zip(merged("sum"), 3e-3)),
        "one LoRA on both": Row("pair", lambda: contest.one_for_both(16, [1e-3], 650)[0]),
        "one LoRA on both, rank 32": Row("pair", lambda: contest.one_for_both(32, [1e-3], 650)[0]),
        "B4M as written": Row("pair", as_written),
        "B4M as released": Row("pair", leaked),
        "ours + joint, Riemannian": Row("pair", lambda: joined("ours", "ours, Riemannian", riemannian, 0)),
        "ours + joint, AdamW": Row("pair", lambda: joined("ours", "ours, AdamW", None, 0)),
        "ours + joint, Riemannian, kept": Row("pair", lambda: joined("ours", "ours, Riemannian", riemannian, 4)),
        "ours + joint, AdamW, kept": Row("pair", lambda: joined("ours", "ours, AdamW", None, 4)),
    }


def true_pictures(contest: Contest) -> Tensor:
    """The ceiling: the world's own pictures of every pair at every asked place, round the autoencoder; uint8 (pairs, N, 3, S, S)."""
    studio, made = contest.studio, []
    for _, content, style in contest.pairs:
        labels = [
            Labels(
                studio.world.index(contest.split.contents[content]),
                styles.NAMES.index(contest.split.styles[style]),
                backgrounds.NAMES.index(place),
            )
            for place, _ in concepts.PROMPTS
            for _ in concepts.NOISES
        ]
        pictures = decode(studio.autoencoder, encode(studio.autoencoder, studio.world.render(labels)))
        made.append((pictures * 255).round().byte().cpu())
    return torch.stack(made)


def pasted(contest: Contest, concept: str) -> Tensor:
    """Reference pictures handed in as answers, which no judge must accept."""
    table = contest.contents if concept == "content" else contest.styles
    count = len(concepts.PROMPTS) * len(concepts.NOISES)
    made = []
    for _, content, style in contest.pairs:
        which = content if concept == "content" else style
        latents = table.latents[which, torch.arange(count) % int(table.counts[which])]
        made.append((decode(contest.studio.autoencoder, latents) * 255).round().byte().cpu())
    return torch.stack(made)
