"""The orthogonal break: the frozen parts A and C of a layer, the same numbers on every machine, for ever.

A and C are disjoint rows of one matrix Q (N, r) with orthonormal columns, N = m//2 + n//2 or, for full reach, m + n (Xu
et al., ACM TOG 44(2), 2025, "orthogonal prior"). Content and style are trained apart and fit together only because both
draw the same Q, so Q is a pure function of (seed, layer name, shape, rank). Random normal numbers and a QR would differ
in their last bits between processors and library versions. Ours is a cosine matrix (the orthonormal DCT-II) of which r
columns are chosen, whose rows are shuffled and whose row signs are flipped: orthonormal by construction, as
unstructured as the method needs, and made of integers (SHAKE-256, FIPS 202) and of correctly rounded constants alone.
"""

import functools
import hashlib
import math
from typing import Any

import numpy as np
import torch

from .errors import B4MError

REVISION = 1
MOST_FEATURES = 1 << 16  # a convolution of SDXL reads 23,040 numbers at most; a hostile file must not make us draw a huge basis
_DIGITS = 10**60
_PI = 3141592653589793238462643383279502884197169399375105820974944


def _cosine_of(angle: int) -> int:
    """cos(angle) in fixed point with 60 digits, by its Taylor series; ``angle`` is in the same fixed point and at most
    about 2.
    """
    term, total, order = _DIGITS, 0, 0
    while abs(term) > 1:
        total += term
        order += 2
        term = -term * angle // _DIGITS * angle // (_DIGITS * order * (order - 1))
    return total


@functools.lru_cache(maxsize=64)  # SDXL has layers of 27 sizes
def _cosine_table(order: int) -> np.ndarray:
    """sqrt(2 / order) cos(pi k / (2 order)) for k = 0 .. 4 order - 1, each correctly rounded to float32."""
    first = _cosine_of(_PI // (2 * order))
    values = [_DIGITS, first]
    while len(values) < 4 * order:
        values.append(2 * first * values[-1] // _DIGITS - values[-2])
    scale = math.isqrt(2 * _DIGITS * _DIGITS // order)
    return np.array([value * scale / _DIGITS**2 for value in values], dtype=np.float32)


def _stream(key: str, count: int) -> np.ndarray:
    """``count`` unsigned 64-bit integers drawn from ``key``."""
    return np.frombuffer(hashlib.shake_256(key.encode()).digest(8 * count), dtype="<u8")


def _rows_of_q(out_features: int, in_features: int, rank: int, which: slice, *, name: str, seed: int) -> np.ndarray:
    """Those rows of a layer's Q, float32 (rows, rank): first C's, then A's."""
    order = out_features // 2 + in_features // 2
    if order > MOST_FEATURES:
        raise B4MError(f"Layer {name} is far larger than any of SDXL's: this is not an SDXL adapter.")
    if not 0 < rank < order:
        raise B4MError(f"Rank {rank} does not fit layer {name}: choose a rank from 1 to {order - 1}.")
    key = f"b4m basis {REVISION}|{seed}|{name}|{out_features}x{in_features}|{rank}"
    rows = np.argsort(_stream(key + "|rows", order), kind="stable")[which]
    columns = 1 + np.argsort(_stream(key + "|columns", order - 1), kind="stable")[:rank]
    signs = np.where(_stream(key + "|signs", order)[which] & 1, np.float32(1), np.float32(-1))
    whole: Any = (
        np.uint32 if 2 * order * order < 1 << 32 else np.uint64
    )  # the narrower one divides several times faster
    angles: Any = (2 * rows + 1).astype(whole)[:, None] * columns.astype(whole)[None, :]
    angles -= angles // whole(4 * order) * whole(4 * order)
    q: np.ndarray = _cosine_table(order).take(angles.astype(np.intp))
    q *= signs[:, None]
    return q


def frozen_halves(
    out_features: int, in_features: int, rank: int, *, name: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The frozen parts of one layer in the published split, A of its upper half of rows, C of its left half of columns.

    Returns A (out_features // 2, rank) and C (rank, in_features // 2), float32 on the CPU: disjoint rows of one Q whose
    columns are orthonormal, so that A'A + CC' is the identity. Raises :class:`B4MError` when the rank is too high for
    the layer.
    """
    q, rows_c = _rows_of_q(out_features, in_features, rank, slice(None), name=name, seed=seed), in_features // 2
    return torch.from_numpy(q[rows_c:].copy()), torch.from_numpy(q[:rows_c].T.copy())


def frozen_whole(
    out_features: int, in_features: int, rank: int, *, name: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The frozen parts for full reach, A (out_features, rank) and C (rank, in_features): the halves of a layer twice as
    large.
    """
    return frozen_halves(2 * out_features, 2 * in_features, rank, name=name, seed=seed)


def orthogonal_readers(
    out_features: int, in_features: int, rank: int, *, name: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What content and style read at first in the free split, D and C (rank, in_features): disjoint rows of one C of
    full reach.
    """
    most = (out_features + in_features - 1) // 2
    if not 0 < rank <= most:
        raise B4MError(f"Rank {rank} does not fit layer {name}: choose a rank from 1 to {most}.")
    readers = _rows_of_q(2 * out_features, 2 * in_features, 2 * rank, slice(in_features), name=name, seed=seed).T
    return torch.from_numpy(readers[:rank].copy()), torch.from_numpy(readers[rank:].copy())
