"""Partly learnable projections: one low-rank update whose halves belong to content and to style.

For a weight W (m, n), with up U = [A; B] and down V = [C, D] of rank r (Xu et al., ACM TOG 44(2), 2025):

                    first n//2 inputs   the other inputs
    first m//2 outputs     A C                A D        <- D alone: content
    the other outputs      B C                B D        <- B C is B alone: style; both meet in B D

A and C are frozen (basis.py), B and D are learned. ``published`` keeps the constant A C, as the published code does; ``zero_start`` leaves
it out and starts the learned halves at 0, so that the base model is undisturbed until it has learned something. The other splits, in which
both reach over every row and column and nothing meets, are in full_reach.py and free_reach.py.
"""

import hashlib
from typing import ClassVar

import torch
from torch import Tensor, nn

from .basis import frozen_halves
from .errors import B4MError
from .row_split import ALL_ROWS, Rows, RowSplitBranch

PARTS = ("A", "B", "C", "D")
STARTS = ("zero_start", "published")


class PartlyLearnableProjection(nn.Module):
    """The low-rank update of one Linear layer.

    Attributes: ``A`` (m//2, r) and ``C`` (r, n//2), frozen buffers; ``B`` (m - m//2, r), moved by style, and ``D`` (r, n - n//2), moved by
    content, learned parameters; all float32 on the CPU when made. ``name`` is the layer's module path in the UNet; with ``seed`` (the
    basis seed), the shape and the rank it fixes A and C. ``start`` is ``zero_start`` (B = D = 0, no A C) or ``published`` (B = 0, D normal
    with standard deviation 1/r, A C kept). Raises :class:`B4MError` for a rank that does not fit.
    """

    two_products: ClassVar[bool] = False  # B and D are parts of one product U V
    content: ClassVar[tuple[str, ...]] = ("D",)  # what a content learns, and what a style does
    style: ClassVar[tuple[str, ...]] = ("B",)
    A: Tensor
    B: nn.Parameter
    C: Tensor
    D: nn.Parameter

    def __init__(self, out_features: int, in_features: int, rank: int, *, name: str, seed: int = 0, start: str = "zero_start") -> None:
        super().__init__()
        if start not in STARTS:
            raise B4MError(f"Unknown start {start!r} for layer {name}: choose one of {', '.join(STARTS)}.")
        a, c = frozen_halves(out_features, in_features, rank, name=name, seed=seed)
        self._begin(name, seed, a, torch.zeros(out_features - len(a), rank), c, torch.zeros(rank, in_features - c.shape[1]))
        self.keeps_corner = start == "published"
        if self.keeps_corner:
            digest = hashlib.sha256(f"b4m start|{seed}|{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            with torch.no_grad():
                self.D.normal_(std=1 / rank, generator=generator)

    def _begin(self, name: str, seed: int, *parts: Tensor) -> None:
        """Hold A, B, C and D: parameters where they are learned, else buffers."""
        self.name, self.seed, self.rank, self.keeps_corner = name, seed, parts[0].shape[1], False
        for part, value in zip(PARTS, parts, strict=True):
            if part in self.learned():
                self.register_parameter(part, nn.Parameter(value))
            else:
                self.register_buffer(part, value, persistent=False)

    @classmethod
    def learned(cls) -> tuple[str, ...]:
        """The parts that are learned, content's or style's."""
        return tuple(part for part in PARTS if part in cls.content + cls.style)

    @classmethod
    def frozen(cls) -> tuple[str, ...]:
        """The other parts."""
        return tuple(part for part in PARTS if part not in cls.learned())

    def basis(self) -> tuple[bytes, ...]:
        """What all adapters that fit together share: the frozen parts."""
        return tuple(part.detach().cpu().numpy().tobytes() for part in (self.A, self.C))

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): the out and in features of the layer."""
        return len(self.A) + len(self.B), self.C.shape[1] + self.D.shape[1]

    def clone(self) -> "PartlyLearnableProjection":
        """An independent copy on the CPU, free of autograd and of inference mode."""
        copy = type(self).__new__(type(self))
        nn.Module.__init__(copy)
        with torch.inference_mode(False), torch.no_grad():
            copy._begin(self.name, self.seed, *(getattr(self, part).detach().cpu().clone() for part in PARTS))
        copy.keeps_corner = self.keeps_corner
        return copy

    def up(self) -> Tensor:
        """U = [A; B], (m, r)."""
        return torch.cat([self.A, self.B], dim=0)

    def down(self) -> Tensor:
        """V = [C, D], (r, n)."""
        return torch.cat([self.C, self.D], dim=1)

    def lora_factors(self, content: float = 1.0, style: float = 1.0) -> tuple[Tensor, Tensor]:
        """The update as an ordinary LoRA, exactly: up (m, k) and down (k, n) with up @ down = ``delta_weight(content, style)``.

        ``content`` scales D, ``style`` scales B. k = r when A C is kept at full strength, else 2r:
        [[A, 0], [0, B]] [[k C, D], [C, D]]. The constant A C counts as much as the stronger of the two, so that 0 and 0 is the base model.
        """
        corner = max(content, style) if self.keeps_corner else 0.0
        learned_up, learned_down = style * self.B, content * self.D
        if corner == 1.0:
            return torch.cat([self.A, learned_up]), torch.cat([self.C, learned_down], dim=1)
        upper = torch.cat([self.A, torch.zeros_like(self.A)], dim=1)
        lower = torch.cat([torch.zeros_like(learned_up), learned_up], dim=1)
        down = torch.cat([torch.cat([corner * self.C, learned_down], dim=1), torch.cat([self.C, learned_down], dim=1)])
        return torch.cat([upper, lower]), down

    @torch.no_grad()
    def take(self, up: Tensor, down: Tensor, alone: str = "") -> None:
        """Learn what a LoRA of :meth:`lora_factors` at full strength says; ``alone`` = content or style where it holds that one only."""
        self.B.copy_(up[-len(self.B) :, -self.rank :])  # in either frozen split B ends in the last row and column of up, D in down's last
        self.D.copy_(down[: self.rank, -self.D.shape[1] :])

    def delta_weight(self, content: float = 1.0, style: float = 1.0) -> Tensor:
        """What is added to W, (m, n), with the content and the style strength."""
        up, down = self.lora_factors(content, style)
        return up @ down

    def forward(self, x: Tensor, rows: Rows = ALL_ROWS) -> Tensor:
        """The update applied to ``x`` (rows, ..., n): (rows, ..., m). ``rows`` says which rows give B and which give D their gradient."""
        return RowSplitBranch.apply(x, self.B, self.D, self.A, self.C, self.keeps_corner, rows)  # type: ignore[no-any-return]
