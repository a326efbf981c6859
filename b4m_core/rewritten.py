"""Files of ours that another program wrote again: cast, scaled, resized. Their checksum no longer fits, and nothing is
damaged.

Every other writer orders the entries of the header in another way than we do, so a file in our order whose checksum is
wrong was damaged, and one in theirs was rewritten (container.py). What is in it counts: where the parts still lie where
they lay, they are read with both sliders; else the file is read like another tool's.
"""

import dataclasses
import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from .adapter import fresh_layer
from .finite import numbers
from .layouts import ALPHA, DOWN, UP
from .metadata import FILE_DTYPES, Facts
from .models import family_named
from .projection import PartlyLearnableProjection

NEAR = 0.01
"""How far a frozen part may lie from the one that we draw, relative to its largest number: bfloat16 rounds by 0.004."""


def in_our_form(tensors: Mapping[str, Tensor], facts: Facts, shown: str) -> tuple[dict[str, Tensor], Facts] | None:
    """The tensors and the facts of a kohya LoRA whose parts still lie where they lay, its alpha worked in; None where
    they do not.

    Frozen parts that are no longer ours belong to the concept that they are multiplied with, where the split is a sum.
    """
    keys = [key.removesuffix(UP) for key in tensors if key.endswith(UP)]
    if facts.compact or facts.carried or facts.stored_basis or not _complete(tensors, keys):
        return None
    found: dict[str, Tensor] = {}
    for key in keys:
        up, down = numbers(tensors, key + UP, shown), numbers(tensors, key + DOWN, shown)
        alpha = float(tensors.get(key + ALPHA, torch.tensor(float(len(down)))))
        found[key + UP], found[key + DOWN] = up.float() * (alpha / max(len(down), 1)), down.float()
        found[key + ALPHA] = torch.tensor(float(len(down)))
    ranks = {len(found[key + DOWN]) for key in keys} | {found[key + UP].shape[1] for key in keys}
    if len(ranks) != 1 or not ranks <= _ranks(facts):
        return None
    facts = dataclasses.replace(facts, file_dtype=_dtype(tensors, keys))
    if facts.split_row.frozen and not all(_is_drawn(key, found, facts) for key in keys):
        if facts.split_row.cut:
            return None
        facts = dataclasses.replace(facts, split="free", basis="")
    return found, facts


def _complete(tensors: Mapping[str, Tensor], keys: list[str]) -> bool:
    """Whether there are whole layers and nothing else."""
    named = {key + part for key in keys for part in (UP, DOWN)}
    shapes = all(tensors[name].ndim in (2, 4) for name in named & set(tensors))
    return bool(keys) and named <= set(tensors) and shapes and set(tensors) <= named | {key + ALPHA for key in keys}


def _ranks(facts: Facts) -> set[int]:
    """The ranks that factors with these facts may have."""
    row = facts.split_row
    alone = facts.role in ("content", "style") and not row.frozen and not row.cut
    return {facts.factor_rank(), *({facts.factor_rank(facts.role)} if alone else ())}


def _dtype(tensors: Mapping[str, Tensor], keys: list[str]) -> str:
    """The dtype that the numbers are in now; float32 for any that our files do not have."""
    dtype = functools.reduce(torch.promote_types, (tensors[key + part].dtype for key in keys for part in (UP, DOWN)))
    name = str(dtype).removeprefix("torch.")
    return name if name in FILE_DTYPES else "float32"


def _is_drawn(key: str, tensors: Mapping[str, Tensor], facts: Facts) -> bool:
    up, down = tensors[key + UP].flatten(1), tensors[key + DOWN].flatten(1)
    layer = fresh_layer(facts, family_named(facts.family).module_path(key), len(up), down.shape[1])
    return frozen_in(layer, up, down) is not None


def frozen_in(layer: PartlyLearnableProjection, up: Tensor, down: Tensor) -> dict[str, Tensor] | None:
    """The frozen parts as factors of ``layer`` say them, where they are those that it has but for rounding."""
    found = {}
    for place in layer.written_places():
        if not place.concept:
            mine, first = getattr(layer, place.part), place.ranks[-1]
            row, column = (place.offset, first) if place.up else (first, place.offset)
            part = (up if place.up else down)[row : row + mine.shape[0], column : column + mine.shape[1]].float()
            if part.shape != mine.shape or float((part - mine).abs().max()) > NEAR * float(mine.abs().max()):
                return None
            found[place.part] = part
    return found
