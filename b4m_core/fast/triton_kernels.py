"""Memory-bound steps as one Triton kernel each, on activations whose channels lie together (rows, h w, C). An accelerator, never needed."""
# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors
# fmt: off
# (what a kernel takes are pointers and numbers of the card, for which Python has no types)

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _geglu(both, out, w, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < w
    h = tl.load(both + row * 2 * w + column, mask).to(tl.float32)
    g = tl.load(both + row * 2 * w + w + column, mask).to(tl.float32)
    tl.store(out + row * w + column, h * g * 0.5 * (1 + tl.erf(g * 0.7071067811865476)), mask)


@triton.jit
def _geglu_backward(both, gradient, into, w, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < w
    h = tl.load(both + row * 2 * w + column, mask).to(tl.float32)
    g = tl.load(both + row * 2 * w + w + column, mask).to(tl.float32)
    d = tl.load(gradient + row * w + column, mask).to(tl.float32)
    cdf = 0.5 * (1 + tl.erf(g * 0.7071067811865476))
    tl.store(into + row * 2 * w + column, d * g * cdf, mask)
    tl.store(into + row * 2 * w + w + column, d * h * (cdf + g * 0.3989422804014327 * tl.exp(-0.5 * g * g)), mask)


SPAN = 512  # both of SDXL's feed-forward widths are multiples of it


def geglu(both: Tensor) -> Tensor:
    """h gelu(g) of [h, g] (..., 2 w)."""
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    _geglu[(out.numel() // width, triton.cdiv(width, SPAN))](both, out, width, BLOCK=SPAN)
    return out


def geglu_backward(both: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of [h, g]."""
    into, gradient, width = torch.empty_like(both), gradient.contiguous(), gradient.shape[-1]
    _geglu_backward[(gradient.numel() // width, triton.cdiv(width, SPAN))](both, gradient, into, width, BLOCK=SPAN)
    return into


@triton.jit
def _add_residual(x, y, bias, out, total, C, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = first + tl.arange(0, BLOCK)
    mask = at < total
    c = ((first % C).to(tl.int32) + tl.arange(0, BLOCK)) % C
    value = tl.load(x + at, mask).to(tl.float32) + tl.load(y + at, mask).to(tl.float32)
    tl.store(out + at, value + tl.load(bias + c, mask).to(tl.float32), mask)


def add_residual(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """x + y + bias for x and y (R, C, h, w) channels-last, bias (C,)."""
    out, y = torch.empty_like(x), y.contiguous(memory_format=torch.channels_last)
    _add_residual[(triton.cdiv(x.numel(), 2048),)](x, y, bias, out, x.numel(), x.shape[1], BLOCK=2048, num_warps=8)
    return out


@triton.jit
def _side_by_side(first, second, third, out, stride, m, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < m
    place = out + row * stride + column
    tl.store(place, tl.load(first + row * m + column, mask), mask)
    tl.store(place + m, tl.load(second + row * m + column, mask), mask)
    tl.store(place + 2 * m, tl.load(third + row * m + column, mask), mask)


def side_by_side(parts: tuple[Tensor, Tensor, Tensor], out: Tensor) -> None:
    """Three (R, T, m) into out (R T, 3 m), whose rows may lie apart."""
    first, second, third = (part.contiguous() for part in parts)
    m = first.shape[-1]
    block = min(1024, triton.next_power_of_2(m))
    _side_by_side[(len(out), triton.cdiv(m, block))](first, second, third, out, out.stride(0), m, BLOCK=block)


@triton.jit
def _add_norm(x, out, weight, bias, total, y, mean, rstd, out_stride, C, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < C
    value = tl.load(x + row * C + at, mask, 0.0).to(tl.float32)
    if ADD:
        value += tl.load(out + row * out_stride + at, mask, 0.0).to(tl.float32)
        value = value.to(total.dtype.element_ty)
        tl.store(total + row * C + at, value, mask)
        value = value.to(tl.float32)
    middle = tl.sum(value, 0) / C
    centred = tl.where(mask, value - middle, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / C + eps)
    tl.store(mean + row, middle)
    tl.store(rstd + row, scale)
    w = tl.load(weight + at, mask, 0.0).to(tl.float32)
    b = tl.load(bias + at, mask, 0.0).to(tl.float32)
    tl.store(y + row * C + at, centred * scale * w + b, mask)


@triton.jit
def _add_norm_backward(x, gradient, through, weight, mean, rstd, into, C, THROUGH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < C
    value = tl.load(x + row * C + at, mask, 0.0).to(tl.float32)
    d = tl.load(gradient + row * C + at, mask, 0.0).to(tl.float32) * tl.load(weight + at, mask, 0.0).to(tl.float32)
    scale = tl.load(rstd + row)
    hat = tl.where(mask, (value - tl.load(mean + row)) * scale, 0.0)
    result = scale * (d - tl.sum(d, 0) / C - hat * (tl.sum(d * hat, 0) / C))
    if THROUGH:
        result += tl.load(through + row * C + at, mask, 0.0).to(tl.float32)
    tl.store(into + row * C + at, result, mask)


def add_norm(x: Tensor, out: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x + out (x itself without ``out``), its layer norm, mean and 1/deviation; x (..., C) contiguous, ``out`` in rows of one stride."""
    C = x.shape[-1]
    count = x.numel() // C
    y, total = torch.empty_like(x), x if out is None else torch.empty_like(x)
    mean, rstd = (torch.empty(count, device=x.device, dtype=torch.float32) for _ in range(2))
    stride = 0 if out is None else out.stride(-2)
    block = triton.next_power_of_2(C)
    _add_norm[(count,)](x, x if out is None else out, weight, bias, total, y, mean, rstd, stride, C, eps, ADD=out is not None, BLOCK=block)
    return total, y, mean, rstd


def add_norm_backward(x: Tensor, gradient: Tensor, through: Tensor | None, weight: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of x + out, given that of the norm and, passing by it, ``through``."""
    into, C = torch.empty_like(x), x.shape[-1]
    gradient = gradient.contiguous()
    through = None if through is None else through.contiguous()
    _add_norm_backward[(x.numel() // C,)](
        x, gradient, gradient if through is None else through, weight, mean, rstd, into, C, THROUGH=through is not None,
        BLOCK=triton.next_power_of_2(C),
    )
    return into


@triton.jit(do_not_specialize=["HW"])
def _channel_sums(x, shift, sums, HW, C, CHUNK, SHIFT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    row, piece, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    extra = tl.zeros([BLOCK], tl.float32)
    if SHIFT:
        extra += tl.load(shift + row * C + c, inside, 0.0).to(tl.float32)
    first, second = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, CHUNK, ROWS):
        p = piece * CHUNK + start + tl.arange(0, ROWS)
        mask = (p < HW)[:, None] & inside[None, :]
        value = tl.load(x + (row * HW + p[:, None]) * C + c[None, :], mask, 0.0).to(tl.float32)
        value = tl.where(mask, value + extra[None, :], 0.0)
        first += value
        second += value * value
    place = sums + ((row * tl.num_programs(1) + piece) * 2) * C + c
    tl.store(place, tl.sum(first, 0), inside)
    tl.store(place + C, tl.sum(second, 0), inside)


@triton.jit(do_not_specialize=["pieces", "cg"])
def _group_sums(sums, out, pieces, C, cg, G, PIECES: tl.constexpr, WIDTH: tl.constexpr):
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    p, c = tl.arange(0, PIECES), tl.arange(0, WIDTH)
    mask = (p < pieces)[:, None] & (c < cg)[None, :]
    place = sums + ((row * pieces + p[:, None]) * 2) * C + group * cg + c[None, :]
    first = tl.sum(tl.sum(tl.load(place, mask, 0.0), 1), 0)
    second = tl.sum(tl.sum(tl.load(place + C, mask, 0.0), 1), 0)
    tl.store(out + (row * G + group) * 2, first)
    tl.store(out + (row * G + group) * 2 + 1, second)


@triton.jit(do_not_specialize=["HW", "cg"])
def _norm_apply(
    x, shift, stats, weight, bias, y, HW, C, cg, G, eps, SHIFT: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    row, piece, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    place = stats + (row * G + c // cg) * 2
    count = HW * cg
    mean = tl.load(place, inside, 0.0) / count
    variance = tl.load(place + 1, inside, 0.0) / count - mean * mean
    scale = 1 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    w = tl.load(weight + c, inside, 0.0).to(tl.float32) * scale
    b = tl.load(bias + c, inside, 0.0).to(tl.float32) - mean * w
    if SHIFT:
        b += tl.load(shift + row * C + c, inside, 0.0).to(tl.float32) * w
    p = piece * ROWS + tl.arange(0, ROWS)
    mask = (p < HW)[:, None] & inside[None, :]
    at = (row * HW + p[:, None]) * C + c[None, :]
    z = tl.load(x + at, mask, 0.0).to(tl.float32) * w[None, :] + b[None, :]
    if SILU:
        z = z / (1 + tl.exp(-z))
    tl.store(y + at, z, mask)


@triton.jit
def _backward_values(
    x, shift, stats, weight, bias, gradient, row, c, inside, at, mask, HW, C, cg, G, eps, SHIFT: tl.constexpr, SILU: tl.constexpr,
):
    place = stats + (row * G + c // cg) * 2
    count = HW * cg
    mean = tl.load(place, inside, 0.0) / count
    variance = tl.load(place + 1, inside, 0.0) / count - mean * mean
    scale = 1 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    w = tl.load(weight + c, inside, 0.0).to(tl.float32)
    b = tl.load(bias + c, inside, 0.0).to(tl.float32)
    value = tl.load(x + at, mask, 0.0).to(tl.float32)
    if SHIFT:
        value += tl.load(shift + row * C + c, inside, 0.0).to(tl.float32)[None, :]
    hat = (value - mean[None, :]) * scale[None, :]
    d = tl.load(gradient + at, mask, 0.0).to(tl.float32)
    if SILU:
        z = hat * w[None, :] + b[None, :]
        s = 1 / (1 + tl.exp(-z))
        d *= s * (1 + z * (1 - s))
    d *= w[None, :]
    return tl.where(mask, d, 0.0), hat, scale


@triton.jit(do_not_specialize=["HW", "cg"])
def _backward_sums(
    x, shift, stats, weight, bias, gradient, sums, HW, C, cg, G, eps, CHUNK, SHIFT: tl.constexpr, SILU: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):
    row, piece, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    first, second = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, CHUNK, ROWS):
        p = piece * CHUNK + start + tl.arange(0, ROWS)
        mask = (p < HW)[:, None] & inside[None, :]
        at = (row * HW + p[:, None]) * C + c[None, :]
        d, hat, scale = _backward_values(x, shift, stats, weight, bias, gradient, row, c, inside, at, mask, HW, C, cg, G, eps, SHIFT, SILU)
        first += d
        second += d * hat
    place = sums + ((row * tl.num_programs(1) + piece) * 2) * C + c
    tl.store(place, tl.sum(first, 0), inside)
    tl.store(place + C, tl.sum(second, 0), inside)


@triton.jit(do_not_specialize=["HW", "cg"])
def _backward_apply(
    x, shift, stats, totals, weight, bias, gradient, through, into, HW, C, cg, G, eps, SHIFT: tl.constexpr, SILU: tl.constexpr,
    THROUGH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):
    row, piece, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    p = piece * ROWS + tl.arange(0, ROWS)
    mask = (p < HW)[:, None] & inside[None, :]
    at = (row * HW + p[:, None]) * C + c[None, :]
    d, hat, scale = _backward_values(x, shift, stats, weight, bias, gradient, row, c, inside, at, mask, HW, C, cg, G, eps, SHIFT, SILU)
    place = totals + (row * G + c // cg) * 2
    count = HW * cg
    first, second = tl.load(place, inside, 0.0) / count, tl.load(place + 1, inside, 0.0) / count
    result = scale[None, :] * (d - first[None, :] - hat * second[None, :])
    if THROUGH:
        result += tl.load(through + at, mask, 0.0).to(tl.float32)
    tl.store(into + at, result, mask)


BLOCK, ROWS = 64, 32
PIECES, WIDTH = 64, 128  # at least as many as there are in SDXL: every other number would be compiled again, which takes seconds


def _cut(hw: int, rows: int, channels: int) -> tuple[int, int]:
    """How many pixels one program sums, and in how many pieces that cuts them: enough programs to fill a card."""
    blocks = rows * triton.cdiv(channels, BLOCK)
    pieces = max(1, min(triton.cdiv(hw, ROWS), triton.cdiv(512, blocks), PIECES))
    chunk = triton.cdiv(triton.cdiv(hw, pieces), ROWS) * ROWS
    return chunk, triton.cdiv(hw, chunk)


def group_norm(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> tuple[Tensor, Tensor]:
    """act(group norm(x + shift)) and the sums (R, groups, 2) of x + shift and its square; x (R, C, h, w) channels-last, shift (R, C)."""
    rows, channels, hw = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    chunk, pieces = _cut(hw, rows, channels)
    cg, blocks = channels // groups, triton.cdiv(channels, BLOCK)
    sums = torch.empty(rows, pieces, 2, channels, device=x.device, dtype=torch.float32)
    stats = torch.empty(rows, groups, 2, device=x.device, dtype=torch.float32)
    y, given, has = torch.empty_like(x), x if shift is None else shift.contiguous(), shift is not None
    _channel_sums[(rows, pieces, blocks)](x, given, sums, hw, channels, chunk, SHIFT=has, BLOCK=BLOCK, ROWS=ROWS)
    _group_sums[(rows, groups)](
        sums, stats, pieces, channels, cg, groups, PIECES=PIECES, WIDTH=max(WIDTH, triton.next_power_of_2(cg))
    )
    _norm_apply[(rows, triton.cdiv(hw, ROWS), blocks)](
        x, given, stats, weight, bias, y, hw, channels, cg, groups, eps, SHIFT=has, SILU=silu, BLOCK=BLOCK, ROWS=ROWS
    )
    return y, stats


def group_norm_backward(
    x: Tensor, shift: Tensor | None, stats: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, gradient: Tensor,
    through: Tensor | None,
) -> Tensor:
    """The gradient of x, given that of the norm and, passing by it, ``through``."""
    rows, channels, hw = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    chunk, pieces = _cut(hw, rows, channels)
    cg, blocks = channels // groups, triton.cdiv(channels, BLOCK)
    sums = torch.empty(rows, pieces, 2, channels, device=x.device, dtype=torch.float32)
    totals, into = torch.empty_like(stats), torch.empty_like(x)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    through = None if through is None else through.contiguous(memory_format=torch.channels_last)
    given, has = x if shift is None else shift.contiguous(), shift is not None
    same = (hw, channels, cg, groups, eps)
    _backward_sums[(rows, pieces, blocks)](
        x, given, stats, weight, bias, gradient, sums, *same, chunk, SHIFT=has, SILU=silu, BLOCK=BLOCK, ROWS=ROWS
    )
    _group_sums[(rows, groups)](
        sums, totals, pieces, channels, cg, groups, PIECES=PIECES, WIDTH=max(WIDTH, triton.next_power_of_2(cg))
    )
    _backward_apply[(rows, triton.cdiv(hw, ROWS), blocks)](
        x, given, stats, totals, weight, bias, gradient, gradient if through is None else through, into, *same,
        SHIFT=has, SILU=silu, THROUGH=through is not None, BLOCK=BLOCK, ROWS=ROWS,
    )
    return into
