"""Make, without training: the content half of one adapter and the style half of another, on their common basis."""

import dataclasses

from .adapter import Adapter
from .errors import B4MError


def merge(content: Adapter, style: Adapter) -> Adapter:
    """U = [A; B of ``style``], V = [C, D of ``content``] (the start of stage two).

    Both keep what they learned, bit for bit; neither is changed. Raises :class:`B4MError` when the two were not made to fit: another rank,
    another basis, another start, another base model, or the two inputs swapped.
    """
    _require_a_fit(content, style)
    merged = content.clone()
    for name, projection in merged.layers.items():
        projection.B.data.copy_(style.layers[name].B.detach())
    facts = dataclasses.replace(
        content.facts,
        role="merged",
        style=style.facts.style,
        steps=content.facts.steps + style.facts.steps,
        settings={},
        losses=(),
        file_dtype=content.facts.file_dtype if content.facts.file_dtype == style.facts.file_dtype else "float32",
        parents=(_identity(content), _identity(style)),
    )
    return Adapter(merged.layers, facts)


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
    if left.rank != right.rank:
        raise B4MError(f"The content adapter has rank {left.rank} and the style adapter rank {right.rank}: train both with the same rank.")
    if left.basis != right.basis:
        raise B4MError(
            f"The content adapter was trained on basis seed {left.basis_seed} and the style adapter on {right.basis_seed}: "
            "train both with the same basis seed."
        )
    if left.start != right.start:
        raise B4MError(
            f"The content adapter started as {left.start} and the style adapter as {right.start}: train both with the same start."
        )
    if left.base and right.base and left.base != right.base:
        raise B4MError(
            f"The content adapter was trained on {left.base_name or 'one model'} ({left.base[:8]}) and the style adapter on "
            f"{right.base_name or 'another'} ({right.base[:8]}): train both on the same model, with the same LoRAs before it."
        )
