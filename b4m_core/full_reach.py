"""Full reach: the split in which content and style each reach every row and column of a weight, and meet nowhere.

    dW = A D + B C,   up [A, B] (m, 2r),   down [D; C] (2r, n)

A (m, r) and C (r, n) are frozen (basis.py), content learns D (r, n), style learns B (m, r), both from 0. As in the published split
(projection.py) content is learned in down and style in up, each against a frozen factor that all adapters share. Given up is the cut
through rows and columns: there is no block B D that neither training has seen, so a merge is the exact sum of its two parts.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from .basis import frozen_whole
from .errors import B4MError
from .projection import PartlyLearnableProjection
from .row_split import ALL_ROWS, FullReachBranch, Rows


class FullReachProjection(PartlyLearnableProjection):
    """The low-rank update of one Linear layer, for full reach.

    Attributes as in the published split, with other shapes: ``A`` (m, r), ``B`` (m, r), ``C`` (r, n), ``D`` (r, n). ``start`` can only be
    ``zero_start``: there is no constant A C to keep.
    """

    two_products: ClassVar[bool] = True  # A D and B C

    def __init__(self, out_features: int, in_features: int, rank: int, *, name: str, seed: int = 0, start: str = "zero_start") -> None:
        nn.Module.__init__(self)
        if start != "zero_start":
            raise B4MError(f"Layer {name} starts as {start!r}, and full reach knows zero_start only: choose that, or split = halves.")
        a, c = frozen_whole(out_features, in_features, rank, name=name, seed=seed)
        self._begin(name, seed, a, torch.zeros(out_features, rank), c, torch.zeros(rank, in_features))

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): the out and in features of the layer."""
        return len(self.A), self.C.shape[1]

    def up(self) -> Tensor:
        """[A, B], (m, 2r)."""
        return torch.cat([self.A, self.B], dim=1)

    def down(self) -> Tensor:
        """[D; C], (2r, n)."""
        return torch.cat([self.D, self.C], dim=0)

    def lora_factors(self, content: float = 1.0, style: float = 1.0) -> tuple[Tensor, Tensor]:
        """The update as an ordinary LoRA of rank 2r, exactly; ``content`` scales A D and ``style`` scales B C."""
        return torch.cat([self.A, style * self.B], dim=1), torch.cat([content * self.D, self.C], dim=0)

    def forward(self, x: Tensor, rows: Rows = ALL_ROWS) -> Tensor:
        """The update applied to ``x`` (rows, ..., n): (rows, ..., m). ``rows`` says which rows move content and which style."""
        return FullReachBranch.apply(x, self.B, self.D, self.A, self.C, rows)  # type: ignore[no-any-return]
