"""The ways to split a layer's low-rank update between content and style, as data: another split is one more row.

The update of a weight W (m, n) is dW = up @ down. Four parts of rank r lie in the two factors; a *block* is r columns
of up with the r rows of down that they are multiplied with, written as the letters that lie in it. Content and style
own parts, the other parts are frozen.

    free, full     up (m, 2r)      down (2r, n)            halves, published      up (m, r)    down (r, n)
                   [ A   B ]       [   D   ]                                      [ A ]        [ C | D ]
                   [       ]       [   C   ]               one block AB.CD        [ B ]
    blocks A.D and B.C: dW = A D + B C                     dW = [[A C, A D], [B C, B D]]

    halves, zero_start: the same without the constant A C, in two blocks, AB.D and B.C:  [ A  0 ]   [ 0 | D ]
                                                                                         [ B  B ]   [ C | 0 ]

A split is ``cut`` where A and B share the rows of W, C and D its columns; otherwise each part reaches over all of them.
Everything else follows from the row: the shapes, what a file holds (projection.py, compact_format.py), the gradients
(row_split.py, fast/), the products that the Riemannian optimiser sees (stacks.py).
"""

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .basis import frozen_halves, frozen_whole, orthogonal_readers
from .errors import B4MError

PARTS = ("A", "B", "C", "D")
STARTS = ("zero_start", "published")
CONCEPTS = ("content", "style")
Blocks = tuple[tuple[str, str], ...]
"""(letters in up, letters in down) of every block."""


class Place(NamedTuple):
    """Where one part lies: in ``up`` or in down, ``reach`` features from ``offset`` on, in the blocks that begin at
    ``ranks``.

    A part of up is (h, r) and lies at up[offset : offset + h, rank : rank + r]; one of down is (r, w) and lies at
    down[rank : rank + r, offset : offset + w]; h or w is the reach. ``concept``: whose it is, or nothing where it is
    frozen.
    """

    part: str
    concept: str
    up: bool
    offset: int
    reach: int
    ranks: tuple[int, ...]

    def put(self, factor: Tensor, part: Tensor) -> None:
        """Write the part (..., h, r) or (..., r, w) wherever it lies in its factor, (..., m, k) or (..., k, n)."""
        height, width = part.shape[-2:]
        for rank in self.ranks:
            row, column = (self.offset, rank) if self.up else (rank, self.offset)
            factor[..., row : row + height, column : column + width].copy_(part)


@dataclass(frozen=True)
class Layout:
    """All places in factors of rank ``width`` = k, the parts being of ``rank`` r, for a weight of ``shape`` (m, n)."""

    shape: tuple[int, int]
    rank: int
    width: int
    places: tuple[Place, ...]

    def factors(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """up (..., m, k) and down (..., k, n) with the parts, of one layer or (L, ...) of many, in their places."""
        (m, n), some = self.shape, next(iter(parts.values()))
        many = some.shape[:-2]
        up, down = some.new_zeros(*many, m, self.width), some.new_zeros(*many, self.width, n)
        for place in self.places:
            place.put(up if place.up else down, parts[place.part])
        return up, down

    def inner(self, place: Place, low: Tensor) -> Tensor:
        """Of (..., k) what belongs to a part, (..., r): the sum over its blocks."""
        first, *others = (low[..., rank : rank + self.rank] for rank in place.ranks)
        for other in others:
            first = first + other
        return first

    def seen(self, place: Place, low: Tensor) -> Tensor:
        """Of x down' (..., k), what a part of up is multiplied with: (..., r) for each of its blocks, side by side."""
        return low[..., place.ranks[0] : place.ranks[-1] + self.rank]


@dataclass(frozen=True)
class Split:
    """One row.

    ``content`` and ``style`` are the parts that each learns; the first of them carries its strength: it is the one that
    a slider scales, and where it is 0 the concept says nothing. ``blocks`` are those of the two factors as they are
    computed, by start; a part of down lies in one block, a part of up may lie in several. ``draw`` (m, n, rank, name=,
    seed=, start=) gives the parts that do not begin at 0.
    """

    name: str
    content: tuple[str, ...]
    style: tuple[str, ...]
    cut: bool
    blocks: Mapping[str, Blocks]
    draw: Callable[..., dict[str, Tensor]]

    @functools.cached_property
    def learned(self) -> tuple[str, ...]:
        """The parts that are learned, content's or style's."""
        return tuple(part for part in PARTS if part in self.content + self.style)

    @functools.cached_property
    def frozen(self) -> tuple[str, ...]:
        """The other parts."""
        return tuple(part for part in PARTS if part not in self.learned)

    def parts_of(self, concepts: Collection[str]) -> tuple[str, ...]:
        """What ``concepts`` learn."""
        mine = [part for concept in concepts for part in getattr(self, concept)]
        return tuple(part for part in self.learned if part in mine)

    def concept_of(self, letters: Sequence[str]) -> str:
        """The one concept that learns any of ``letters``; nothing where there is none or where both do."""
        concepts = [concept for concept in CONCEPTS if set(letters) & set(getattr(self, concept))]
        return concepts[0] if len(concepts) == 1 else ""

    def shape_of(self, part: str, m: int, n: int, rank: int) -> tuple[int, int]:
        """(h, r) of a part of up, (r, w) of a part of down."""
        features, first = (m if part in "AB" else n), part in "AC"
        reach = (features // 2 if first else features - features // 2) if self.cut else features
        return (reach, rank) if part in "AB" else (rank, reach)

    def written(self, start: str, *, strong: bool = True, without: Collection[str] = ()) -> Blocks:
        """The blocks of the ordinary LoRA in a file, without those of some concepts.

        A cut split has one block for each part of up, in which a strength can scale the constant A C; only where that
        is kept at full strength (``strong``) one block says it all.
        """
        blocks = self.blocks_of(start)
        if self.cut and not (strong and self.constant(start)):
            blocks = (("A", "CD"), ("B", "CD"))
        return tuple(block for block in blocks if self.concept_of("".join(block)) not in without)

    def constant(self, start: str) -> bool:
        """Whether dW holds a product of two frozen parts, A C."""
        return any(set(up) & set(self.frozen) and set(down) & set(self.frozen) for up, down in self.blocks_of(start))

    def blocks_of(self, start: str) -> Blocks:
        """The blocks of that start. Raises :class:`B4MError` for one that this split does not know."""
        if start not in self.blocks:
            raise B4MError(
                f"The split {self.name} knows the start {', '.join(self.blocks)} and not {start!r}: choose that, or split = halves."
            )
        return self.blocks[start]

    def layout(self, blocks: Blocks, m: int, n: int, rank: int) -> Layout:
        """Where every part lies in factors of these blocks, those of no block left out."""
        starts = {"A": 0, "B": m // 2 if self.cut else 0, "C": 0, "D": n // 2 if self.cut else 0}
        places = []
        for part in PARTS:
            ranks = tuple(rank * number for number, (up, down) in enumerate(blocks) if part in up + down)
            if ranks:
                height, width = self.shape_of(part, m, n, rank)
                reach = height if part in "AB" else width
                places.append(Place(part, self.concept_of(part), part in "AB", starts[part], reach, ranks))
        return Layout((m, n), rank, rank * len(blocks), tuple(places))


def _draw_halves(m: int, n: int, rank: int, *, name: str, seed: int, start: str) -> dict[str, Tensor]:
    """A and C, half as large as the layer (Xu et al., "orthogonal prior"); as published D is normal with standard
    deviation 1/r.
    """
    a, c = frozen_halves(m, n, rank, name=name, seed=seed)
    if start != "published":
        return {"A": a, "C": c}
    digest = hashlib.sha256(f"b4m start|{seed}|{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return {"A": a, "C": c, "D": torch.zeros(rank, n - n // 2).normal_(std=1 / rank, generator=generator)}


def _draw_whole(m: int, n: int, rank: int, *, name: str, seed: int, start: str) -> dict[str, Tensor]:
    """A and C over all rows and columns."""
    a, c = frozen_whole(m, n, rank, name=name, seed=seed)
    return {"A": a, "C": c}


def _draw_readers(m: int, n: int, rank: int, *, name: str, seed: int, start: str) -> dict[str, Tensor]:
    """D and C, disjoint rows of one matrix: where content and style begin to read."""
    d, c = orthogonal_readers(m, n, rank, name=name, seed=seed)
    return {"D": d, "C": c}


SUM: Blocks = (("A", "D"), ("B", "C"))
SPLITS = {
    split.name: split
    for split in (
        Split("free", ("A", "D"), ("B", "C"), False, {"zero_start": SUM}, _draw_readers),
        Split("full", ("D",), ("B",), False, {"zero_start": SUM}, _draw_whole),
        Split(
            "halves",
            ("D",),
            ("B",),
            True,
            {"zero_start": (("AB", "D"), ("B", "C")), "published": (("AB", "CD"),)},
            _draw_halves,
        ),
    )
}
"""By name. In all three content is learned in down and style in up, as the published code has it; the paper's figure
draws it the other way.

``free`` breaks the two apart by where they start alone: they read disjoint rows of one orthogonal matrix, the same for
everybody, and write nothing at first. ``full`` keeps what they read and write frozen. In both nothing meets, so a merge
is the exact sum. ``halves`` is the published one: B D is a block that neither training alone has seen.
"""


def split_named(name: str) -> Split:
    """The row of that name. Raises :class:`B4MError` for an unknown one."""
    if name not in SPLITS:
        raise B4MError(f"Unknown split {name!r}: choose one of {', '.join(SPLITS)}.")
    return SPLITS[name]
