"""Whether what a file holds, or is about to hold, are numbers."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import B4MError


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity.

    Tensors of one shape are looked at together: a thousand small looks wait for every core each time.
    """
    alike: dict[tuple[torch.dtype, torch.Size], list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            alike[tensor.dtype, tensor.shape].append(name)
    bad = [
        name
        for names in alike.values()
        if not torch.isfinite(torch.stack([tensors[name] for name in names])).all()
        for name in names
        if not torch.isfinite(tensors[name]).all()
    ]
    return min(bad, key=list(tensors).index, default=None)


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
