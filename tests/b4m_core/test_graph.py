"""Recording a graph: what it gives, and what is left when it cannot be recorded."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from b4m_core.fast import native_calls
from b4m_core.fast.graph import Captured
from b4m_core.fast.triton_launch import _launch_on_addresses

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
MIB = 2**20


def captured(fails: type[Exception] | str | None = None) -> Captured:
    """x -> x + 1 by way of 256 MiB; the recording, not the run before it, meets ``fails``."""
    calls: list[int] = []

    def function(x: Tensor) -> Tensor:
        much = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda").zero_()
        calls.append(1)
        if len(calls) == 2 and isinstance(fails, type):
            raise fails("full")  # a new one: it holds the frames that it came through
        if len(calls) == 2 and fails:
            x.sum().item()  # what no recording allows
        return x + 1 + much[:2]

    return Captured(function, {"x": torch.zeros(2)}, torch.device("cuda"), torch.cuda.graph_pool_handle())


@CUDA
def test_a_replay_computes_with_what_it_is_given() -> None:
    graph = captured()
    assert [graph({"x": torch.full((2,), value)}).tolist() for value in (1.0, 2.0)] == [[2.0, 2.0], [3.0, 3.0]]


@CUDA
@pytest.mark.parametrize("fails", ["a read", torch.cuda.OutOfMemoryError, ValueError])
def test_a_recording_that_fails_costs_the_process_nothing(fails: type[Exception] | str) -> None:
    if torch.cuda.get_allocator_backend() != "native" and fails == "a read":
        pytest.skip("torch ends the process when it frees memory of a recording that the card has broken off")
    before, stream = torch.cuda.memory_reserved(), torch.cuda.current_stream()
    with pytest.raises(fails if isinstance(fails, type) else RuntimeError):
        captured(fails)
    assert torch.cuda.current_stream() == stream
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.randn(4, device="cuda").isfinite().all()
    if torch.cuda.get_allocator_backend() == "native":
        assert torch.cuda.memory_reserved() <= before + 64 * MIB
    assert captured()({"x": torch.ones(2)}).tolist() == [2.0, 2.0]


@CUDA
@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_allocator_backend() != "native", reason="its memory cannot be listed")
def test_nothing_of_a_graph_that_is_gone_is_still_in_use() -> None:
    matrix = torch.eye(256, device="cuda", dtype=torch.bfloat16)
    graph = Captured(lambda x: x @ matrix, {"x": torch.ones(256, 256).bfloat16()}, matrix.device, torch.cuda.graph_pool_handle())
    assert graph({"x": matrix.cpu()}).equal(matrix)
    del graph
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    assert {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()} == {(0, 0)}


def test_asking_the_driver_does_no_harm_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_calls, "LIBRARY", "no-such-library.so")
    native_calls.trim_graph_memory(0)


def test_a_launch_on_addresses_hands_over_every_argument_in_the_kernels_order() -> None:
    seen: list[object] = []

    class Compiled:
        def __getitem__(self, grid: tuple[int, ...]) -> object:
            seen.append(grid)
            return lambda *given: seen.append(given)

    names = [SimpleNamespace(name=name) for name in ("x", "width", "out", "BLOCK")]
    kernel = SimpleNamespace(params=names, warmup=lambda *given, grid, **options: Compiled())
    x, out = torch.zeros(2), torch.zeros(2)
    _launch_on_addresses(kernel, (3,), (x, 7, out), {"BLOCK": 64, "num_warps": 2})
    assert seen == [(3, 1, 1), (x.data_ptr(), 7, out.data_ptr(), 64)]
