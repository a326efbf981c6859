"""How near pictures are to what they should show, in the numbers of a vision model: CLIP-I, CLIP-T, or DINO's.

A cosine alone says little: CLIP gives .5 to any two photographs. So beside it stands what it could be: how near the
reference pictures are to each other, and how near to them the pictures of the other concept are. A measured cosine at
the upper of these two is as like as the references; at the lower it is not like at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Likeness:
    """``each`` picture's mean cosine to the references; ``among`` these themselves; of the ``unlike`` to them.

    ``among`` and ``unlike`` are None where one reference, or no other set, leaves nothing to compare.
    """

    each: tuple[float, ...]
    among: float | None = None
    unlike: float | None = None

    @property
    def mean(self) -> float:
        return sum(self.each) / len(self.each)

    @property
    def share(self) -> float | None:
        """Where the mean lies between ``unlike`` (0) and ``among`` (1); None where these do not say."""
        if self.among is None or self.unlike is None or self.among - self.unlike < 1e-3:
            return None
        return (self.mean - self.unlike) / (self.among - self.unlike)


def likeness(pictures: Tensor, references: Tensor, others: Tensor | None = None) -> Likeness:
    """Of ``pictures`` (N, d) to ``references`` (M, d); ``others`` (K, d) show something else. All are a vision model's
    embeddings, of any length.
    """
    ours, theirs = _unit(pictures), _unit(references)
    each = tuple((ours @ theirs.T).mean(1).tolist())
    count = len(theirs)
    among = None if count < 2 else float(((theirs @ theirs.T).sum() - count) / (count * (count - 1)))
    unlike = None if others is None else float((_unit(others) @ theirs.T).mean())
    return Likeness(each, among, unlike)


def told(found: Sequence[tuple[str, Likeness]]) -> str:
    """The numbers for people: a line for each name, then one for each picture, the nearest to everything first."""
    lines = []
    for name, one in found:
        line = f"{name}: {one.mean:.3f}"
        if one.among is not None:
            line += f" (its own pictures to each other {one.among:.3f}"
            line += "" if one.unlike is None else f", other pictures to them {one.unlike:.3f}"
            line += ")"
        if one.share is not None:
            line += f", {100 * one.share:.0f} % of the way"
        lines.append(line)
    if found:
        by_picture = list(zip(*(one.each for _, one in found), strict=True))
        ranked = sorted(range(len(by_picture)), key=lambda k: -sum(by_picture[k]))
        for k in ranked:
            numbers = ", ".join(f"{name} {value:.3f}" for (name, _), value in zip(found, by_picture[k], strict=True))
            lines.append(f"picture {k + 1}: {numbers}")
    return "\n".join(lines)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
