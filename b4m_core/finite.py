"""Whether what a file holds, or is about to hold, are numbers."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import B4MError

_AT_ONCE = 64


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity.

    Up to :data:`_AT_ONCE` tensors of one shape are looked at together: a thousand small looks wait for every core each
    time, and a copy of all of them is memory that the system has to clear first.
    """
    alike: dict[tuple[torch.dtype, torch.Size], list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            alike[tensor.dtype, tensor.shape].append(name)
    some = [names[first : first + _AT_ONCE] for names in alike.values() for first in range(0, len(names), _AT_ONCE)]
    bad = [
        name
        for names in some
        if not _all_finite(torch.stack([tensors[name] for name in names]))
        for name in names
        if not _all_finite(tensors[name])
    ]
    return min(bad, key=list(tensors).index, default=None)


def _all_finite(values: Tensor) -> bool:
    """Told by the least and the greatest, which NaN spreads to: that reads the values once, and isfinite copies them
    three times. Torch has neither for the numbers of eight bits.
    """
    values = values.float() if values.itemsize == 1 else values
    return not values.numel() or all(bool(end.isfinite()) for end in values.aminmax())


def require_finite(tensors: Mapping[str, Tensor], shown: str) -> None:
    """Raise :class:`B4MError`, naming the tensor, unless all of a file's are numbers."""
    bad = first_not_finite(tensors)
    if bad is not None:
        raise _damaged(shown, bad)


def numbers(tensors: Mapping[str, Tensor], key: str, shown: str) -> Tensor:
    """The tensor under ``key``. Raises :class:`B4MError` when it is missing or of no floating-point kind."""
    tensor = tensors.get(key)
    if tensor is None or not tensor.is_floating_point():
        raise _damaged(shown, key)
    return tensor


def _damaged(shown: str, key: str) -> B4MError:
    return B4MError(
        f"{shown} is damaged: its {key} is missing or holds values that are not numbers; download or train it again."
    )
