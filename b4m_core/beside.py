"""What an adapter carries along, in an ordinary LoRA file and back.

Every up times a down, whosever it is, goes side by side into the factors of its layer, so that every loader reads their
sum; the facts say which ranks are whose. A LoHa or LoKr beside another update is written so too. Any other needs its
layer for itself, since a LoRA file has one algorithm a layer.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .carried import ALPHA, DOWN, UP, Carried
from .errors import B4MError
from .models.sdxl.modules import layer_key, original_key

_FIRST = {"loha": "hada_w1_a", "diff": "diff", "diff_b": "diff_b"}
_IN_KOHYAS_NAMES = {"lora_magnitude_vector": "dora_scale"}
_MOST_RANK = 256
Described = tuple[tuple[str, str, int], ...]


def described(pieces: Sequence[Carried]) -> Described:
    """(concept, layer, rank) of every piece, the rank 0 where it is no up times a down: the facts of a file."""
    return tuple((piece.concept, piece.key, len(piece.tensors[DOWN]) if piece.is_plain else 0) for piece in pieces)


def written(tensors: dict[str, Tensor], pieces: Sequence[Carried], strengths: Mapping[str, float]) -> dict[str, Tensor]:
    """``tensors``, a kohya LoRA of the split, with ``pieces`` in it.

    Raises :class:`B4MError` where a layer has an update that is no up times a down beside another one, or whose
    strength no file can say.
    """
    if not pieces:
        return tensors
    by_key: dict[str, list[Carried]] = defaultdict(list)
    for piece in settled(pieces, {name.partition(".")[0] for name in tensors}):
        by_key[piece.key].append(piece.scaled(strengths.get(piece.concept, 1.0)))
    found = dict(tensors)
    for layer, own in by_key.items():
        key = original_key(layer)
        weights = [piece for piece in own if piece.kind != "diff_b"]
        for piece in own:
            if piece.kind == "diff_b":
                _add_whole(found, key, piece, "diff_b")
        if weights and all(piece.is_plain for piece in weights):
            _add_factors(found, key, weights)
        elif weights:
            _add_alone(found, key, weights)
    return found


def settled(pieces: Sequence[Carried], split: Collection[str]) -> list[Carried]:
    """The pieces as they go into a file whose ``split`` has layers of these kohya names: see :func:`as_factors`."""
    counted = Counter(piece.key for piece in pieces if piece.kind != "diff_b")
    return [
        as_factors(piece) if counted[piece.key] > 1 or original_key(piece.key) in split else piece for piece in pieces
    ]


def as_factors(piece: Carried) -> Carried:
    """A LoHa or a LoKr as an up times a down, exactly, where its rank as such is no more than :data:`_MOST_RANK`; any
    other piece as it is.

    (a b) * (c d) has the rank products of the columns of a and c, and of the rows of b and d; w1 x (a b), Kronecker's
    product, is (w1 x a) (1 x b).
    """
    known = {name: tensor.float() for name, tensor in piece.tensors.items()}
    if piece.is_dora or any(name in known for name in ("hada_t1", "lokr_t2")):
        return piece
    if piece.kind == "loha":
        a, b, c, d = (known[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
        up, down = (
            torch.einsum("m i, m j -> m i j", a, c).flatten(1),
            torch.einsum("i n, j n -> i j n", b, d).flatten(0, 1),
        )
        scale = float(known.get(ALPHA, len(b))) / len(b)
    elif piece.kind == "lokr" and "lokr_w2_a" in known:
        first = known["lokr_w1"] if "lokr_w1" in known else known["lokr_w1_a"] @ known["lokr_w1_b"]
        a, b = known["lokr_w2_a"], known["lokr_w2_b"]
        up, down = torch.kron(first, a), torch.kron(torch.eye(first.shape[1]), b)
        scale = float(known.get(ALPHA, len(b))) / len(b)
    else:
        return piece
    if len(down) > _MOST_RANK:
        return piece
    return replace(piece, tensors={UP: up * scale, DOWN: down})


def _add_factors(found: dict[str, Tensor], key: str, pieces: Sequence[Carried]) -> None:
    """Put plain pieces, each an up (m, r) times a down (r, n), side by side into the factors of the layer ``key`` of a
    kohya LoRA, behind the split's own: (m, k) and (k, n), with the kernels of whichever has them.
    """
    factors = [piece.factors() for piece in pieces]
    dtype = functools.reduce(torch.promote_types, (piece.tensors[UP].dtype for piece in pieces))
    if f"{key}.{UP}" in found:
        own = found[f"{key}.{UP}"], found[f"{key}.{DOWN}"]
        factors.insert(0, (own[0].float(), own[1].float()))
        dtype = torch.promote_types(dtype, own[0].dtype)
    behind = next((down.shape[1:] for _, down in factors if down.ndim > 2), factors[0][1].shape[1:])
    up, down = torch.cat([up.flatten(1) for up, _ in factors], 1), torch.cat([down.flatten(1) for _, down in factors], 0)
    up, down = up.reshape(*up.shape, *(1 for _ in behind[1:])), down.reshape(-1, *behind)
    found[f"{key}.{UP}"], found[f"{key}.{DOWN}"] = (factor.detach().to(dtype).cpu().contiguous() for factor in (up, down))
    found[f"{key}.{ALPHA}"] = torch.tensor(float(len(down)))


def _add_alone(found: dict[str, Tensor], key: str, pieces: Sequence[Carried]) -> None:
    """Let the layer ``key`` hold one piece of another algorithm, its strength worked in, in place of a split that is 0
    there. Raises :class:`B4MError` where the layer has more than that, or where no file can say the piece.
    """
    split = found.get(f"{key}.{UP}")
    piece = pieces[0]
    if len(pieces) > 1 or (split is not None and split.any()):
        raise B4MError(
            f"One LoRA file cannot hold this adapter: layer {piece.key} has a {piece.kind} update ({piece.concept}) "
            "beside another one. Save content and style apart, or apply each with a B4M Apply LoRA of its own."
        )
    if piece.kind == "oft_r":
        raise B4MError(
            f"No LoRA file that others read can hold PEFT's OFT (layer {piece.key}): keep the file that it came from."
        )
    for part in (UP, DOWN, ALPHA):
        found.pop(f"{key}.{part}", None)
    if piece.strength != 1.0 and piece.depends_on_the_weight:
        raise B4MError(
            f"No LoRA file can hold a {'DoRA' if piece.is_dora else piece.kind} at strength {piece.strength:g} "
            f"(layer {piece.key}): save it at 1 and set the slider where it is applied."
        )
    first = {"lora": UP, "lokr": _first_of_lokr(piece)}.get(piece.kind) or _FIRST.get(piece.kind, "")
    for name, tensor in piece.tensors.items():
        if name == ALPHA and piece.kind == "oft":
            tensor = tensor / (len(piece.tensors["oft_blocks"]) * piece.tensors["oft_blocks"].shape[-1])
        value = tensor * piece.strength if name == first and piece.strength != 1.0 else tensor
        value = value.reshape(-1, 1) if name in _IN_KOHYAS_NAMES else value
        found[f"{key}.{_IN_KOHYAS_NAMES.get(name, name)}"] = value.contiguous()


def _first_of_lokr(piece: Carried) -> str:
    return "lokr_w1" if "lokr_w1" in piece.tensors else "lokr_w1_a"


def _add_whole(found: dict[str, Tensor], key: str, piece: Carried, part: str) -> None:
    name, value = f"{key}.{part}", piece.tensors[part] * piece.strength
    found[name] = (found[name] + value if name in found else value).contiguous()


def taken_out(tensors: dict[str, Tensor], facts: Described, shown: str) -> tuple[dict[str, Tensor], list[Carried]]:
    """The split's own tensors of a file, and the pieces in it that its facts describe, each of its concept."""
    if not facts:
        return tensors, []
    rest = dict(tensors)
    by_key: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for concept, layer, rank in facts:
        if layer_key(layer) != layer:
            raise B4MError(f"{shown} is damaged: its facts name a layer {layer[:80]!r} that no SDXL has.")
        by_key[layer].append((concept, rank))
    pieces = []
    for layer, own in by_key.items():
        key = original_key(layer)
        parts = {name.removeprefix(f"{key}."): rest.pop(name) for name in list(rest) if name.startswith(f"{key}.")}
        if all(rank for _, rank in own):
            up, down = parts.get(UP), parts.get(DOWN)
            total = sum(rank for _, rank in own)
            if up is None or down is None or up.ndim < 2 or not total <= up.shape[1] == len(down):
                raise B4MError(f"{shown} is damaged: layer {layer} lacks what its facts say; download it again.")
            first = up.shape[1] - total
            if first:
                rest |= {f"{key}.{UP}": up[:, :first], f"{key}.{DOWN}": down[:first]}
            for concept, rank in own:
                last = first + rank
                pieces.append(
                    Carried(concept, layer, {UP: up[:, first:last].contiguous(), DOWN: down[first:last].contiguous()})
                )
                first = last
            continue
        pieces += _whole_pieces(layer, own, parts)
    return rest, pieces


def _whole_pieces(layer: str, own: Sequence[tuple[str, int]], parts: Mapping[str, Tensor]) -> list[Carried]:
    bias = {name: tensor for name, tensor in parts.items() if name == "diff_b"}
    weight = {name: tensor for name, tensor in parts.items() if name != "diff_b"}
    if "oft_blocks" in weight and ALPHA in weight:
        rows = len(weight["oft_blocks"]) * weight["oft_blocks"].shape[-1]
        weight[ALPHA] = weight[ALPHA].float() * rows
    pieces = [Carried("", layer, part) for part in (weight, bias) if part]
    return [replace(piece, concept=concept) for piece, (concept, _) in zip(pieces, own, strict=False)]


__all__ = ["described", "taken_out", "written"]
