"""Attention over few tokens as one Triton kernel each way. An accelerator, never needed.

The libraries' kernels are made for long sequences: over some hundred tokens most of their time goes into starting, and
the backward pass of one attention is four launches. Here every program recomputes what it needs, so that nothing is
added up between programs and one launch does it all (FlashAttention-2, Dao 2023, algorithm 2, its loops over queries
and over keys side by side instead of nested).
"""
# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors
# fmt: off
# (what a kernel takes are pointers and numbers of the card, for which Python has no types)

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import launch

HEAD = 64  # every head of SDXL has 64 channels
LOG2_E = 1.4426950408889634


@triton.jit
def _load(x, at, inside, token, D: tl.constexpr):
    """(BLOCK, D): the head's channels of the tokens ``at``."""
    return tl.load(x + at[:, None] * token + tl.arange(0, D)[None, :], inside[:, None], 0.0)


@triton.jit
def _store(x, at, inside, token, value, D: tl.constexpr):
    tl.store(x + at[:, None] * token + tl.arange(0, D)[None, :], value, inside[:, None])


@triton.jit(do_not_specialize=["T", "S", "heads"])
def _attend(
    q, k, v, out, sums, q_token, k_token, v_token, T, S, heads, scale,
    D: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):
    block, row, head = tl.program_id(0), (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    at = block * BQ + tl.arange(0, BQ)
    queries = _load(q + row * T * q_token + head * D, at, at < T, q_token, D)
    most, total, mixed = tl.full([BQ], -1e30, tl.float32), tl.zeros([BQ], tl.float32), tl.zeros([BQ, D], tl.float32)
    for first in range(0, S, BK):
        of = first + tl.arange(0, BK)
        keys = _load(k + row * S * k_token + head * D, of, of < S, k_token, D)
        score = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        score = tl.where((of < S)[None, :], score, -1e30)
        higher = tl.maximum(most, tl.max(score, 1))
        p, fade = tl.exp2(score - higher[:, None]), tl.exp2(most - higher)
        values = _load(v + row * S * v_token + head * D, of, of < S, v_token, D)
        mixed = mixed * fade[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
        total, most = total * fade + tl.sum(p, 1), higher
    _store(out + row * T * heads * D + head * D, at, at < T, heads * D, mixed / total[:, None], D)
    tl.store(sums + tl.program_id(1) * T + at, most + tl.log2(total), at < T)


@triton.jit
def _delta(out, gradient):
    return tl.sum(out.to(tl.float32) * gradient.to(tl.float32), 1)


@triton.jit
def _into_queries(
    q, k, v, out, gradient, sums, into, block, q_token, k_token, v_token, token, into_token, T, S, scale, back,
    D: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):
    at = block * BQ + tl.arange(0, BQ)
    queries, through = _load(q, at, at < T, q_token, D), _load(gradient, at, at < T, token, D)
    delta, sum_ = _delta(_load(out, at, at < T, token, D), through), tl.load(sums + at, at < T, 0.0)
    found = tl.zeros([BQ, D], tl.float32)
    for first in range(0, S, BK):
        of = first + tl.arange(0, BK)
        keys, values = _load(k, of, of < S, k_token, D), _load(v, of, of < S, v_token, D)
        p = tl.exp2(tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale - sum_[:, None])
        p = tl.where((of < S)[None, :], p, 0.0)
        d = tl.dot(through, tl.trans(values), input_precision="ieee")
        found += tl.dot((p * (d - delta[:, None])).to(keys.dtype), keys, input_precision="ieee")
    _store(into, at, at < T, into_token, found * back, D)


@triton.jit
def _into_keys_and_values(
    q, k, v, out, gradient, sums, into_k, into_v, block, q_token, k_token, v_token, token, into_k_token, into_v_token, T, S, scale, back,
    D: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):
    of = block * BK + tl.arange(0, BK)
    keys, values = _load(k, of, of < S, k_token, D), _load(v, of, of < S, v_token, D)
    found_k, found_v = tl.zeros([BK, D], tl.float32), tl.zeros([BK, D], tl.float32)
    for first in range(0, T, BQ):
        at = first + tl.arange(0, BQ)
        queries, through = _load(q, at, at < T, q_token, D), _load(gradient, at, at < T, token, D)
        delta, sum_ = _delta(_load(out, at, at < T, token, D), through), tl.load(sums + at, at < T, 0.0)
        p = tl.exp2(tl.dot(keys, tl.trans(queries), input_precision="ieee") * scale - sum_[None, :])
        found_v += tl.dot(p.to(through.dtype), through, input_precision="ieee")  # gradients past T are 0
        d = tl.dot(values, tl.trans(through), input_precision="ieee")
        found_k += tl.dot((p * (d - delta[None, :])).to(queries.dtype), queries, input_precision="ieee")
    _store(into_k, of, of < S, into_k_token, found_k * back, D)
    _store(into_v, of, of < S, into_v_token, found_v, D)


@triton.jit(do_not_specialize=["T", "S", "heads"])
def _attend_backward(
    q, k, v, out, gradient, sums, into_q, into_k, into_v, q_token, k_token, v_token, into_q_token, into_k_token, into_v_token,
    T, S, heads, scale, back, D: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):
    block, row, head = tl.program_id(0), (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    token = heads * D
    q, k, v = q + row * T * q_token + head * D, k + row * S * k_token + head * D, v + row * S * v_token + head * D
    out, gradient = out + row * T * token + head * D, gradient + row * T * token + head * D
    sums += tl.program_id(1) * T
    blocks = tl.cdiv(T, BQ)
    if block < blocks:
        _into_queries(
            q, k, v, out, gradient, sums, into_q + row * T * into_q_token + head * D, block, q_token, k_token, v_token, token, into_q_token,
            T, S, scale, back, D, BQ, BK,
        )
    else:
        _into_keys_and_values(
            q, k, v, out, gradient, sums, into_k + row * S * into_k_token + head * D, into_v + row * S * into_v_token + head * D,
            block - blocks, q_token, k_token, v_token, token, into_k_token, into_v_token, T, S, scale, back, D, BQ, BK,
        )


def _strides(*parts: Tensor) -> list[int]:
    """From token to token, of parts whose rows follow one another."""
    return [part.view(-1, part.shape[-1]).stride(0) for part in parts]


HALVES = torch.bfloat16, torch.float16
MOST_KEYS = 256  # beyond that the library's kernels are faster, on an H100
FORWARD = {"BQ": 64, "BK": 64, "num_warps": 4, "num_stages": 2}
BACKWARD = {"BQ": 128, "BK": 64, "num_warps": 4, "num_stages": 2}


def attends(q: Tensor, k: Tensor, heads: int) -> bool:
    """Whether these kernels are the faster ones for q (R, T, C) and k (R, S, C)."""
    short = k.shape[1] <= MOST_KEYS and q.shape[2] == heads * HEAD
    return short and q.dtype in HALVES and torch.cuda.get_device_capability(q.device) >= (8, 0)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Attention of q (R, T, heads 64) over k and v (R, S, heads 64), tokens of any stride, row after row; and, for the
    backward pass, the logarithm to base 2 of every query's sum (R heads, T).
    """
    rows, T, width = q.shape
    out = q.new_empty(rows, T, width)
    sums = torch.empty(rows * heads, T, device=q.device, dtype=torch.float32)
    launch(
        _attend, (triton.cdiv(T, FORWARD["BQ"]), rows * heads), q, k, v, out, sums, *_strides(q, k, v), T, k.shape[1], heads,
        HEAD**-0.5 * LOG2_E, D=HEAD, **FORWARD,
    )
    return out, sums


def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, gradient: Tensor, heads: int, into: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Write the gradients of q, k and v, given that of ``out``, into the tensors ``into``, laid out as those may be."""
    rows, T, S = len(q), q.shape[1], k.shape[1]
    programs = triton.cdiv(T, BACKWARD["BQ"]) + triton.cdiv(S, BACKWARD["BK"])
    launch(
        _attend_backward, (programs, rows * heads), q, k, v, out, gradient.contiguous(), sums, *into, *_strides(q, k, v, *into), T, S,
        heads, HEAD**-0.5 * LOG2_E, HEAD**-0.5, D=HEAD, **BACKWARD,
    )
