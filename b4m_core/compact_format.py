"""Compact files: what an adapter was taught and nothing else, D of a content, B of a style (A and D, B and C in the
free split), or all.

An eighth to a half of the LoRA of the same adapter; as large in the free split. Tensors: ``<module path>.D`` and so on,
and ``shapes``, int32 (layers, 2), the m and n of every layer in the order of their names, convolutions as matrices.
What is frozen is drawn again (basis.py). ComfyUI's own LoRA loader would report success and paint without it, as would
others, so such a file ends in .b4m, which no LoRA loader lists.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .adapter import Adapter, fresh_layer
from .bounds import bytes_held, require_possible
from .errors import B4MError
from .finite import numbers
from .metadata import Facts
from .models import family_named
from .projection import PartlyLearnableProjection

SHAPES, COMPACT_ENDING = "shapes", ".b4m"


def taught_parts(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of a compact file, CPU, in the adapter's file dtype."""
    dtype = getattr(torch, adapter.facts.file_dtype)
    tensors = {SHAPES: torch.tensor(list(adapter.shapes().values()), dtype=torch.int32)}
    for name, projection in adapter.layers.items():
        for part in adapter.facts.taught:
            tensors[f"{name}.{part}"] = getattr(projection, part).detach().cpu().to(dtype).contiguous()
    return tensors


def layers_of(tensors: Mapping[str, Tensor], facts: Facts, shown: str) -> dict[str, PartlyLearnableProjection]:
    """The projections of a compact file; a part that it does not hold is 0. Raises :class:`B4MError` for tensors that
    do not fit.
    """
    names = sorted({key.rpartition(".")[0] for key in tensors if key != SHAPES})
    shapes = tensors.get(SHAPES, torch.empty(0))
    if shapes.dtype != torch.int32 or shapes.shape != (len(names), 2):
        raise B4MError(f"{shown} is damaged: the sizes of its layers are missing or wrong; download or train it again.")
    layers, family = {}, family_named(facts.family)
    sizes = {name: (m, n) for name, (m, n) in zip(names, shapes.tolist(), strict=True)}
    require_possible(sizes, facts.rank, family.largest, bytes_held(tensors), shown)
    for name, (out_features, in_features) in sizes.items():
        family.lora_key(name)  # a foreign layer is refused before its basis is drawn
        _require_learned(tensors, name, (out_features, in_features), facts, shown)
        layer = fresh_layer(facts, name, out_features, in_features)
        with torch.no_grad():
            getattr(layer, facts.split_row.content[0]).zero_()
            for part in facts.taught:
                getattr(layer, part).copy_(tensors[f"{name}.{part}"])
        layers[name] = layer
    return layers


def _require_learned(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], facts: Facts, shown: str
) -> None:
    """Raise :class:`B4MError` unless the file holds what the layer was taught, in the size that it declares."""
    for part in facts.taught:
        learned = numbers(tensors, f"{name}.{part}", shown)
        if learned.shape != facts.split_row.shape_of(part, *shape, facts.rank):
            raise B4MError(
                f"Layer {name} has a {part} of shape {tuple(learned.shape)}, which does not fit rank {facts.rank}."
            )
