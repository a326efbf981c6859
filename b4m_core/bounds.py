"""What an adapter of a family can be at most: asked before anything is made from the sizes that a file declares.

A compact file of some kilobytes may declare layers and a rank that take gigabytes to draw; a few thousand layers of as
many sizes take minutes. A file of ours never does: what is made from it is a known multiple of what it holds.
"""

from collections.abc import Mapping
from typing import NamedTuple

from .errors import B4MError

MOST_RANK = 4096
_MOST_SIZES = 48  # different ones in one network; SDXL has five of attentions and 22 of convolutions
_MOST_GROWTH, _ALWAYS = 64, 32 << 20  # float32 parts for each byte of a compact file: 17 of ours at most; bytes


class Largest(NamedTuple):
    """The largest network of a family: how many layers get an update, how many features the widest gives, and how many
    numbers the longest row of a weight has: the features that a layer takes, times the places of its kernel.
    """

    layers: int
    features: int
    row: int


def require_possible(
    shapes: Mapping[str, tuple[int, int]], rank: int, largest: Largest, held: int, shown: str
) -> None:
    """Raise :class:`B4MError` unless layers of these ``shapes``, (m, n) by module path, at this ``rank`` can be an
    adapter of that family in a file whose tensors have ``held`` bytes. ``shown``: the file's name for people.
    """
    too = ""
    if len(shapes) > largest.layers:
        too = f"{len(shapes)} layers, and no model of its kind has more than {largest.layers}"
    elif wide := next((name for name, (m, n) in shapes.items() if not (0 < m <= largest.features and 0 < n <= largest.row)), ""):
        too = f"a layer of {' x '.join(map(str, shapes[wide]))} ({wide[:80]}), and no model of its kind has one"
    elif not 0 < rank <= MOST_RANK:
        too = f"rank {rank}, and an adapter has from 1 to {MOST_RANK}"
    elif len(set(shapes.values())) > _MOST_SIZES:
        too = f"layers of {len(set(shapes.values()))} sizes, and no model of its kind has more than {_MOST_SIZES}"
    elif (made := sum(4 * rank * (m + n) for m, n in shapes.values())) > _ALWAYS + _MOST_GROWTH * held:
        too = f"{made / 1e6:.0f} MB of numbers, and holds {held / 1e6:.1f} MB"
    if too:
        raise B4MError(f"{shown} is damaged or no adapter: it declares {too}; download or train it again.")


def bytes_held(tensors: Mapping[str, object]) -> int:
    """The bytes of all tensors of a file."""
    return sum(int(getattr(tensor, "nbytes", 0)) for tensor in tensors.values())
