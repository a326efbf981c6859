"""Make, without training: the content of one adapter, the style of another and any number of details, as one.

Two that were made to fit, on one basis, keep their split, and can be trained together as the method says. Any others,
another tool's among them, are added up exactly in the free split, which has no basis to share.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import Adapter
from .block_weights import NO_BLOCKS, BlockWeights
from .carried import DETAIL, DOWN, UP, Carried, as_concept, of_concept
from .errors import B4MError
from .fingerprint import surely_differ
from .layers import as_kernels
from .models import family_named
from .models.sdxl.modules import key_of_path
from .projection import PartlyLearnableProjection
from .splits import CONCEPTS

_NEAR = 0.01
"""How far the frozen parts of two files of the published code may lie apart: weight decay moves them by about 0.001."""


@dataclass(frozen=True)
class Share:
    """How much of an input a merge takes: ``strength`` of all of it, and of each block (block_weights.py)."""

    strength: float = 1.0
    blocks: BlockWeights = NO_BLOCKS

    def of(self, key: str) -> float:
        """The factor on a layer, by its name in carried.py."""
        return self.strength * self.blocks.of(key)

    @property
    def is_whole(self) -> bool:
        """Whether it takes the input as it is."""
        return self.strength == 1.0 and self.blocks == NO_BLOCKS


WHOLE = Share()


def merge(
    content: Adapter,
    style: Adapter,
    detail: Adapter | None = None,
    *,
    content_share: Share = WHOLE,
    style_share: Share = WHOLE,
    detail_share: Share = WHOLE,
) -> Adapter:
    """The content of one adapter beside the style of another, and all of a third as detail; none is changed.

    On one basis the content's parts and the style's go together bit for bit, which is where stage two starts. Where
    nothing is shared, the result is free and the exact sum of what each does alone (:func:`is_sum`). Where one has
    convolutions and the other has none, the other's change nothing. What they carry along goes with them. Raises
    :class:`B4MError` when inputs are swapped or for models of different kinds; another base model is no reason (see
    :func:`base_note`).
    """
    _require_own_inputs(content, style, detail)
    content, style = _of_the_same_layers(content, style)
    if is_sum(content, style) or not (content_share.is_whole and style_share.is_whole):
        layers = _sum(_alone(content, "content", content_share), _alone(style, "style", style_share))
        split: dict[str, object] = {"split": "free", "start": "zero_start", "stored_basis": False, "basis": ""}
        split["rank"] = next((layer.rank for layer in layers.values()), 1)
    else:
        one = _of_one_rank(content, style)
        layers, split = _on_one_basis(*one), {name: getattr(one[0].facts, name) for name in ("rank", "basis")}
    carried = [
        *_shared(content, "content", content_share),
        *_shared(style, "style", style_share),
        *(piece for each in _different(content, style) for piece in of_concept(each.carried, DETAIL)),
        *(() if detail is None else _as_detail(detail, detail_share)),
    ]
    facts = dataclasses.replace(
        content.facts,
        role="merged",
        content=content.facts.content,
        style=style.facts.style,
        steps=content.facts.steps + style.facts.steps,
        settings={},
        losses=(),
        compact=False,
        origin="",
        base=content.facts.base or style.facts.base,
        base_name=content.facts.base_name or style.facts.base_name,
        prediction=content.facts.prediction or style.facts.prediction,
        file_dtype=content.facts.file_dtype if content.facts.file_dtype == style.facts.file_dtype else "float32",
        parents=tuple(_identity(each) for each in (content, style, detail) if each is not None),
        **split,  # type: ignore[arg-type]
    )
    if not (content_share.is_whole and style_share.is_whole):
        facts = dataclasses.replace(facts, file_dtype="float32")
    return Adapter(layers, facts, carried)


def with_detail(adapter: Adapter, detail: Adapter, share: Share = WHOLE) -> Adapter:
    """A merge that takes in one more adapter as detail."""
    more = adapter.with_facts(parents=(*adapter.facts.parents, _identity(detail)))
    return more.carrying((*adapter.carried, *_as_detail(detail, share)))


def _different(content: Adapter, style: Adapter) -> tuple[Adapter, ...]:
    """Both, or the one that is merged again with itself, whose details count once."""
    return (content,) if content is style else (content, style)


def is_sum(content: Adapter, style: Adapter) -> bool:
    """Whether the two share no basis, so that their merge is the sum of what each does alone, in the free split."""
    content, style = _of_the_same_layers(content, style)
    left, right = content.facts, style.facts
    one = _of_one_rank(content, style)
    if content.shapes() != style.shapes() or (left.split, left.start) != (right.split, right.start):
        return True
    if left.stored_basis or right.stored_basis:
        return left.rank != right.rank or not _near(content, style)
    return one[0].facts.rank != one[1].facts.rank or one[0].facts.basis != one[1].facts.basis


def _near(content: Adapter, style: Adapter) -> bool:
    """Whether the frozen parts that two files hold are one basis, but for what weight decay did to them."""
    for name, layer in content.layers.items():
        for part in layer.split.frozen:
            mine, other = getattr(layer, part), getattr(style.layers[name], part)
            if float((mine - other).norm()) > _NEAR * float(other.norm()):
                return False
    return True


def _on_one_basis(content: Adapter, style: Adapter) -> dict[str, PartlyLearnableProjection]:
    """The style's layers with what the content learned, as the published code does it."""
    merged = style.clone()
    for name, projection in merged.layers.items():
        for part in projection.split.content:
            getattr(projection, part).data.copy_(getattr(content.layers[name], part).detach())
    return merged.layers


Factors = dict[str, tuple[Tensor, Tensor]]


def _alone(adapter: Adapter, concept: str, share: Share) -> Factors:
    """What one concept of an adapter does, as an ordinary LoRA by module path: up (m, r) and down (r, n)."""
    content, style = (float(each == concept) for each in CONCEPTS)
    found: Factors = {}
    for name, layer in adapter.layers.items():
        up, down = (factor.detach() for factor in layer.lora_factors(content, style))
        kept = up.flatten(0, -2).any(0) & down.flatten(1).any(1)
        if kept.any():
            found[name] = up[:, kept] * share.of(key_of_path(name)), down[kept]
    return found


def _sum(content: Factors, style: Factors) -> dict[str, PartlyLearnableProjection]:
    """Free layers of both; what is missing is 0."""
    rank = max((len(down) for side in (content, style) for _, down in side.values()), default=0)
    layers = {}
    with torch.inference_mode(False), torch.no_grad():
        for name in sorted({*content, *style}):
            sides = [content.get(name), style.get(name)]
            shapes = {(len(up), down.shape[1]) for up, down in filter(None, sides)}
            if len(shapes) > 1:
                raise _other_kinds()
            m, n = shapes.pop()
            parts: dict[str, Tensor] = {}
            for names, factors in (("AD", sides[0]), ("BC", sides[1])):
                up, down = torch.zeros(m, rank), torch.zeros(rank, n)
                if factors is not None:
                    up[:, : len(factors[1])], down[: len(factors[1])] = factors
                parts |= dict(zip(names, (up, down), strict=True))
            layers[name] = PartlyLearnableProjection.of_parts(name, parts, split="free")
    return layers


def _shared(adapter: Adapter, concept: str, share: Share) -> list[Carried]:
    return [_times(piece, share) for piece in of_concept(adapter.carried, concept)]


def _times(piece: Carried, share: Share) -> Carried:
    factor = share.of(piece.key)
    return piece if factor == 1.0 else piece.scaled(factor)


def _as_detail(adapter: Adapter, share: Share) -> list[Carried]:
    """All that an adapter does at full strength, as pieces of detail."""
    pieces = [_times(piece, share) for piece in as_concept(adapter.carried, DETAIL)]
    dtype = getattr(torch, adapter.facts.file_dtype)
    for name, layer in adapter.layers.items():
        up, down = (factor.detach() for factor in layer.lora_factors())
        kept = up.any(0) & down.any(1)
        if kept.any():
            factors = as_kernels(up[:, kept], down[kept], family_named(adapter.facts.family).kernel(name))
            tensors = {part: factor.to(dtype) for part, factor in zip((UP, DOWN), factors, strict=True)}
            pieces.append(_times(Carried(DETAIL, key_of_path(name), tensors), share))
    return pieces


def completed(adapter: Adapter, shapes: Mapping[str, tuple[int, int]]) -> Adapter:
    """The same adapter, exactly, ready to be trained on a network whose layers have these ``shapes``.

    A free one gets the layers that it lacks and, where both factors of a rank are 0, something to read: what a fresh
    adapter reads.
    """
    if adapter.facts.split_row.frozen:
        return adapter
    lacking = {name: shape for name, shape in shapes.items() if name not in adapter.layers}
    dead = [name for name, layer in adapter.layers.items() if _dead(layer)]
    if not lacking and not dead:
        return adapter
    fresh = Adapter.fresh(
        lacking | {name: adapter.layers[name].shape for name in dead}, dataclasses.replace(adapter.facts, basis="")
    )
    layers = {**adapter.clone().layers, **{name: fresh.layers[name] for name in lacking}}
    with torch.no_grad():
        for name in dead:
            for up, down in _PAIRS:
                unread = ~(getattr(layers[name], up).any(0) | getattr(layers[name], down).any(1))
                getattr(layers[name], down)[unread] = getattr(fresh.layers[name], down)[unread]
    return Adapter(layers, dataclasses.replace(adapter.facts, basis=""), adapter.carried, adapter.notes)


_PAIRS = (("A", "D"), ("B", "C"))


def _dead(layer: PartlyLearnableProjection) -> bool:
    """Whether some rank of a product is 0 in up and in down, so that neither would ever get a gradient."""
    return any(not (getattr(layer, up).any(0) | getattr(layer, down).any(1)).all() for up, down in _PAIRS)


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


def _of_the_same_layers(content: Adapter, style: Adapter) -> tuple[Adapter, Adapter]:
    """Both with the convolutions of either, where they are of one basis; none of what is added says anything."""
    if content is style:
        return content, style
    return _with_convolutions_of(content, style), _with_convolutions_of(style, content)


def _with_convolutions_of(adapter: Adapter, other: Adapter) -> Adapter:
    family, mine, its = family_named(adapter.facts.family), adapter.facts, other.facts
    lacking = {name: shape for name, shape in other.shapes().items() if name not in adapter.layers and family.kernel(name)}
    alike = all(getattr(mine, name) == getattr(its, name) for name in ("family", "split", "start", "basis_seed"))
    if not lacking or not alike or mine.stored_basis or its.stored_basis:
        return adapter
    fresh = Adapter.fresh(lacking, dataclasses.replace(mine, basis=""))
    with torch.no_grad():
        for layer in fresh.layers.values():
            for part in (layer.split.content[0], layer.split.style[0]):
                getattr(layer, part).zero_()
    layers = {**adapter.layers, **fresh.layers}
    return Adapter(layers, dataclasses.replace(mine, basis=""), adapter.carried, adapter.notes, adapter.thumbnail)


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
    """What a merge calls an input in the facts: "content: snq bird"."""
    facts = adapter.facts
    concept = facts.style if facts.role == "style" else facts.content
    return f"{facts.role}: {concept.trigger if concept else ''} {concept.class_word if concept else ''}".strip()


def _require_own_inputs(content: Adapter, style: Adapter, detail: Adapter | None) -> None:
    """Raise :class:`B4MError` for inputs that are swapped, and for models of different kinds."""
    if content.facts.role == "style":
        raise B4MError("A style adapter is plugged into the content input: swap the two.")
    if style.facts.role == "content":
        raise B4MError("A content adapter is plugged into the style input: swap the two.")
    for other in (style, *(() if detail is None else (detail,))):
        both = content.layers.keys() & other.layers.keys()
        if content.facts.family != other.facts.family or any(
            content.layers[name].shape != other.layers[name].shape for name in both
        ):
            raise _other_kinds()


def _other_kinds() -> B4MError:
    return B4MError(
        "These adapters belong to models of different kinds, so they cannot be merged: take adapters of one kind."
    )


def sum_note(content: Adapter, style: Adapter) -> list[str]:
    """A sentence for people when two adapters share no basis; else nothing."""
    if not is_sum(content, style):
        return []
    return ["The two were not made on one basis, so they were added up, exactly, as a free content and a free style."]
