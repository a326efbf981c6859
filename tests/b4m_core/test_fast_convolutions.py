"""The fast step with adapted convolutions does the plain step's sums, in every way to save memory and in either layout of pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_fast_step import ALL_ROWS, CONTENT, CUDA, SPLITS, STYLE, Trained, assert_same_gradients, batch
from tiny import tiny_unet
from torch import Tensor

from b4m_core.fast import frozen
from b4m_core.layers import ATTENTION, CONVOLUTIONS
from b4m_core.planner import MEMORY_MODES
from b4m_core.row_split import Rows


@pytest.mark.parametrize(("start", "split"), SPLITS)
def test_convolutions_have_the_plain_paths_losses_and_gradients(start: str, split: str) -> None:
    plain, fast = (Trained(fast, start, split, layers=CONVOLUTIONS) for fast in (False, True))
    for seed, (train_rows, rows) in enumerate([(1, CONTENT), (1, STYLE), (2, ALL_ROWS), (4, Rows(slice(4, 4), slice(0, 4)))]):
        given = batch(height=8, width=(8, 4, 12, 8)[seed], seed=seed)
        expected, found = (each.step(given, train_rows, rows, preserve=seed == 2) for each in (plain, fast))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found_all, expected_all = fast.gradients(), plain.gradients()
    assert sum("conv" in name and bool(gradient.any()) for name, gradient in expected_all.items()) > 40
    assert_same_gradients(found_all, expected_all, 1e-9)


@pytest.mark.parametrize("way", [1, len(MEMORY_MODES) - 1])
def test_convolutions_in_less_memory_do_the_same_sums(way: int) -> None:
    whole, small = (Trained(True, way=way, layers=CONVOLUTIONS) for way in (0, way))
    for seed, (own, rows) in enumerate([(1, CONTENT), (2, ALL_ROWS)]):
        expected, found = (trained.step(batch(seed=seed), own, rows, preserve=seed == 1) for trained in (whole, small))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert_same_gradients(small.gradients(), whole.gradients(), 1e-9)
    small.step.close()
    for name, weight in tiny_unet(dtype=torch.float64).state_dict().items():
        assert torch.equal(small.step.network.unet.state_dict()[name], weight), name  # type: ignore[attr-defined]


class PicturesInTorch:
    """What triton_kernels.py does, in torch and double precision; it takes no attention."""

    @staticmethod
    def attends(*_: object) -> bool:
        return False

    @staticmethod
    def group_norm(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, act: bool) -> Any:
        assert x.is_contiguous(memory_format=torch.channels_last)
        total = x if shift is None else x + shift[:, :, None, None]
        y = torch.nn.functional.group_norm(total, groups, weight, bias, eps)
        return (torch.nn.functional.silu(y) if act else y).contiguous(memory_format=torch.channels_last), x.new_zeros(1)

    @classmethod
    def group_norm_backward(
        cls, x: Tensor, shift: Any, _: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: bool, gradient: Tensor,
        through: Any,
    ) -> Tensor:  # fmt: skip
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y, _ = cls.group_norm(x, shift, weight, bias, groups, eps, act)
        (into,) = torch.autograd.grad(y, x, gradient)
        return into if through is None else into + through

    @staticmethod
    def add_residual(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
        assert x.is_contiguous(memory_format=torch.channels_last)
        return x + y + bias[:, None, None]

    @staticmethod
    def add_norm(x: Tensor, out: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Any:
        total = x if out is None else x + out
        return total, torch.nn.functional.layer_norm(total, total.shape[-1:], weight, bias, eps), total, x.new_full((), eps)

    @staticmethod
    def add_norm_backward(total: Tensor, gradient: Tensor, through: Any, weight: Tensor, _: Tensor, eps: Tensor) -> Tensor:
        total = total.detach().requires_grad_()
        with torch.enable_grad():
            y = torch.nn.functional.layer_norm(total, total.shape[-1:], weight, None, float(eps))
        (into,) = torch.autograd.grad(y, total, gradient)
        return into if through is None else into + through

    @staticmethod
    def geglu(both: Tensor) -> Tensor:
        return frozen.geglu(both)

    @staticmethod
    def geglu_backward(both: Tensor, gradient: Tensor) -> Tensor:
        return frozen.geglu_backward(both, gradient)

    @staticmethod
    def side_by_side(parts: Any, out: Tensor) -> None:
        out.copy_(torch.cat([part.flatten(0, 1) for part in parts], -1))


@pytest.mark.parametrize("layers", [ATTENTION, CONVOLUTIONS])
def test_pictures_whose_channels_lie_together_change_no_sum(layers: str) -> None:
    """As a card has them, with its kernels; there the bias of a block's last convolutions is added with the residual."""
    plain, fast = (Trained(fast, layers=layers) for fast in (False, True))
    step: Any = fast.step
    for module in step.network.unet.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    step.layout = torch.channels_last
    for holder in (step.network, step.network.resnets, *step.groups.families):
        holder.kernels = PicturesInTorch
    for seed, rows in enumerate((CONTENT, ALL_ROWS)):
        expected, found = (each.step(batch(seed=seed), 1, rows, preserve=bool(seed)) for each in (plain, fast))
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert_same_gradients(fast.gradients(), plain.gradients(), 1e-9)


@CUDA
@pytest.mark.parametrize("way", range(len(MEMORY_MODES)))
@pytest.mark.parametrize(("start", "split"), SPLITS)
def test_a_replayed_graph_with_convolutions_equals_the_plain_path_on_the_card(start: str, split: str, way: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain, fast = (
        Trained(fast, start, split, dtype=torch.float32, device="cuda", graph=fast, way=way if fast else 0, layers=CONVOLUTIONS)
        for fast in (False, True)
    )
    for seed, rows in enumerate((CONTENT, STYLE, CONTENT)):  # the third is replayed
        given = batch(seed=seed, dtype=torch.float32)
        torch.testing.assert_close(fast.step(given, 1, rows), plain.step(given, 1, rows), rtol=1e-4, atol=1e-5)
    assert_same_gradients(fast.gradients(), plain.gradients(), 5e-3)
    assert fast.step.graph  # type: ignore[attr-defined]
