"""Which network an adapter was trained on: one short name that a checkpoint in the host and the same model in
diffusers' layout agree on.

sha256 over the names and shapes of all attention projections, the layers that an adapter changes, and over a few rows
of some of them. Values are rounded to float16 and then to bfloat16, so that a model counts as itself whether it is
stored or loaded in float32, in float16, or in bfloat16 made from float16. Half a megabyte is read, so it takes no time;
a LoRA that was patched in shows: it changes every row.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

KIND = "n1"
LAYERS, ROWS = 48, 4


def sampled_layers(names: Iterable[str]) -> list[str]:
    """The layers whose weights are looked at: about 48, spread evenly by an odd stride, so that q, k, v and output take
    their turns.
    """
    ordered = sorted(names)
    return ordered[:: max(1, len(ordered) // LAYERS) | 1]


def network_fingerprint(shapes: Mapping[str, Sequence[int]], weights: Mapping[str, Tensor]) -> str:
    """The fingerprint of a network from the ``shapes`` of its attention projections by module path, and the sampled
    ones' ``weights``.
    """
    digest = hashlib.sha256("\n".join(f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items())).encode())
    for name in sampled_layers(shapes):
        rows = weights[name][:ROWS].detach().cpu().to(torch.float16).to(torch.bfloat16)
        digest.update(rows.contiguous().view(torch.int16).numpy().tobytes())
    return f"{KIND}-{digest.hexdigest()}"


def surely_differ(left: str, right: str) -> bool:
    """Whether two fingerprints belong to different networks. Those of other kinds (earlier versions, unknown) cannot be
    compared.
    """
    return left != right and all(one.startswith(f"{KIND}-") for one in (left, right))
