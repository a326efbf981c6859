"""The Riemannian optimiser against the formula written out with torch.linalg.inv, in double precision."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from torch import Tensor, nn

from b4m_core import Adapter, Facts, PartlyLearnableProjection, RiemannianAdamW
from b4m_core.riemannian import gram_inverse
from b4m_core.stacks import stack_layers

LR, BETAS, EPS, DECAY, DAMPING = 3e-2, (0.9, 0.999), 1e-8, 1e-2, 1e-4
RANK = 3


def draw(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Formula:
    """Zhang and Pilanci's step and AdamW's moments for one layer, with whole factors U = [A; B] and V = [C, D]."""

    def __init__(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, preconditioned: bool = True) -> None:
        self.a, self.b, self.c, self.d = a, b.clone(), c, d.clone()
        self.preconditioned, self.count = preconditioned, 0
        self.moments = {"b": [torch.zeros_like(b), torch.zeros_like(b)], "d": [torch.zeros_like(d), torch.zeros_like(d)]}

    def step(self, gradient_b: Tensor, gradient_d: Tensor) -> None:
        u, v = torch.cat([self.a, self.b]), torch.cat([self.c, self.d], dim=1)
        eye = torch.eye(u.shape[1], dtype=u.dtype)
        gram_v, gram_u = v @ v.T, u.T @ u
        delta_v, delta_u = (DAMPING * max(float(gram.trace()) / len(gram), 1e-12) for gram in (gram_v, gram_u))
        if self.preconditioned:
            gradient_b = gradient_b @ torch.linalg.inv(gram_v + delta_v * eye)
            gradient_d = torch.linalg.inv(gram_u + delta_u * eye) @ gradient_d
        self.count += 1
        self.b, self.d = self._adamw("b", self.b, gradient_b), self._adamw("d", self.d, gradient_d)

    def _adamw(self, name: str, weight: Tensor, gradient: Tensor) -> Tensor:
        first, second = self.moments[name]
        first.mul_(BETAS[0]).add_(gradient * (1 - BETAS[0]))
        second.mul_(BETAS[1]).add_(gradient**2 * (1 - BETAS[1]))
        first_hat, second_hat = first / (1 - BETAS[0] ** self.count), second / (1 - BETAS[1] ** self.count)
        return weight - LR * DECAY * weight - LR * first_hat / (second_hat.sqrt() + EPS)


def halves(m: int, n: int, kind: str = "random") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d = draw(m // 2, RANK, seed=1), draw(m - m // 2, RANK, seed=2), draw(RANK, n // 2, seed=3), draw(RANK, n - n // 2, seed=4)
    if kind == "zero learned":
        b, d = torch.zeros_like(b), torch.zeros_like(d)
    if kind == "rank deficient":
        a, b = a.clone(), b.clone()
        a[:, 2], b[:, 2] = a[:, 0] + a[:, 1], b[:, 0] + b[:, 1]
        c, d = c.clone(), d.clone()
        c[1:], d[1:] = c[:1], d[:1]
    return a, b, c, d


def optimiser_for(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[RiemannianAdamW, nn.Parameter, nn.Parameter]:
    up, down = nn.Parameter(b.clone()), nn.Parameter(d.clone())
    return RiemannianAdamW([(up, down)], LR, BETAS, EPS, DECAY, DAMPING, frozen=[(a, c)]), up, down


@pytest.mark.parametrize("kind", ["random", "zero learned", "rank deficient"])
@pytest.mark.parametrize("m,n", [(8, 8), (6, 11), (9, 4)])
def test_seven_steps_follow_the_formula_written_with_inv(m: int, n: int, kind: str) -> None:
    a, b, c, d = halves(m, n, kind)
    optimiser, up, down = optimiser_for(a, b, c, d)
    formula = Formula(a, b, c, d)
    for k in range(7):
        up.grad, down.grad = draw(*up.shape, seed=10 + k), draw(*down.shape, seed=50 + k)
        formula.step(up.grad.clone(), down.grad.clone())
        optimiser.step()
        torch.testing.assert_close(up.detach(), formula.b, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(down.detach(), formula.d, rtol=1e-7, atol=1e-9)


def test_whole_factors_without_a_frozen_part_follow_the_formula() -> None:
    u, v = draw(8, RANK, seed=1), draw(RANK, 6, seed=2)
    up, down = nn.Parameter(u.clone()), nn.Parameter(v.clone())
    optimiser = RiemannianAdamW([(up, down)], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, damping=DAMPING)
    formula = Formula(u[:0], u, v[:, :0], v)
    for k in range(5):
        up.grad, down.grad = draw(8, RANK, seed=k), draw(RANK, 6, seed=20 + k)
        formula.step(up.grad.clone(), down.grad.clone())
        optimiser.step()
    torch.testing.assert_close(up.detach(), formula.b, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(down.detach(), formula.d, rtol=1e-9, atol=1e-11)


def test_both_factors_at_zero_without_a_frozen_part_stay_finite() -> None:
    up, down = nn.Parameter(torch.zeros(6, RANK)), nn.Parameter(torch.zeros(RANK, 5))
    optimiser = RiemannianAdamW([(up, down)], lr=LR)
    for k in range(3):
        up.grad, down.grad = draw(6, RANK, seed=k, dtype=torch.float32), draw(RANK, 5, seed=9 + k, dtype=torch.float32)
        optimiser.step()
    assert torch.isfinite(up).all() and torch.isfinite(down).all()
    assert float(up.detach().abs().min()) > 0


@pytest.mark.parametrize("rank", [4, 64, 128])
def test_rank_one_factors_in_single_precision_are_stepped_without_an_error(rank: int) -> None:
    up = nn.Parameter(draw(96, 1, seed=1, dtype=torch.float32) @ draw(1, rank, seed=2, dtype=torch.float32))
    down = nn.Parameter(draw(rank, 1, seed=3, dtype=torch.float32) @ draw(1, 80, seed=4, dtype=torch.float32))
    optimiser = RiemannianAdamW([(up, down)], lr=1e-3)
    up.grad, down.grad = draw(96, rank, seed=5, dtype=torch.float32), draw(rank, 80, seed=6, dtype=torch.float32)
    optimiser.step()
    assert torch.isfinite(up).all() and torch.isfinite(down).all()


def test_the_gram_inverse_is_the_inverse_with_relative_damping() -> None:
    factors = draw(5, 7, RANK, seed=8) * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6], dtype=torch.float64)[:, None, None]
    grams = factors.mT @ factors
    for gram, inverse in zip(grams, gram_inverse(grams, 1e-2), strict=True):
        expected = torch.linalg.inv(gram + 1e-2 * gram.trace() / RANK * torch.eye(RANK, dtype=torch.float64))
        torch.testing.assert_close(inverse, expected, rtol=1e-9, atol=0)


def test_the_path_is_not_that_of_plain_adamw() -> None:
    a, b, c, d = halves(8, 10)
    optimiser, up, down = optimiser_for(a, b, c, d)
    plain_up, plain_down = nn.Parameter(b.clone()), nn.Parameter(d.clone())
    plain = torch.optim.AdamW([plain_up, plain_down], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    oracle = Formula(a, b, c, d, preconditioned=False)
    for k in range(5):
        up.grad = plain_up.grad = draw(*up.shape, seed=k)
        down.grad = plain_down.grad = draw(*down.shape, seed=30 + k)
        optimiser.step()
        plain.step()
        oracle.step(up.grad, down.grad)
    torch.testing.assert_close(plain_up.detach(), oracle.b)  # the yardstick really is AdamW
    step = float((plain_up - b).detach().norm())
    apart = float((up - plain_up).detach().norm()), float((down - plain_down).detach().norm())
    assert apart[0] > 0.1 * step and apart[1] > 0.1 * float((plain_down - d).detach().norm())


def test_frozen_halves_are_bit_identical_after_a_hundred_steps_with_weight_decay() -> None:
    layers = {name: PartlyLearnableProjection(m, n, 2, name=name) for name, m, n in ((tiny.LAYER, 8, 8), (tiny.OTHER_LAYER, 10, 6))}
    adapter = tiny.filled(Adapter(layers, Facts(role="merged", rank=2)))
    before = {name: (layer.A.clone(), layer.B.clone(), layer.C.clone(), layer.D.clone()) for name, layer in adapter.layers.items()}
    stacks = stack_layers(adapter.layers, "cpu")
    optimiser = RiemannianAdamW([(s.up, s.down) for s in stacks], lr=1e-2, weight_decay=0.5, frozen=[s.frozen for s in stacks])
    for k in range(100):
        for stack in stacks:
            stack.up.grad, stack.down.grad = draw(*stack.up.shape, seed=k).float(), draw(*stack.down.shape, seed=500 + k).float()
        optimiser.step()
    for name, (a, b, c, d) in before.items():
        layer = adapter.layers[name]
        assert torch.equal(layer.A, a) and torch.equal(layer.C, c)
        assert not torch.equal(layer.B, b) and not torch.equal(layer.D, d)


def test_stacked_layers_step_as_each_layer_would_alone() -> None:
    count, m, n = 5, 8, 6
    a, b, c, d = draw(count, 4, RANK, seed=1), draw(count, 4, RANK, seed=2), draw(count, RANK, 3, seed=3), draw(count, RANK, 3, seed=4)
    stacked, up, down = optimiser_for(a, b, c, d)
    alone = [optimiser_for(a[i], b[i], c[i], d[i]) for i in range(count)]
    for k in range(6):
        up.grad, down.grad = draw(*up.shape, seed=70 + k), draw(*down.shape, seed=90 + k)
        stacked.step()
        for i, (optimiser, one_up, one_down) in enumerate(alone):
            one_up.grad, one_down.grad = up.grad[i].clone(), down.grad[i].clone()
            optimiser.step()
    assert (m, n) == (2 * up.shape[1], 2 * down.shape[2])
    for i, (_, one_up, one_down) in enumerate(alone):
        torch.testing.assert_close(up[i], one_up, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(down[i], one_down, rtol=1e-12, atol=1e-13)


def test_a_state_dict_round_trip_keeps_the_moments_and_the_path() -> None:
    a, b, c, d = halves(8, 10)
    first, up, down = optimiser_for(a, b, c, d)
    gradients = [(draw(*up.shape, seed=k), draw(*down.shape, seed=40 + k)) for k in range(8)]
    for up.grad, down.grad in gradients[:4]:
        first.step()
    second, other_up, other_down = optimiser_for(a, up.detach(), c, down.detach())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert float(second.state[other_up]["step"]) == 4 and torch.equal(second.state[other_up]["exp_avg"], first.state[up]["exp_avg"])
    for up_gradient, down_gradient in gradients[4:]:
        up.grad, down.grad = up_gradient, down_gradient
        other_up.grad, other_down.grad = up_gradient.clone(), down_gradient.clone()
        first.step()
        second.step()
    assert torch.equal(up, other_up) and torch.equal(down, other_down)


def test_both_gradients_are_preconditioned_before_either_factor_moves() -> None:
    a, b, c, d = halves(8, 10)
    optimiser, up, down = optimiser_for(a, b, c, d)
    up.grad, down.grad = draw(*up.shape, seed=1), draw(*down.shape, seed=2)
    u, damping = torch.cat([a, b]), DAMPING
    gram = u.T @ u
    expected = torch.linalg.inv(gram + damping * gram.trace() / RANK * torch.eye(RANK, dtype=u.dtype)) @ down.grad
    optimiser.step()
    torch.testing.assert_close(optimiser.state[down]["exp_avg"], 0.1 * expected, rtol=1e-9, atol=1e-12)


def test_a_factor_without_a_gradient_stays_as_it_is() -> None:
    optimiser, up, down = optimiser_for(*halves(8, 10))
    before = down.detach().clone()
    up.grad = draw(*up.shape, seed=1)
    optimiser.step()
    assert torch.equal(down, before) and down not in optimiser.state


def test_a_learning_rate_schedule_of_torch_drives_the_optimiser() -> None:
    optimiser, up, down = optimiser_for(*halves(8, 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.0 if step else 1.0)
    for k in range(2):
        before = up.detach().clone()
        up.grad, down.grad = draw(*up.shape, seed=k), draw(*down.shape, seed=k + 9)
        optimiser.step()
        schedule.step()
    assert torch.equal(up, before)


def test_a_closure_is_called_and_its_loss_comes_back() -> None:
    optimiser, up, down = optimiser_for(*halves(8, 10))

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (up.sum() + down.sum()) ** 2
        loss.backward()
        return loss

    before = up.detach().clone()
    loss = optimiser.step(closure)  # type: ignore[arg-type,func-returns-value]
    assert isinstance(loss, Tensor) and not torch.equal(up, before)


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"eps": 0.0}, {"weight_decay": -0.1}, {"damping": 0.0}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    pair = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="RiemannianAdamW needs"):
        RiemannianAdamW([pair], **wrong)  # type: ignore[arg-type]


def test_a_frozen_part_for_every_pair_or_none_is_asked_for() -> None:
    pair = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="1 pairs but 2 frozen parts"):
        RiemannianAdamW([pair], frozen=[None, None])
