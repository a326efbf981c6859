"""The frozen halves: the same numbers for ever, orthonormal, and of nothing but (seed, name, shape, rank)."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from b4m_core import B4MError
from b4m_core.basis import frozen_halves

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(640, 640, 64), (1280, 1280, 64), (640, 2048, 64), (1280, 2048, 64), (8, 8, 2), (9, 7, 3), (5, 12, 4), (2, 31, 15)]

PINNED_A0 = ["-0x0.0p+0", "-0x1.11acee0000000p-1", "0x0.0p+0"]
PINNED_C1 = ["-0x1.daf9320000000p-3", "0x1.ed25700000000p-2", "-0x1.0ad05c0000000p-1"]
PINNED = {
    (8, 8, 2): "c517160b71f33bc6a024d8d9b698a6343990a0ad6b487a01f53311a2e692e61b",
    (640, 640, 64): "77f1b8cdeac0f966dfeb459e98b13822d78aef4f84877bad90ade1f5639b02a8",
    (640, 2048, 64): "52f8eb737aaeff6082d44e90ee3e03f4ffbb69796866813436f241df14d040da",
    (1280, 1280, 64): "07022fa7af6af47176006f4428651d8855050a0e04a4b8c10335abc7ca0a0203",
    (1280, 2048, 64): "79b1d41112cd50cff381905792b9e8218a474bcbd8cff66fe16e4a79bf2628f7",
}


def digest(a: Tensor, c: Tensor) -> str:
    return hashlib.sha256(a.numpy().tobytes() + c.contiguous().numpy().tobytes()).hexdigest()


def test_a_small_basis_has_the_pinned_numbers_for_ever() -> None:
    a, c = frozen_halves(8, 6, 3, name="layer", seed=7)
    assert [value.hex() for value in a[0].tolist()] == PINNED_A0
    assert [value.hex() for value in c[:, 1].tolist()] == PINNED_C1


@pytest.mark.parametrize("shape", sorted(set(SHAPES[:5])))
def test_the_bytes_of_both_halves_have_the_pinned_checksum(shape: tuple[int, int, int]) -> None:
    m, n, rank = shape
    assert digest(*frozen_halves(m, n, rank, name="down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", seed=0)) == PINNED[shape]


def test_a_basis_agrees_with_the_cosine_formula_in_double_precision() -> None:
    """Every column is one wave sqrt(2/N) cos(pi (2i + 1) j / 2N), its rows in another order and with signs; written with math.cos alone."""
    m, n, rank = 10, 14, 4
    a, c = frozen_halves(m, n, rank, name="x", seed=3)
    order = 12
    waves = [
        sorted(abs(math.sqrt(2 / order) * math.cos(math.pi * (2 * i + 1) * j / (2 * order))) for i in range(order)) for j in range(1, order)
    ]
    for column in torch.cat([a, c.T]).abs().double().T:
        drawn = sorted(column.tolist())
        assert any(max(abs(x - y) for x, y in zip(drawn, wave, strict=True)) < 1e-7 for wave in waves)


@pytest.mark.parametrize("m,n,rank", SHAPES)
def test_columns_of_a_and_c_together_are_orthonormal(m: int, n: int, rank: int) -> None:
    a, c = (half.double() for half in frozen_halves(m, n, rank, name="layer", seed=1))
    assert a.shape == (m // 2, rank) and c.shape == (rank, n // 2)
    torch.testing.assert_close(a.T @ a + c @ c.T, torch.eye(rank, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("m,n,rank", [(64, 64, 16), (63, 40, 20)])
def test_a_and_c_are_disjoint_rows_of_one_orthogonal_matrix(m: int, n: int, rank: int) -> None:
    """At full rank but one, rows of one orthogonal matrix have norms and products that a repeated row could not have."""
    full = m // 2 + n // 2 - 1
    a, c = frozen_halves(m, n, full, name="layer", seed=0)
    rows = torch.cat([a, c.T]).double()
    gram = rows @ rows.T
    expected = torch.eye(full + 1, dtype=torch.float64)
    off = (gram - torch.diag(gram.diagonal())).abs()
    assert off.max() < 1 / (full + 1) + 1e-6  # only the constant wave is left out, and it adds 1/N to every product
    torch.testing.assert_close(gram.diagonal(), expected.diagonal() * full / (full + 1), atol=1e-6, rtol=0)


def test_the_basis_does_not_depend_on_the_global_random_states() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = digest(*frozen_halves(40, 24, 8, name="layer", seed=5))
    torch.manual_seed(2)
    np.random.seed(2)
    assert digest(*frozen_halves(40, 24, 8, name="layer", seed=5)) == first


def test_drawing_a_basis_leaves_the_global_random_states_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    frozen_halves(40, 24, 8, name="layer", seed=5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


def test_the_default_dtype_of_torch_does_not_change_the_basis() -> None:
    expected = digest(*frozen_halves(16, 16, 4, name="layer", seed=0))
    torch.set_default_dtype(torch.float64)
    try:
        a, c = frozen_halves(16, 16, 4, name="layer", seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert a.dtype == c.dtype == torch.float32 and digest(a, c) == expected


def test_a_fresh_process_draws_the_same_basis() -> None:
    code = (
        "import hashlib; from b4m_core.basis import frozen_halves as f; a, c = f(40, 24, 8, name='layer', seed=5); "
        "print(hashlib.sha256(a.numpy().tobytes() + c.contiguous().numpy().tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == digest(*frozen_halves(40, 24, 8, name="layer", seed=5))


@pytest.mark.parametrize("change", [{"seed": 6}, {"name": "layer2"}, {"m": 42}, {"n": 26}, {"rank": 7}])
def test_seed_and_name_and_shape_and_rank_each_change_the_basis(change: dict[str, object]) -> None:
    asked: dict[str, object] = {"m": 40, "n": 24, "rank": 8, "name": "layer", "seed": 5}

    def draw(m: int, n: int, rank: int, name: str, seed: int) -> tuple[Tensor, Tensor]:
        return frozen_halves(m, n, rank, name=name, seed=seed)

    (a, c), (other_a, other_c) = draw(**asked), draw(**{**asked, **change})  # type: ignore[arg-type]
    columns, rows = min(a.shape[1], other_a.shape[1]), min(len(a), len(other_a))
    assert not torch.equal(a[:rows, :columns], other_a[:rows, :columns])
    assert not torch.equal(c[:columns, :12], other_c[:columns, :12])


def test_a_rank_from_one_to_the_limit_is_accepted() -> None:
    for rank in (1, 7):
        assert frozen_halves(8, 8, rank, name="x", seed=0)[0].shape == (4, rank)


@pytest.mark.parametrize("rank", [0, -1, 8, 64])
def test_a_rank_that_does_not_fit_is_refused_in_a_sentence(rank: int) -> None:
    with pytest.raises(B4MError, match=r"Rank -?\d+ does not fit layer x: choose a rank from 1 to 7\."):
        frozen_halves(8, 8, rank, name="x", seed=0)


def test_changing_a_drawn_basis_does_not_change_the_next_one() -> None:
    a, c = frozen_halves(8, 8, 2, name="x", seed=0)
    a.zero_()
    c.zero_()
    again = frozen_halves(8, 8, 2, name="x", seed=0)
    assert again[0].abs().sum() > 0 and again[1].abs().sum() > 0
