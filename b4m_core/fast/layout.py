"""Where the parts of a projection stand in an ordinary pair of low-rank factors.

Every kind of projection (splits.py) is up @ down with up (m, k) and down (k, n), for every row of the batch the same. What differs between
the kinds is only where A, B, C and D stand in the two factors, and which of them a training moves.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..full_reach import FullReachProjection
from ..projection import PartlyLearnableProjection
from ..row_split import Rows


class Place(NamedTuple):
    """Where one part stands: from ``row`` on, and from each of ``columns`` on (a part may stand twice); in ``up`` or in ``down``.

    ``style``: the rows of the batch that move style move it, otherwise those that move content.
    """

    part: str
    style: bool
    up: bool
    row: int
    columns: tuple[int, ...]

    def put(self, factors: Tensor, part: Tensor) -> None:
        """Write the part (..., h, w) into its places in its factor."""
        height, width = part.shape[-2:]
        for first in self.columns:
            factors[..., self.row : self.row + height, first : first + width].copy_(part)

    def moving(self, rows: Rows) -> slice:
        """The rows of the batch that move it."""
        return rows.up if self.style else rows.down


@dataclass(frozen=True)
class Layout:
    """All places; r is the rank and ``width`` is k."""

    rank: int
    width: int
    places: tuple[Place, ...]

    def seen(self, place: Place, low: Tensor) -> Tensor:
        """Of x down' (..., k), what a part in ``up`` is multiplied with: (..., r) for every place that it has."""
        return low[..., place.columns[0] : place.columns[-1] + self.rank]


def layout_of(projection: PartlyLearnableProjection, silent: Collection[str] = ()) -> Layout:
    """The layout of a projection; ``silent`` names the concepts whose product is 0 and stays 0, which need no room."""
    (m, n), r = projection.shape, projection.rank
    if isinstance(projection, FullReachProjection):  # dW = A D + B C = [A, B] [D; C]
        style = 0 if "content" in silent else r
        content = [Place("A", False, True, 0, (0,)), Place("D", False, False, 0, (0,))] if "content" not in silent else []
        other = [Place("B", True, True, 0, (style,)), Place("C", True, False, style, (0,))] if "style" not in silent else []
        return Layout(r, r * (2 - len(silent)), (*content, *other))
    if projection.keeps_corner:  # [A; B] [C, D]
        a, b = Place("A", False, True, 0, (0,)), Place("B", True, True, m // 2, (0,))
        return Layout(r, r, (a, b, Place("C", True, False, 0, (0,)), Place("D", False, False, 0, (n // 2,))))
    a, b = Place("A", False, True, 0, (0,)), Place("B", True, True, m // 2, (0, r))  # [[A, 0], [B, B]] [[0, D], [C, 0]]
    return Layout(r, 2 * r, (a, b, Place("C", True, False, r, (0,)), Place("D", False, False, 0, (n // 2,))))
