"""Partly learnable projections: one low-rank update whose parts belong to content and to style (Xu et al., ACM TOG
44(2), 2025).

splits.py draws the parts and says whose they are; reference.py has the method. Here they become a module.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from .basis import REVISION
from .errors import B4MError
from .layers import TOKENS, Reading
from .row_split import ALL_ROWS, LowRankBranch, Rows
from .splits import PARTS, STARTS, Layout, Place, split_named


class PartlyLearnableProjection(nn.Module):
    """The low-rank update of one layer: a Linear, or a convolution as a matrix (layers.py).

    Attributes: ``A``, ``B``, ``C`` and ``D``, parameters where they are learned, else buffers, float32 on the CPU when
    made. In the published split, ``halves``, ``A`` (m//2, r) and ``C`` (r, n//2) are frozen, ``B`` (m - m//2, r) is
    moved by style and ``D`` (r, n - n//2) by content; in the others A and B are (m, r), C and D (r, n). ``name`` is the
    layer's module path; with ``seed`` (the basis seed), the shape and the rank it fixes what is drawn. ``start`` is
    ``zero_start``, which leaves the base model undisturbed, or ``published``, which keeps the constant A C and draws D.
    Raises :class:`B4MError` for a rank, a split or a start that does not fit.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int,
        *,
        name: str,
        seed: int = 0,
        start: str = "zero_start",
        split: str = "halves",
    ) -> None:
        super().__init__()
        row = split_named(split)
        if start not in STARTS:
            raise B4MError(f"Unknown start {start!r} for layer {name}: choose one of {', '.join(STARTS)}.")
        row.blocks_of(start)  # refuses one that is not of this split
        drawn = row.draw(out_features, in_features, rank, name=name, seed=seed, start=start)
        fresh = {part: torch.zeros(row.shape_of(part, out_features, in_features, rank)) for part in PARTS}
        self._begin(name, seed, start, split, fresh | drawn)

    def _begin(self, name: str, seed: int, start: str, split: str, parts: dict[str, Tensor]) -> None:
        """Hold A, B, C and D: parameters where they are learned, else buffers."""
        self.name, self.seed, self.start, self.split, self.rank = (
            name,
            seed,
            start,
            split_named(split),
            parts["A"].shape[1],
        )
        for part in PARTS:
            if part in self.split.learned:
                self.register_parameter(part, nn.Parameter(parts[part]))
            else:
                self.register_buffer(part, parts[part], persistent=False)

    @classmethod
    def of_parts(
        cls,
        name: str,
        parts: Mapping[str, Tensor],
        *,
        seed: int = 0,
        start: str = "zero_start",
        split: str = "halves",
    ) -> "PartlyLearnableProjection":
        """A layer that holds these A, B, C and D, without a copy; nothing is drawn."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._begin(name, seed, start, split, dict(parts))
        return layer

    def basis(self) -> tuple[bytes, ...]:
        """What all adapters that fit together share: the frozen parts, or where there are none what the start is drawn
        from.
        """
        if not self.split.frozen:
            return (f"{self.split.name} {REVISION}|{self.seed}".encode(),)
        return tuple(getattr(self, part).detach().cpu().numpy().tobytes() for part in self.split.frozen)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): the out and in features of the layer."""
        if self.split.cut:
            return len(self.A) + len(self.B), self.C.shape[1] + self.D.shape[1]
        return len(self.A), self.C.shape[1]

    def holding(self, parts: Mapping[str, Tensor]) -> "PartlyLearnableProjection":
        """The same layer with other values for A, B, C and D, which it holds without a copy."""
        return self.of_parts(self.name, parts, seed=self.seed, start=self.start, split=self.split.name)

    def clone(self) -> "PartlyLearnableProjection":
        """An independent copy on the CPU, free of autograd and of inference mode."""
        with torch.inference_mode(False), torch.no_grad():
            return self.holding({part: getattr(self, part).detach().cpu().clone() for part in PARTS})

    def up(self) -> Tensor:
        """A and B as one factor: [A; B] (m, r) of a split that is cut, else [A, B] (m, 2r)."""
        return torch.cat([self.A, self.B], dim=0 if self.split.cut else 1)

    def down(self) -> Tensor:
        """C and D as one factor: [C, D] (r, n) of a split that is cut, else [D; C] (2r, n)."""
        return torch.cat([self.C, self.D], dim=1) if self.split.cut else torch.cat([self.D, self.C], dim=0)

    def computed(self, silent: Collection[str] = ()) -> Layout:
        """Where the parts lie in the factors that a training computes with; ``silent`` concepts say nothing and need no
        room.
        """
        blocks = [
            block for block in self.split.blocks[self.start] if self.split.concept_of("".join(block)) not in silent
        ]
        return self.split.layout(tuple(blocks), *self.shape, self.rank)

    def lora_factors(
        self,
        content: float = 1.0,
        style: float = 1.0,
        *,
        alone: str = "",
        parts: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The update as an ordinary LoRA, exactly: up (m, k) and down (k, n) with up @ down = ``delta_weight(content,
        style)``. ``parts``: those of L layers like this one, (L, ...) each, for the factors (L, m, k) and (L, k, n).

        ``content`` and ``style`` scale the first part of each. A constant A C counts as much as the stronger of the
        two, so that 0 and 0 is the base model; where it counts s and not in full, the factors are [[A, 0], [0, B]] and
        [[s C, D], [C, D]]. ``alone``: the concept whose blocks are all that is wanted.
        """
        strength = {self.split.content[0]: content, self.split.style[0]: style}
        known = parts or {part: getattr(self, part) for part in PARTS}
        scaled = {
            part: known[part] if strength.get(part, 1.0) == 1.0 else strength[part] * known[part] for part in PARTS
        }
        constant = max(content, style) if self.split.constant(self.start) else 0.0
        layout = self._written(constant == 1.0, alone)
        up, down = layout.factors(scaled)
        if self.split.cut and constant != 1.0:  # not even its zeros' signs change: equal adapters give equal files
            down[..., : self.rank, : self.C.shape[1]] = constant * known["C"]
        return up, down

    def _written(self, strong: bool, alone: str) -> Layout:
        others = {"content": ("style",), "style": ("content",)}.get(alone, ())
        return self.split.layout(self.split.written(self.start, strong=strong, without=others), *self.shape, self.rank)

    def written_places(self) -> tuple[Place, ...]:
        """Where the parts lie in the factors of a file that holds all of them."""
        return self._written(True, "").places

    @torch.no_grad()
    def load_lora_factors(self, up: Tensor, down: Tensor, alone: str = "", *, basis: bool = False) -> None:
        """Learn what :meth:`lora_factors` at full strength says; what is not in the factors of a concept ``alone``
        stays at its start. ``basis``: take the frozen parts too.
        """
        for place in self._written(True, alone).places:
            if place.concept or basis:
                part, first = getattr(self, place.part), place.ranks[0]
                row, column = (place.offset, first) if place.up else (first, place.offset)
                part.copy_((up if place.up else down)[row : row + part.shape[0], column : column + part.shape[1]])

    def delta_weight(self, content: float = 1.0, style: float = 1.0) -> Tensor:
        """What is added to W, (m, n), with the content and the style strength."""
        up, down = self.lora_factors(content, style)
        return up @ down

    def forward(self, x: Tensor, rows: Rows = ALL_ROWS, reading: Reading = TOKENS) -> Tensor:
        """The update applied to ``x``: of a Linear, (rows, ..., n), it gives (rows, ..., m), of a convolution, (rows, c,
        h, w), (rows, m, h', w'); ``reading`` says which. ``rows`` says which rows move content and which style.
        """
        return LowRankBranch.apply(x, self.computed(), rows, reading, *(getattr(self, part) for part in PARTS))  # type: ignore[no-any-return]
