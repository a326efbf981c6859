"""The library's attention gets gradients that lie alike, whatever follows it: its kernels may be kept for one layout of them."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from b4m_core.fast import attention


def test_gradients_are_of_one_layout_whatever_follows_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def watched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = scaled_dot_product_attention(q, k, v)
        out.register_hook(lambda gradient: seen.append(gradient.stride()))  # type: ignore[no-untyped-call]
        return out

    monkeypatch.setattr(attention, "scaled_dot_product_attention", watched)
    parts = [torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(seed), requires_grad=True) for seed in range(3)]
    found = []
    for beside in (0, 4):  # columns that lie beside the attention's in what comes next
        out = attention.attend(*parts, 2, None)
        wider = torch.cat([out, out.new_zeros(3, 5, beside)], -1)
        found.append(torch.autograd.grad(wider.square().sum(), parts))
    assert len(seen) == 2 and seen[0] == seen[1] == (40, 4, 8, 1)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_attention_without_gradients_is_left_alone() -> None:
    parts = [torch.randn(3, 5, 8) for _ in range(3)]
    assert not attention.attend(*parts, 2, None).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize(("queries", "keys"), [(176, 176), (144, 77), (1024, 1024)])
def test_on_a_card_every_layout_of_gradients_is_read_rightly(queries: int, keys: int) -> None:
    """With cuDNN's kernel where it can be had; asked after a gradient of another layout."""
    generator, heads, width = torch.Generator("cuda").manual_seed(0), 4, 256

    def draw(tokens: int, wide: int = width) -> Tensor:
        return torch.randn(8, tokens, wide, generator=generator, device="cuda", dtype=torch.bfloat16)

    parts = [draw(tokens).requires_grad_() for tokens in (queries, keys, keys)]
    for gradient in (draw(queries), draw(queries, 5 * width)[..., :width], draw(queries, 3 * width)[..., width : 2 * width]):
        found = []
        for kernels in ([SDPBackend.MATH], [SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
            with sdpa_kernel(kernels):
                found.append(torch.autograd.grad(attention.attend(*parts, heads, None), parts, gradient))
        for wanted, got in zip(*found, strict=True):
            assert float((got - wanted).float().norm()) < 0.02 * float(wanted.float().norm())
