"""What an adapter carries along beside its split: updates of one weight each that content and style have no parts for.

Feed-forward layers, convolutions and text encoders of somebody's LoRA, the norm of a DoRA, the whole updates of LoHa,
LoKr and OFT. A piece belongs to one concept and counts with that concept's strength; ``detail`` is what a merge takes
in besides a content and a style.

The tensors go by the names of LyCORIS (https://github.com/KohakuBlueleaf/LyCORIS, whose papers are arXiv 2108.06098 for
LoHa, 2309.14859 for LoKr, 2402.09353 for DoRA, 2306.07280 for OFT), the layers by ``lora_unet_`` and diffusers' path,
``lora_te1_`` and ``lora_te2_`` and transformers' path, with _ for every dot.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import B4MError

DETAIL = "detail"
UP, DOWN, ALPHA, DORA, MAGNITUDE = "lora_up.weight", "lora_down.weight", "alpha", "dora_scale", "lora_magnitude_vector"
ROTATION = "oft_r"
"""OFT of the inputs: the rotations themselves, (blocks, b, b)."""


@dataclass(frozen=True)
class Carried:
    """One update of one weight W (m, n) or (m, n, k, k), or of its bias.

    ``tensors``, by LyCORIS's names, on the CPU in the dtype of their file: ``lora_up.weight`` (m, r) and
    ``lora_down.weight`` (r, n), ``hada_*``, ``lokr_*``, ``oft_blocks`` (blocks, b, b), ``oft_r`` (the same for the
    inputs), ``diff`` (all of W) or ``diff_b`` (its bias); ``dora_scale`` or ``lora_magnitude_vector`` beside them makes
    it a DoRA. ``strength`` is a factor of its own, beside that of its ``concept``.
    """

    concept: str
    key: str
    tensors: Mapping[str, Tensor]
    strength: float = 1.0

    @property
    def kind(self) -> str:
        """Its algorithm: lora, loha, lokr, oft, oft_r, diff or diff_b."""
        names = self.tensors.keys()
        for kind, mark in (("lora", UP), ("loha", "hada_w1_a"), ("oft", "oft_blocks"), (ROTATION, ROTATION)):
            if mark in names:
                return kind
        if any(name.startswith("lokr_") for name in names):
            return "lokr"
        return "diff_b" if "diff_b" in names else "diff"

    @property
    def is_dora(self) -> bool:
        """Whether the rows or columns of the weight get norms of their own."""
        return DORA in self.tensors or MAGNITUDE in self.tensors

    @property
    def depends_on_the_weight(self) -> bool:
        """Whether it is no fixed sum: what is added depends on what it is added to."""
        return self.is_dora or self.kind in ("oft", ROTATION)

    @property
    def is_plain(self) -> bool:
        """Whether it is an up times a down and nothing else."""
        return self.kind == "lora" and not self.is_dora

    @property
    def of_text_encoder(self) -> bool:
        """Whether its weight is a text encoder's."""
        return self.key.startswith("lora_te")

    def scaled(self, strength: float) -> "Carried":
        """The same with another factor of its own."""
        return dataclasses.replace(self, strength=self.strength * strength)

    def to(self, dtype: torch.dtype) -> "Carried":
        """The same on the CPU in another dtype."""
        return dataclasses.replace(self, tensors={name: tensor.detach().cpu().to(dtype) for name, tensor in self.tensors.items()})

    def factors(self) -> tuple[Tensor, Tensor]:
        """up (m, r, ...) and down (r, n, ...) of a plain one, float32, with its alpha and strength in them."""
        up, down = self.tensors[UP].float(), self.tensors[DOWN].float()
        return up * (self._scale(down.shape[0]) * self.strength), down

    def size(self) -> tuple[int, int]:
        """(rows, numbers in a row) of the weights that it fits; 0 stands for any number.

        Raises ValueError for tensors that are no such update.
        """
        return _SIZES[self.kind](self.tensors)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it is for a weight (or, of diff_b, a bias) of this shape."""
        rows, row = self.size()
        numbers = 1
        for count in shape[1:]:
            numbers *= count
        return rows in (0, shape[0]) and row in (0, numbers) and self._norms_fit(shape)

    def _norms_fit(self, shape: Sequence[int]) -> bool:
        norms = self.tensors.get(DORA, self.tensors.get(MAGNITUDE))
        if norms is None:
            return True
        if self._by_rows(norms, shape[0]):
            return norms.numel() == shape[0]
        return norms.ndim > 1 and norms.shape[0] == 1 and len(shape) > 1 and norms.numel() == shape[1]

    def _by_rows(self, norms: Tensor, rows: int) -> bool:
        """Whether there is a norm for each row of the weight; otherwise for each column."""
        return MAGNITUDE in self.tensors or (norms.ndim > 0 and norms.shape[0] == rows)

    def added(self, weight: Tensor) -> Tensor:
        """What is added to ``weight`` at full strength of its concept, in that dtype, finer than half precision."""
        if self.kind == "oft":
            update = _rotated_outputs(weight, self.tensors) - weight
        elif self.kind == ROTATION:
            update = _rotated_inputs(weight, self.tensors[ROTATION].to(weight)) - weight
        else:
            update = self._product(weight)
        if self.is_dora:
            whole = weight + update
            update = whole * (self._norms(whole)) - weight
        return self.strength * update

    def _product(self, weight: Tensor) -> Tensor:
        known = {name: tensor.to(weight) for name, tensor in self.tensors.items()}
        if self.kind in ("diff", "diff_b"):
            return known[self.kind].reshape(weight.shape)
        product, rank = {"lora": _lora, "loha": _loha, "lokr": _lokr}[self.kind](known)
        return product.reshape(weight.shape) * self._scale(rank)

    def _scale(self, rank: int) -> float:
        """alpha / rank; 1 where there is no alpha, or no rank as in a LoKr of two whole factors."""
        alpha = self.tensors.get(ALPHA)
        return 1.0 if alpha is None or not rank else float(alpha) / rank

    def _norms(self, whole: Tensor) -> Tensor:
        """The norms that are wanted over those that ``whole`` has, by row or by column."""
        others = (1,) * (whole.ndim - 1)
        wanted = next(self.tensors[name] for name in (MAGNITUDE, DORA) if name in self.tensors).to(whole)
        if self._by_rows(wanted, len(whole)):
            return wanted.reshape(-1, *others) / _not_zero(whole.flatten(1).norm(dim=1)).reshape(-1, *others)
        have = whole.transpose(0, 1).flatten(1).norm(dim=1)
        return wanted.reshape(1, -1, *others[1:]) / _not_zero(have).reshape(1, -1, *others[1:])

    def digest(self) -> bytes:
        """sha256 of all that it says."""
        digest = hashlib.sha256(f"{self.concept}|{self.key}|{self.strength!r}".encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.digest()


def sum_added(pieces: Sequence[Carried], weight: Tensor, strengths: Mapping[str, float]) -> Tensor:
    """What all ``pieces`` of one weight add to it, each as if it were alone, with the ``strengths`` of their
    concepts.
    """
    total = torch.zeros_like(weight)
    for piece in pieces:
        strength = strengths.get(piece.concept, 1.0)
        if strength:
            total += strength * piece.added(weight)
    return total


def add_to(
    weights: Mapping[str, Tensor], pieces: Sequence[Carried], strengths: Mapping[str, float], shown: str
) -> None:
    """Add ``pieces`` to ``weights``, in place, which go by the names of layers with ``.weight`` or ``.bias`` behind.

    Raises :class:`B4MError` where one does not fit the model that people call ``shown``; then nothing has changed.
    """
    wanted: dict[str, list[Carried]] = {}
    for piece in pieces:
        wanted.setdefault(f"{piece.key}.{'bias' if piece.kind == 'diff_b' else 'weight'}", []).append(piece)
    for key, own in wanted.items():
        if key not in weights or not all(piece.fits(weights[key].shape) for piece in own):
            raise B4MError(
                f"The adapter's layer {own[0].key} does not fit {shown}: it was made for a model of another kind."
            )
    for key, own in wanted.items():
        weights[key] += sum_added(own, weights[key].float(), strengths).to(weights[key])


def of_concept(pieces: Sequence[Carried], *concepts: str) -> tuple[Carried, ...]:
    """Those that belong to one of ``concepts``."""
    return tuple(piece for piece in pieces if piece.concept in concepts)


def as_concept(pieces: Sequence[Carried], concept: str) -> tuple[Carried, ...]:
    """The same pieces, now of ``concept``."""
    return tuple(dataclasses.replace(piece, concept=concept) for piece in pieces)


def in_words(pieces: Sequence[Carried]) -> str:
    """What is carried along, for people: "120 feed-forward layers, 72 of text encoders (DoRA)"."""
    counted: dict[str, int] = {}
    for piece in pieces:
        counted[_place(piece)] = counted.get(_place(piece), 0) + 1
    kinds = sorted({_KINDS[piece.kind] + (" with norms (DoRA)" if piece.is_dora else "") for piece in pieces})
    return (
        ", ".join(f"{count} {place}" for place, count in counted.items()) + f" as {', '.join(kinds)}" if pieces else ""
    )


_KINDS = {
    "lora": "LoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "oft": "OFT",
    ROTATION: "OFT",
    "diff": "whole weights",
    "diff_b": "biases",
}


def _place(piece: Carried) -> str:
    """In which layers a piece is, in words for people."""
    if piece.key.endswith("embeddings_token_embedding"):
        return "tables of token embeddings (learned words)"
    if piece.of_text_encoder:
        return "of the text encoders"
    for part, name in (
        ("_attn", "attention layers"),
        ("_ff_", "feed-forward layers"),
        ("resnets", "convolution blocks"),
    ):
        if part in piece.key:
            return name
    return "other layers"


def _lora(known: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    up, down = known[UP].flatten(1), known[DOWN].flatten(1)
    return up @ down, len(down)


def _loha(known: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    def half(number: int) -> Tensor:
        a, b, core = (known.get(f"hada_{name}") for name in (f"w{number}_a", f"w{number}_b", f"t{number}"))
        assert a is not None and b is not None
        return a @ b if core is None else torch.einsum("i j ..., j n, i m -> m n ...", core, b, a)

    return half(1) * half(2), len(known["hada_w1_b"])


def _lokr(known: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """w1 x w2, Kronecker's product, (m, n) or with a kernel behind; and the rank of the last factor that is a product,
    0 where none is.
    """
    rank = 0
    factors = []
    for number in (1, 2):
        factor, core = known.get(f"lokr_w{number}"), known.get("lokr_t2") if number == 2 else None
        if factor is None:
            a, b = known[f"lokr_w{number}_a"], known[f"lokr_w{number}_b"]
            rank = len(b)
            factor = a @ b if core is None else torch.einsum("i j ..., j n, i m -> m n ...", core, b, a)
        factors.append(factor)
    first, second = (factor.contiguous() for factor in factors)
    return torch.kron(first.reshape(*first.shape[:2], *(1,) * (second.ndim - 2)), second), rank


def _rotated_outputs(weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """R W of OFT, R the Cayley transform of blocks on the diagonal, alpha the most that their norm may be."""
    blocks = tensors["oft_blocks"].to(weight)
    skew, one = blocks - blocks.transpose(1, 2), torch.eye(blocks.shape[1]).to(weight)
    most, norm = float(tensors.get(ALPHA, 0.0)), float(skew.norm())
    if 0 < most < norm:
        skew = skew * (most / norm)
    rotations: Tensor = (one + skew) @ torch.linalg.inv(one - skew)
    cut = weight.reshape(len(blocks), blocks.shape[1], -1)
    rotated = (rotations.transpose(1, 2) @ cut).reshape(weight.shape)
    return (
        rotated
        if "rescale" not in tensors
        else rotated * tensors["rescale"].to(weight).reshape(-1, *(1,) * (weight.ndim - 1))
    )


def _rotated_inputs(weight: Tensor, rotations: Tensor) -> Tensor:
    """W R' with R of blocks on the diagonal; one block is shared by all."""
    cut = weight.reshape(len(weight), -1, rotations.shape[1]).transpose(0, 1)  # (blocks, m, b)
    return (cut @ rotations.transpose(1, 2)).transpose(0, 1).reshape(weight.shape)


def _not_zero(norm: Tensor) -> Tensor:
    return norm + torch.finfo(norm.dtype).eps


def _size_of_lora(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    up, down = tensors[UP], tensors[DOWN]
    _require(up.ndim >= 2 and down.ndim >= 2 and up[0].numel() == len(down))
    return len(up), down[0].numel()


def _size_of_loha(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(m, numbers of a row) of the update. Raises ValueError where the two products have no common one."""
    sizes = set()
    for number in (1, 2):
        a, b, core = (tensors.get(f"hada_{name}") for name in (f"w{number}_a", f"w{number}_b", f"t{number}"))
        _require(a is not None and b is not None and a.ndim == b.ndim == 2)
        assert a is not None and b is not None
        sizes.add(_product_size(a, b, core))
    _require(len(sizes) == 1)
    return sizes.pop()


def _size_of_lokr(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(m, numbers of a row) of the update. Raises ValueError where a factor is missing or has other axes."""
    rows, row = 1, 1
    for number in (1, 2):
        factor = tensors.get(f"lokr_w{number}")
        if factor is None:
            a, b = tensors.get(f"lokr_w{number}_a"), tensors.get(f"lokr_w{number}_b")
            _require(a is not None and b is not None and a.ndim == b.ndim == 2)
            assert a is not None and b is not None
            more = _product_size(a, b, tensors.get("lokr_t2") if number == 2 else None)
        else:
            _require(factor.ndim == 2 or (number == 2 and factor.ndim > 2))
            more = len(factor), factor[0].numel()
        rows, row = rows * more[0], row * more[1]
    return rows, row


def _product_size(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[int, int]:
    if core is None:
        _require(a.shape[1] == len(b))
        return len(a), b.shape[1]
    _require(core.ndim > 2 and core.shape[:2] == (len(a), len(b)))
    return a.shape[1], b.shape[1] * core[0, 0].numel()


def _size_of_oft(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    blocks, rescale = tensors["oft_blocks"], tensors.get("rescale")
    _require(blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2])
    rows = len(blocks) * blocks.shape[1]
    _require(rescale is None or rescale.numel() == rows)
    return rows, 0


def _size_of_rotation(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    rotations = tensors[ROTATION]
    _require(rotations.ndim == 3 and rotations.shape[1] == rotations.shape[2])
    return 0, 0 if len(rotations) == 1 else len(rotations) * rotations.shape[1]


def _size_of_diff(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    diff = tensors["diff"]
    _require(diff.ndim >= 1)
    return len(diff), diff[0].numel()


def _size_of_bias(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    return tensors["diff_b"].numel(), 1


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError("factors of other shapes than their kind has")


_SIZES: dict[str, Callable[[Mapping[str, Tensor]], tuple[int, int]]] = {
    "lora": _size_of_lora,
    "loha": _size_of_loha,
    "lokr": _size_of_lokr,
    "oft": _size_of_oft,
    ROTATION: _size_of_rotation,
    "diff": _size_of_diff,
    "diff_b": _size_of_bias,
}
