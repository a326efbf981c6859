"""An adapter from another tool's file."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..adapter import Adapter
from ..carried import ALPHA, DOWN, UP, Carried, as_concept, in_words
from ..errors import B4MError
from ..metadata import FILE_DTYPES, Concept, Facts
from ..models.sdxl.modules import attention_path
from ..projection import PartlyLearnableProjection
from . import b_lora
from .published import PUBLISHED
from .table import Table, configuration_of, layer_of, table_of

USES = ("content", "style", "both")
"""What another tool's LoRA can be taken for."""
Factors = dict[str, tuple[Tensor, Tensor]]
"""Up (m, r), its scale worked in, and down (r, n) by module path, float32."""
_LONGEST_TRIGGER = 200


@dataclass(frozen=True)
class _File:
    """What was read: the attentions' factors, what is beside them, and what is to be said."""

    name: str
    table: Table
    factors: Factors
    beside: tuple[Carried, ...]
    dtype: str
    metadata: Mapping[str, str]


def read(path: Path, use_as: str = "content") -> Adapter:
    """The LoRA at ``path`` as a ``content``, as a ``style`` or as ``both``, with what it holds besides carried along.

    A B-LoRA has a block for each, and the published code's file its halves; of any other one, as both, each concept has
    half. Raises :class:`B4MError` for a file of another kind, saying which, and for a damaged one.
    """
    if use_as not in USES:
        raise B4MError(f"{path.name} cannot be used as {use_as!r}: choose one of {', '.join(USES)}.")
    with torch.inference_mode(False), torch.no_grad():
        file = _opened(path)
        if file.table.layout is PUBLISHED and (adapter := _halves(file, use_as)) is not None:
            return adapter
        if b_lora.is_one([key for key in file.table.layers if key.startswith("lora_unet_")]):
            return _block_by_block(file, use_as)
        return _free(file, use_as)


def _opened(path: Path) -> _File:
    """All of a file that counts. Raises :class:`B4MError` for one that is damaged or of another kind."""
    try:
        with safetensors.safe_open(path, "pt", device="cpu") as opened:
            metadata = dict(opened.metadata() or {})
            table = table_of(opened.keys(), path.name)
            factors, beside, dtypes = _layers(path, table, opened.get_tensor, metadata)
    except (SafetensorError, OSError) as error:
        raise B4MError(f"{path.name} is damaged or not a safetensors file ({error}): download it again.") from error
    kind = dtypes.pop() if len(dtypes) == 1 else "float32"
    return _File(path.name, table, factors, tuple(beside), kind if kind in FILE_DTYPES else "float32", metadata)


def _layers(
    path: Path, table: Table, tensor: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> tuple[Factors, list[Carried], set[str]]:
    """The layers of a table: factors of the attention projections that the split has a place for, up (m, k) and down (k,
    n) by module path; all other pieces; and the names of the factors' dtypes. ``tensor`` reads one by its key.
    """
    configuration = configuration_of(metadata, path)
    factors: Factors = {}
    beside: list[Carried] = []
    dtypes = set()
    for key in table.layers:
        try:
            pieces = layer_of(table, key, tensor, configuration)
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError, NotImplementedError) as error:
            raise B4MError(
                f"{path.name} is damaged: its layer {key} is one {str(error).splitlines()[0][:120]}; download it again."
            ) from error
        for piece in pieces:
            module = attention_path(key)
            if not piece.is_plain:
                beside.append(piece)
                continue
            up, down, dtype = _scaled(piece)
            if module is None:
                beside.append(replace(piece, tensors={UP: up.to(dtype), DOWN: down.to(dtype)}))
            else:
                dtypes.add(str(dtype).removeprefix("torch."))
                factors[module] = up.flatten(1), down.flatten(1)
    return factors, beside, dtypes


def _scaled(piece: Carried) -> tuple[Tensor, Tensor, torch.dtype]:
    """Up, alpha over rank worked in, and down, float32; and the dtype that says them exactly."""
    up, down = piece.tensors[UP], piece.tensors[DOWN]
    scale = float(piece.tensors.get(ALPHA, len(down))) / len(down)
    exact = scale == 0 or math.frexp(abs(scale))[0] == 0.5  # a power of two is no rounding
    dtype = torch.promote_types(up.dtype, down.dtype) if exact and up.dtype.itemsize > 1 else torch.float32
    return up.float() * scale, down.float(), dtype


def _facts(file: _File, role: str, rank: int) -> Facts:
    """What its header lets us say of it."""
    trigger = " ".join(file.metadata.get("modelspec.trigger_phrase", "").split())[:_LONGEST_TRIGGER]
    concept = Concept(trigger)
    known = file.table.layout.title
    return Facts(
        role=role,
        rank=max(rank, 1),
        split="free",
        base_name=" ".join(file.metadata.get("ss_sd_model_name", "").split())[:_LONGEST_TRIGGER],
        content=concept if role != "style" else None,
        style=concept if role != "content" else None,
        file_dtype=file.dtype,
        origin=f"{known} ({file.name[:_LONGEST_TRIGGER]})",
    )


def _adapter(
    file: _File, role: str, content: Factors, style: Factors, beside: tuple[Carried, ...], notes: list[str]
) -> Adapter:
    """A free adapter of both sides' factors."""
    rank = max((len(down) for side in (content, style) for _, down in side.values()), default=0)
    layers = {}
    for name in sorted({*content, *style}):
        m, n = _shape(content.get(name) or style[name])
        a, d = _padded(content.get(name), m, n, rank)
        b, c = _padded(style.get(name), m, n, rank)
        layers[name] = PartlyLearnableProjection.of_parts(name, {"A": a, "B": b, "C": c, "D": d}, split="free")
    if file.table.left_out:
        notes.append(
            f"{len(file.table.left_out)} tensors of {file.name} are of no layer of an SDXL and were left out, "
            f"for example {file.table.left_out[0][:80]!r}."
        )
    if beside:
        notes.append(f"Carried along beside the split: {in_words(beside)}.")
    return Adapter(layers, _facts(file, role, rank), carried=beside, notes=tuple(notes))


def _shape(factors: tuple[Tensor, Tensor]) -> tuple[int, int]:
    return factors[0].shape[0], factors[1].shape[1]


def _padded(factors: tuple[Tensor, Tensor] | None, m: int, n: int, rank: int) -> tuple[Tensor, Tensor]:
    """Up (m, rank) and down (rank, n); what is not there is 0 and takes no memory until it is changed."""
    if factors is None:
        return torch.zeros(1, 1).expand(m, rank), torch.zeros(1, 1).expand(rank, n)
    up, down = factors
    if len(down) == rank:
        return up, down
    wide, long = torch.zeros(m, rank), torch.zeros(rank, n)
    wide[:, : up.shape[1]], long[: len(down)] = up, down
    return wide, long


def _free(file: _File, use_as: str) -> Adapter:
    """The file as a free content or a free style; as both, each has half of every update."""
    if use_as == "both":
        halved: Factors = {name: (up / 2, down) for name, (up, down) in file.factors.items()}
        beside = tuple(
            piece.scaled(0.5) for concept in ("content", "style") for piece in as_concept(file.beside, concept)
        )
        note = "Content and style each have half of it: nothing in this file tells them apart."
        return _adapter(file, "together", halved, halved, beside, [note])
    mine: Factors = file.factors
    none: Factors = {}
    content, style = (mine, none) if use_as == "content" else (none, mine)
    return _adapter(file, use_as, content, style, as_concept(file.beside, use_as), [])


def _block_by_block(file: _File, use_as: str) -> Adapter:
    """A B-LoRA: each block is its own concept's; what stands outside of both goes with either."""
    sides: dict[str, Factors] = {"content": {}, "style": {}}
    for name, factors in file.factors.items():
        sides[b_lora.concept_of("lora_unet_" + name.replace(".", "_"))][name] = factors
    wanted = ("content", "style") if use_as == "both" else (use_as,)
    beside, other = [], 0
    for piece in file.beside:
        concept = b_lora.concept_of(piece.key) or wanted[0]
        if concept in wanted:
            beside.append(replace(piece, concept=concept))
        else:
            other += 1
    left = {concept: side for concept, side in sides.items() if concept not in wanted}
    unused = sum(len(side) for side in left.values()) + other
    if unused and not any(sides[concept] for concept in wanted) and not beside:
        (there,) = left
        raise B4MError(f"{file.name} is a B-LoRA of a {there} alone: choose use as = {there}.")
    notes = [f"The {', '.join(left)} block of this B-LoRA ({unused} layers) was left out: choose use as = both for it."]
    sides |= {concept: {} for concept in left}
    role = "together" if use_as == "both" else use_as
    return _adapter(file, role, sides["content"], sides["style"], tuple(beside), notes if unused else [])


def _halves(file: _File, use_as: str) -> Adapter | None:
    """A file of the published code: A, B, C and D as they lie in it; None where it is no such file after all."""
    ranks = {len(down) for _, down in file.factors.values()}
    if len(ranks) != 1 or file.beside:
        return None
    layers = {}
    for name, (up, down) in file.factors.items():
        (m, n), rank = _shape((up, down)), len(down)
        if m < 2 or n < 2:
            return None
        parts = {"A": up[: m // 2], "B": up[m // 2 :], "C": down[:, : n // 2], "D": down[:, n // 2 :]}
        layers[name] = PartlyLearnableProjection.of_parts(name, parts, start="published", split="halves")
    role = "together" if use_as == "both" else use_as
    facts = replace(_facts(file, role, rank), split="halves", start="published", stored_basis=True)
    return Adapter(layers, facts)
