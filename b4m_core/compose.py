"""Make, without training: the content half of one adapter and the style half of another, on their common basis."""

import dataclasses

from .adapter import Adapter
from .errors import B4MError
from .fingerprint import surely_differ


def merge(content: Adapter, style: Adapter) -> Adapter:
    """The parts that ``content`` learned beside those that ``style`` did: U = [A; B], V = [C, D] (the start of stage
    two).

    Both keep what they learned, bit for bit; neither is changed. Of two ranks of the free split the higher one holds
    both (see :func:`widened`). Raises :class:`B4MError` when the two were not made to fit: another rank in a split with
    a basis, another basis, split or start, or the two inputs swapped. Another base model is no reason (see
    :func:`base_note`).
    """
    content, style = _of_one_rank(content, style)
    _require_a_fit(content, style)
    merged = content.clone()
    for name, projection in merged.layers.items():
        for part in projection.split.style:
            getattr(projection, part).data.copy_(getattr(style.layers[name], part).detach())
    facts = dataclasses.replace(
        content.facts,
        role="merged",
        style=style.facts.style,
        steps=content.facts.steps + style.facts.steps,
        settings={},
        losses=(),
        compact=False,
        file_dtype=content.facts.file_dtype if content.facts.file_dtype == style.facts.file_dtype else "float32",
        parents=(_identity(content), _identity(style)),
    )
    return Adapter(merged.layers, facts)


def widened(adapter: Adapter, rank: int) -> Adapter:
    """The same update, exactly, with factors of a higher ``rank``, for a split that freezes nothing.

    The new directions read what a fresh adapter of that rank reads, and write nothing until they are trained.
    """
    if adapter.facts.rank == rank:
        return adapter
    wide = Adapter.fresh(adapter.shapes(), dataclasses.replace(adapter.facts, rank=rank, basis=""))
    for name, layer in wide.layers.items():
        for part in adapter.facts.split_row.learned:
            learned = getattr(adapter.layers[name], part).detach()
            getattr(layer, part).data[: learned.shape[0], : learned.shape[1]].copy_(learned)
    return wide


def _of_one_rank(content: Adapter, style: Adapter) -> tuple[Adapter, Adapter]:
    """Both with the higher rank of the two, where their split allows it."""
    if content.facts.split != style.facts.split or content.facts.split_row.frozen or content.shapes() != style.shapes():
        return content, style
    rank = max(content.facts.rank, style.facts.rank)
    return widened(content, rank), widened(style, rank)


def base_note(adapter: Adapter, base: str, name: str) -> list[str]:
    """A sentence for people when ``adapter`` was trained on another network than ``base``, called ``name``; else
    nothing.

    No refusal: SDXL's fine-tunes are near enough to each other that a LoRA of one works on another, and artists use
    them so.
    """
    facts = adapter.facts
    if not surely_differ(facts.base, base):
        return []
    return [
        f"The {facts.role} adapter was trained on {facts.base_name or 'another model'} ({facts.base[-8:]}), not on {name or 'this model'} "
        f"({base[-8:]}): it works here as well as those two models are alike."
    ]


def _identity(adapter: Adapter) -> str:
    facts = adapter.facts
    concept = facts.style if facts.role == "style" else facts.content
    return f"{facts.role}: {concept.trigger if concept else ''} {concept.class_word if concept else ''}".strip()


def _require_a_fit(content: Adapter, style: Adapter) -> None:
    left, right = content.facts, style.facts
    if left.role == "style":
        raise B4MError("A style adapter is plugged into the content input: swap the two.")
    if right.role == "content":
        raise B4MError("A content adapter is plugged into the style input: swap the two.")
    if content.shapes() != style.shapes():
        raise B4MError(
            "The content and the style adapter belong to models of different kinds, so they cannot be merged: train both on one model."
        )
    if left.split != right.split:
        raise B4MError(
            f"The content adapter has the split {left.split} and the style adapter {right.split}: train both with the same split."
        )
    if left.rank != right.rank:
        raise B4MError(
            f"The content adapter has rank {left.rank} and the style adapter rank {right.rank}: with the split {left.split} "
            "train both with the same rank."
        )
    if left.basis != right.basis:
        raise B4MError(
            f"The content adapter was trained on basis seed {left.basis_seed} and the style adapter on {right.basis_seed}: "
            "train both with the same basis seed."
        )
    if left.start != right.start:
        raise B4MError(
            f"The content adapter started as {left.start} and the style adapter as {right.start}: train both with the same start."
        )
