"""Memory-bound steps as one Triton kernel each, on activations whose channels lie together (rows, h w, C). An
accelerator, never needed.
"""
# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors
# fmt: off
# (what a kernel takes are pointers and numbers of the card, for which Python has no types)

import functools
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_attention import HALVES, attend, attend_backward, attends  # noqa: F401 (one module of kernels to their users)
from .triton_launch import begin, launch


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


GEGLU = {"BLOCK": 512, "num_warps": 4}  # both of SDXL's feed-forward widths are multiples of it


def geglu(both: Tensor) -> Tensor:
    """h gelu(g) of [h, g] (..., 2 w)."""
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    launch(_geglu, (out.numel() // width, triton.cdiv(width, GEGLU["BLOCK"])), both, out, width, **GEGLU)
    return out


def geglu_backward(both: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of [h, g]."""
    into, gradient, width = torch.empty_like(both), gradient.contiguous(), gradient.shape[-1]
    launch(_geglu_backward, (gradient.numel() // width, triton.cdiv(width, GEGLU["BLOCK"])), both, gradient, into, width, **GEGLU)
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
    launch(_add_residual, (triton.cdiv(x.numel(), 2048),), x, y, bias, out, x.numel(), x.shape[1], BLOCK=2048, num_warps=8)
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
    launch(_side_by_side, (len(out), triton.cdiv(m, block)), first, second, third, out, out.stride(0), m, BLOCK=block)


@triton.jit
def _add_norm(x, out, weight, bias, total, y, mean, rstd, out_stride, C, eps, adds, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < C
    value = tl.load(x + row * C + at, mask, 0.0).to(tl.float32)
    value += tl.load(out + row * out_stride + at, mask & adds, 0.0).to(tl.float32)
    value = value.to(total.dtype.element_ty)
    tl.store(total + row * C + at, value, mask & adds)
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
def _add_norm_backward(x, gradient, through, weight, mean, rstd, into, C, passes, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < C
    value = tl.load(x + row * C + at, mask, 0.0).to(tl.float32)
    d = tl.load(gradient + row * C + at, mask, 0.0).to(tl.float32) * tl.load(weight + at, mask, 0.0).to(tl.float32)
    scale = tl.load(rstd + row)
    hat = tl.where(mask, (value - tl.load(mean + row)) * scale, 0.0)
    result = scale * (d - tl.sum(d, 0) / C - hat * (tl.sum(d * hat, 0) / C))
    result += tl.load(through + row * C + at, mask & passes, 0.0).to(tl.float32)
    tl.store(into + row * C + at, result, mask)


def add_norm(x: Tensor, out: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x + out (x itself without ``out``), its layer norm, mean and 1/deviation; x (..., C) contiguous, ``out`` in rows
    of one stride.
    """
    C = x.shape[-1]
    count = x.numel() // C
    y, total = torch.empty_like(x), x if out is None else torch.empty_like(x)
    mean, rstd = (torch.empty(count, device=x.device, dtype=torch.float32) for _ in range(2))
    given = x if out is None else out
    launch(
        _add_norm, (count,), x, given, weight, bias, total, y, mean, rstd, given.stride(-2), C, eps, out is not None,
        BLOCK=triton.next_power_of_2(C),
    )
    return total, y, mean, rstd


def add_norm_backward(x: Tensor, gradient: Tensor, through: Tensor | None, weight: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of x + out, given that of the norm and, passing by it, ``through``."""
    into, C = torch.empty_like(x), x.shape[-1]
    gradient = gradient.contiguous()
    given = gradient if through is None else through.contiguous()
    launch(
        _add_norm_backward, (x.numel() // C,), x, gradient, given, weight, mean, rstd, into, C, through is not None,
        BLOCK=triton.next_power_of_2(C),
    )
    return into


@triton.jit(do_not_specialize=["HW"])
def _channel_sums(x, shift, sums, HW, C, CHUNK, shifted, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    row, piece, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    extra = tl.load(shift + row * C + c, inside & shifted, 0.0).to(tl.float32)
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
    c = tl.arange(0, WIDTH)
    first, second = tl.zeros([PIECES, WIDTH], tl.float32), tl.zeros([PIECES, WIDTH], tl.float32)
    for start in range(0, pieces, PIECES):
        p = start + tl.arange(0, PIECES)
        mask = (p < pieces)[:, None] & (c < cg)[None, :]
        place = sums + ((row * pieces + p[:, None]) * 2) * C + group * cg + c[None, :]
        first += tl.load(place, mask, 0.0)
        second += tl.load(place + C, mask, 0.0)
    tl.store(out + (row * G + group) * 2, tl.sum(tl.sum(first, 1), 0))
    tl.store(out + (row * G + group) * 2 + 1, tl.sum(tl.sum(second, 1), 0))


@triton.jit(do_not_specialize=["HW", "cg"])
def _norm_apply(
    x, shift, stats, weight, bias, y, HW, C, cg, G, eps, shifted, silu, BLOCK: tl.constexpr, ROWS: tl.constexpr,
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
    b += tl.load(shift + row * C + c, inside & shifted, 0.0).to(tl.float32) * w
    p = piece * ROWS + tl.arange(0, ROWS)
    mask = (p < HW)[:, None] & inside[None, :]
    at = (row * HW + p[:, None]) * C + c[None, :]
    z = tl.load(x + at, mask, 0.0).to(tl.float32) * w[None, :] + b[None, :]
    z = tl.where(silu, z / (1 + tl.exp(-z)), z)
    tl.store(y + at, z, mask)


@triton.jit
def _backward_values(
    x, shift, stats, weight, bias, gradient, row, c, inside, at, mask, HW, C, cg, G, eps, shifted, silu,
):
    place = stats + (row * G + c // cg) * 2
    count = HW * cg
    mean = tl.load(place, inside, 0.0) / count
    variance = tl.load(place + 1, inside, 0.0) / count - mean * mean
    scale = 1 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    w = tl.load(weight + c, inside, 0.0).to(tl.float32)
    b = tl.load(bias + c, inside, 0.0).to(tl.float32)
    value = tl.load(x + at, mask, 0.0).to(tl.float32)
    value += tl.load(shift + row * C + c, inside & shifted, 0.0).to(tl.float32)[None, :]
    hat = (value - mean[None, :]) * scale[None, :]
    d = tl.load(gradient + at, mask, 0.0).to(tl.float32)
    z = hat * w[None, :] + b[None, :]
    s = 1 / (1 + tl.exp(-z))
    d *= tl.where(silu, s * (1 + z * (1 - s)), 1.0)
    d *= w[None, :]
    return tl.where(mask, d, 0.0), hat, scale


@triton.jit(do_not_specialize=["HW", "cg"])
def _backward_sums(
    x, shift, stats, weight, bias, gradient, sums, HW, C, cg, G, eps, CHUNK, shifted, silu, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    row, piece, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    first, second = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, CHUNK, ROWS):
        p = piece * CHUNK + start + tl.arange(0, ROWS)
        mask = (p < HW)[:, None] & inside[None, :]
        at = (row * HW + p[:, None]) * C + c[None, :]
        d, hat, _ = _backward_values(x, shift, stats, weight, bias, gradient, row, c, inside, at, mask, HW, C, cg, G, eps, shifted, silu)
        first += d
        second += d * hat
    place = sums + ((row * tl.num_programs(1) + piece) * 2) * C + c
    tl.store(place, tl.sum(first, 0), inside)
    tl.store(place + C, tl.sum(second, 0), inside)


@triton.jit(do_not_specialize=["HW", "cg"])
def _backward_apply(
    x, shift, stats, totals, weight, bias, gradient, through, into, HW, C, cg, G, eps, through_pixel, shifted, silu, passes,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):
    row, piece, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    p = piece * ROWS + tl.arange(0, ROWS)
    mask = (p < HW)[:, None] & inside[None, :]
    at = (row * HW + p[:, None]) * C + c[None, :]
    d, hat, scale = _backward_values(x, shift, stats, weight, bias, gradient, row, c, inside, at, mask, HW, C, cg, G, eps, shifted, silu)
    place = totals + (row * G + c // cg) * 2
    count = HW * cg
    first, second = tl.load(place, inside, 0.0) / count, tl.load(place + 1, inside, 0.0) / count
    result = scale[None, :] * (d - first[None, :] - hat * second[None, :])
    result += tl.load(through + (row * HW + p[:, None]) * through_pixel + c[None, :], mask & passes, 0.0).to(tl.float32)
    tl.store(into + at, result, mask)


TILE = {"BLOCK": 64, "ROWS": 32}  # channels and pixels
MOST_PIECES = 64
GROUP = {"PIECES": 16, "WIDTH": 128, "num_warps": 4}  # no group of SDXL has more channels


def _cut(hw: int, rows: int, channels: int) -> tuple[int, int]:
    """How many pixels one program sums, and in how many pieces that cuts them: enough programs to fill a card."""
    blocks = rows * triton.cdiv(channels, TILE["BLOCK"])
    pieces = max(1, min(triton.cdiv(hw, TILE["ROWS"]), triton.cdiv(512, blocks), MOST_PIECES))
    chunk = triton.cdiv(triton.cdiv(hw, pieces), TILE["ROWS"]) * TILE["ROWS"]
    return chunk, triton.cdiv(hw, chunk)


def _sum_groups(sums: Tensor, out: Tensor) -> None:
    """Two sums of every channel (R, pieces, 2, C) to those of every group (R, groups, 2)."""
    (rows, pieces, _, channels), groups = sums.shape, out.shape[1]
    cg = channels // groups
    tile = GROUP | {"WIDTH": max(GROUP["WIDTH"], triton.next_power_of_2(cg))}
    launch(_group_sums, (rows, groups), sums, out, pieces, channels, cg, groups, **tile)


def group_norm(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> tuple[Tensor, Tensor]:
    """act(group norm(x + shift)) and the sums (R, groups, 2) of x + shift and its square; x (R, C, h, w) channels-last,
    shift (R, C).
    """
    rows, channels, hw = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    chunk, pieces = _cut(hw, rows, channels)
    cg, blocks = channels // groups, triton.cdiv(channels, TILE["BLOCK"])
    sums = torch.empty(rows, pieces, 2, channels, device=x.device, dtype=torch.float32)
    stats = torch.empty(rows, groups, 2, device=x.device, dtype=torch.float32)
    y, given, has = torch.empty_like(x), x if shift is None else shift.contiguous(), shift is not None
    launch(_channel_sums, (rows, pieces, blocks), x, given, sums, hw, channels, chunk, has, **TILE)
    _sum_groups(sums, stats)
    launch(
        _norm_apply, (rows, triton.cdiv(hw, TILE["ROWS"]), blocks), x, given, stats, weight, bias, y, hw, channels, cg, groups, eps, has,
        silu, **TILE,
    )
    return y, stats


def group_norm_backward(
    x: Tensor, shift: Tensor | None, stats: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, gradient: Tensor,
    through: Tensor | None,
) -> Tensor:
    """The gradient of x, given that of the norm and, passing by it, ``through``."""
    rows, channels, hw = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    chunk, pieces = _cut(hw, rows, channels)
    cg, blocks = channels // groups, triton.cdiv(channels, TILE["BLOCK"])
    sums = torch.empty(rows, pieces, 2, channels, device=x.device, dtype=torch.float32)
    totals, into = torch.empty_like(stats), torch.empty_like(x)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    pixel = 0 if through is None else through.stride(3)
    if through is not None and through.stride() != (hw * pixel, 1, x.shape[3] * pixel, pixel):  # channels of a wider picture will do
        through = through.contiguous(memory_format=torch.channels_last)
    given, has = x if shift is None else shift.contiguous(), shift is not None
    same = (hw, channels, cg, groups, eps)
    launch(_backward_sums, (rows, pieces, blocks), x, given, stats, weight, bias, gradient, sums, *same, chunk, has, silu, **TILE)
    _sum_groups(sums, totals)
    launch(
        _backward_apply, (rows, triton.cdiv(hw, TILE["ROWS"]), blocks), x, given, stats, totals, weight, bias, gradient,
        gradient if through is None else through, into, *same, channels if through is None else through.stride(3), has, silu,
        through is not None, **TILE,
    )
    return into


def asked_for(dtype: torch.dtype) -> list[Callable[[], object]]:
    """Calls that between them launch all that a network of SDXL's widths launches at ranks that 16 divides; slowest to
    compile first.

    Of a number the kernels know only whether 16 divides it, so that one picture stands for those of all sizes.
    """

    def some(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=of, device="meta")

    narrow, wide, heads = 640, 1280, 10
    image, channels = some(1, narrow, 4, 4).contiguous(memory_format=torch.channels_last), some(narrow)
    shift, stats = some(1, narrow), some(1, 32, 2, of=torch.float32)
    tokens, row = some(1, 16, narrow), some(16, of=torch.float32)
    parts = (tokens, tokens, tokens)
    attention = [
        lambda: attend_backward(*parts, tokens, some(heads, 16, of=torch.float32), tokens, heads, parts),
        lambda: attend(*parts, heads),
    ]

    def norm(width: int) -> list[Callable[[], object]]:
        x, w = some(1, 16, width), some(width)
        return [lambda: add_norm(x, x, w, w, 1e-5), lambda: add_norm_backward(x, x, x, w, row, row)]

    return [
        *(attention if dtype in HALVES else []),
        lambda: group_norm_backward(image, shift, stats, channels, channels, 32, 1e-5, True, image, image),
        lambda: group_norm(image, shift, channels, channels, 32, 1e-5, True),
        *norm(narrow), *norm(wide),
        lambda: geglu(some(1, 2 * narrow)),
        lambda: geglu_backward(some(1, 2 * narrow), some(1, narrow)),
        lambda: add_residual(image, image, channels),
        lambda: side_by_side(parts, some(16, 3 * narrow)),
    ]


@functools.cache
def compile_ahead(dtype: torch.dtype, device: torch.device) -> None:
    """Begin, once in a process, to compile what a network will ask for, while the caller goes on."""
    triton.runtime.driver.active.get_current_device()  # what Triton builds once is built here, not by every thread
    begin(asked_for(dtype), device)
