"""The free split: content and style each learn both factors of a product of their own, and start reading orthogonal directions.

    dW = A D + B C,   up [A, B] (m, 2r),   down [D; C] (2r, n)

Full reach (full_reach.py) with nothing frozen: content learns A (m, r) and D (r, n), style learns B (m, r) and C (r, n). The orthogonal
break is where they start: D and C are disjoint rows of one matrix, the same for everybody (basis.py), and A = B = 0, so that the base model
is undisturbed at first. A merge is the exact sum. A content or a style alone is an ordinary LoRA of rank r.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from .basis import REVISION, orthogonal_readers
from .errors import B4MError
from .full_reach import FullReachProjection


class FreeProjection(FullReachProjection):
    """The low-rank update of one Linear layer, for the free split: the shapes of full reach, and all four parts are parameters."""

    two_products: ClassVar[bool] = False  # [A, B] [D; C], learned whole
    content: ClassVar[tuple[str, ...]] = ("A", "D")
    style: ClassVar[tuple[str, ...]] = ("B", "C")

    def __init__(self, out_features: int, in_features: int, rank: int, *, name: str, seed: int = 0, start: str = "zero_start") -> None:
        nn.Module.__init__(self)
        if start != "zero_start":
            raise B4MError(f"Layer {name} starts as {start!r}, and the free split knows zero_start only: choose that, or split = halves.")
        d, c = orthogonal_readers(out_features, in_features, rank, name=name, seed=seed)
        self._begin(name, seed, torch.zeros(out_features, rank), torch.zeros(out_features, rank), c, d)

    def basis(self) -> tuple[bytes, ...]:
        """What all adapters that fit together share: where they started from, as what it is drawn from."""
        return (f"free {REVISION}|{self.seed}".encode(),)

    def lora_factors(self, content: float = 1.0, style: float = 1.0) -> tuple[Tensor, Tensor]:
        """The update as an ordinary LoRA of rank 2r, exactly; ``content`` scales A D and ``style`` scales B C."""
        return torch.cat([content * self.A, style * self.B], dim=1), self.down()

    @torch.no_grad()
    def take(self, up: Tensor, down: Tensor, alone: str = "") -> None:
        """See the published split; what is not in the factors stays at its start."""
        if alone != "style":
            self.A.copy_(up[:, : self.rank])
            self.D.copy_(down[: self.rank])
        if alone != "content":
            self.B.copy_(up[:, -self.rank :])
            self.C.copy_(down[-self.rank :])
