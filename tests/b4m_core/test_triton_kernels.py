"""Every Triton kernel against torch, without a card: Triton's interpreter runs them; and what is compiled ahead is what a network launches.

The interpreter must be chosen before Triton is imported, hence a process of its own: ``python -m tests.b4m_core.test_triton_kernels``
prints how far each check is off, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

triton = pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
CHECKS: dict[str, Callable[[], float]] = {}


def check(*cases: Any) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """How far a kernel is from torch, in each of these cases."""

    def entered(function: Callable[..., float]) -> Callable[..., float]:
        for case in cases:
            name = "-".join([function.__name__, *map(str, case)])
            CHECKS[name] = lambda case=case: function(*case)  # type: ignore[misc]
        return function

    return entered


def off(found: Tensor, right: Tensor) -> float:
    """The largest difference; infinite where something is not a number."""
    return float((found - right).abs().nan_to_num(float("inf")).max())


def apart(*shape: int, spare: int = 5) -> Tensor:
    """Rows that lie apart."""
    return torch.randn(*shape[:-1], shape[-1] + spare)[..., : shape[-1]]


def picture(rows: int, channels: int, height: int, width: int) -> Tensor:
    """Channels lie together."""
    return torch.randn(rows, channels, height, width).contiguous(memory_format=torch.channels_last)


def kernels() -> Any:
    """The module under test; imported late, so that the interpreter can be chosen first."""
    from b4m_core.fast import triton_kernels

    return triton_kernels


@check((2, 3, 40), (1, 2, 600))
def geglu(rows: int, tokens: int, width: int) -> float:
    both = torch.randn(rows, tokens, 2 * width, requires_grad=True)
    h, g = both.chunk(2, dim=-1)
    right = h * functional.gelu(g)
    gradient = torch.randn_like(right)
    right.backward(gradient)
    into = kernels().geglu_backward(both.detach(), gradient)
    return max(off(kernels().geglu(both.detach()), right), off(into, both.grad))  # type: ignore[arg-type]


@check((1, 7, 3), (2, 48, 6))
def add_residual(rows: int, channels: int, size: int) -> float:
    x, y, bias = picture(rows, channels, size, size + 1), torch.randn(rows, channels, size, size + 1), torch.randn(channels)
    return off(kernels().add_residual(x, y, bias), x + y + bias[:, None, None])


@check((7,), (1030,))
def side_by_side(width: int) -> float:
    parts = tuple(torch.randn(2, 3, width) for _ in range(3))
    out = apart(6, 3 * width)
    kernels().side_by_side(parts, out)
    return off(out, torch.cat(parts, dim=-1).view(6, -1))


@check(*((channels, *flags) for channels in (13, 64) for flags in ((True, True), (False, True), (True, False))))
def add_norm(channels: int, adds: bool, passes: bool) -> float:
    x, out = torch.randn(2, 3, channels, requires_grad=True), apart(2, 3, channels) if adds else None
    weight, bias = torch.randn(2, channels)
    right_total = x if out is None else x + out
    right = functional.layer_norm(right_total, (channels,), weight, bias, 1e-5)
    gradient, through = torch.randn_like(right), apart(2, 3, channels) if passes else None
    right.backward(gradient)
    total, y, mean, rstd = kernels().add_norm(x.detach(), out, weight, bias, 1e-5)
    into = kernels().add_norm_backward(total, gradient, through, weight, mean, rstd)
    right_into = x.grad if through is None else x.grad + through
    return max(off(total, right_total), off(y, right), off(into, right_into))  # type: ignore[arg-type]


@check(
    (64, 4, True, True, False),
    (96, 3, True, False, True),
    (64, 4, False, False, True),
    (64, 17, True, True, True),
    (24, 40, False, True, False),
)
def group_norm(channels: int, size: int, silu: bool, shifts: bool, passes: bool) -> float:
    x, groups = picture(2, channels, size, size).requires_grad_(), 8
    shift = torch.randn(2, channels) if shifts else None
    weight, bias = torch.randn(2, channels)
    right = functional.group_norm(x if shift is None else x + shift[:, :, None, None], groups, weight, bias, 1e-5)
    right = functional.silu(right) if silu else right
    gradient = torch.randn_like(right)
    through = picture(2, 2 * channels, size, size)[:, channels:] if passes else None
    right.backward(gradient)
    given = x.detach()
    y, stats = kernels().group_norm(given, shift, weight, bias, groups, 1e-5, silu)
    into = kernels().group_norm_backward(given, shift, stats, weight, bias, groups, 1e-5, silu, gradient, through)
    return max(off(y, right), off(into, x.grad if through is None else x.grad + through))  # type: ignore[arg-type]


@check((100, 77), (64, 64), (1, 5), (130, 130))
def attend(queries: int, keys: int) -> float:
    rows, heads = 2, 2
    width = heads * 64
    q, both = apart(rows, queries, width), apart(rows, keys, 2 * width)
    parts = [part.detach().requires_grad_() for part in (q, *both.chunk(2, dim=-1))]
    by_head = [part.view(rows, -1, heads, 64).transpose(1, 2) for part in parts]
    right = functional.scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2)
    gradient = torch.randn_like(right)
    right.backward(gradient)
    out, sums = kernels().attend(q, *both.chunk(2, dim=-1), heads)
    into = (apart(rows, queries, width), *apart(rows, keys, 2 * width).chunk(2, dim=-1))
    kernels().attend_backward(q, *both.chunk(2, dim=-1), out, sums, gradient, heads, into)
    return max(off(out, right), *(off(found, part.grad) for found, part in zip(into, parts, strict=True)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """How far every check is off, or what went wrong."""
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8):
        pytest.skip("the interpreter of an older Triton knows no truth values")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.b4m_core.test_triton_kernels"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CHECKS)
def test_a_kernel_does_what_torch_does(name: str, interpreted: dict[str, Any]) -> None:
    assert isinstance(interpreted[name], float), interpreted[name]
    assert interpreted[name] < 2e-5


class Card:
    """What Triton asks of a driver before it compiles: a card that is not there."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Launches compile for a card that is not there; what they compiled, by kernel and signature."""
    from b4m_core.fast import triton_attention

    found: dict[str, Any] = {}
    known = [value for module in (kernels(), triton_attention) for value in vars(module).values() if isinstance(value, triton.JITFunction)]

    def compile_only(kernel: Any, grid: tuple[int, ...], *given: Any, **options: Any) -> None:
        result = kernel.warmup(*given, grid=grid, **options)
        if result is not None:
            found[result.hash] = result

    def forget() -> None:
        for kernel in known:
            kernel.device_caches.clear()

    forget()
    monkeypatch.setattr(triton.runtime.driver, "_active", Card(86))
    for module in (kernels(), triton_attention):
        monkeypatch.setattr(module, "launch", compile_only)
    yield found
    forget()


def test_every_kernel_compiles_and_fits_into_a_small_card(compiled: dict[str, Any]) -> None:
    for call in kernels().asked_for(torch.bfloat16):
        call()
    assert max(result.metadata.shared for result in compiled.values()) <= 99 * 1024


@pytest.fixture
def asked(compiled: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What launches ask to be compiled, and nothing is compiled."""
    keys: set[str] = set()

    def note(*, fn: Any, key: Any, **_: Any) -> bool:
        keys.add(f"{fn.name} {key}")
        return True

    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", note)
    return keys


def test_what_is_compiled_ahead_is_what_a_network_launches(asked: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import UNet2DConditionModel

    from b4m_core import Adapter, Facts
    from b4m_core.fast import fused_step, triton_attention
    from b4m_core.row_split import Rows

    for call in kernels().asked_for(torch.bfloat16):
        call()
    ahead = set(asked)
    asked.clear()

    monkeypatch.setattr(kernels(), "attends", lambda q, k, heads: k.shape[1] <= triton_attention.MOST_KEYS)
    monkeypatch.setattr(fused_step, "kernels_for", lambda *_: kernels())
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 1), attention_head_dim=(5, 10, 20), cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ).to(torch.bfloat16).requires_grad_(False)  # fmt: skip
    adapter = Adapter.for_unet(unet, Facts(role="content", rank=16, base="f" * 64, start="zero_start", split="halves"))
    for layer in adapter.layers.values():
        layer.to("meta")
    stacks = fused_step.FusedStep.stacks(adapter.layers, torch.device("meta"))
    fast = fused_step.FusedStep(unet, adapter.layers, stacks, micro_steps=1, graph=False)
    for rows, *size in ((3, 32, 32), (4, 64, 64), (1, 72, 56)):
        shapes = {
            "noisy": (4, *size), "target": (4, *size), "mask": (1, *size), "timesteps": (), "context": (77, 2048), "pooled": (1280,),
            "size_ids": (6,),
        }  # fmt: skip
        inputs = {name: torch.empty(rows, *shape, device="meta") for name, shape in shapes.items()}
        fast(inputs, 1, Rows(slice(1, rows), slice(0, 1)), preserve=True)
    assert asked == ahead


if __name__ == "__main__":
    results: dict[str, float | str] = {}
    for name, run in CHECKS.items():
        torch.manual_seed(0)
        try:
            results[name] = run()
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))
