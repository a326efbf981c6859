"""One batched step against two separate backward passes, in double precision.

The oracle knows nothing of the method's code: it builds dW from A, B, C, D with the half that may not move detached, runs the own rows and
the partner rows apart, and asks autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss

from b4m_core import Adapter, Facts, PartlyLearnableProjection
from b4m_core.layers import TOKENS
from b4m_core.row_split import ALL_ROWS, LowRankBranch, Rows
from b4m_core.trainings import training

CONTENT, STYLE = "AD", "BC"  # whose factor each is; A and C where they are learned
MOVES = {
    "content": (CONTENT, STYLE),
    "style": (STYLE, CONTENT),
    "together": ("ABCD", "ABCD"),
}  # what the own and what the partner loss moves
SHAPES = [(8, 8), (6, 10), (10, 6), (9, 7)]
CASES = [(role, partners) for role in ("content", "style") for partners in (0, 1, 2, 3)] + [("together", 1)]


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-300))


def update(projection: PartlyLearnableProjection, movable: str) -> Tensor:
    """dW as in the figure, or A D + B C for full reach and free, with every part that is not in ``movable`` a constant."""
    a, b, c, d = (getattr(projection, part) if part in movable else getattr(projection, part).detach() for part in "ABCD")
    if not projection.split.cut:
        return a @ d + b @ c
    corner = a @ c if projection.start == "published" else a.new_zeros(len(a), c.shape[1])
    return torch.cat([torch.cat([corner, a @ d], dim=1), torch.cat([b @ c, b @ d], dim=1)])


def double_projection(m: int, n: int, kind: str, name: str = "layer", rank: int = 3) -> PartlyLearnableProjection:
    made = tiny.KINDS[kind]
    projection = PartlyLearnableProjection(m, n, rank, name=name, start=made["start"], split=made["split"]).double()
    generator = torch.Generator().manual_seed(m * 100 + n)
    for half in projection.parameters():
        half.data = torch.randn(half.shape, generator=generator, dtype=torch.float64) * 0.3
    return projection


def assert_same_gradients(
    projections: Sequence[PartlyLearnableProjection], expected: Sequence[dict[str, Tensor]], least: float = 1e-8
) -> None:
    for projection, wanted in zip(projections, expected, strict=True):
        for half, gradient in wanted.items():
            actual = getattr(projection, half).grad
            if float(gradient.abs().max()) == 0:
                assert torch.count_nonzero(actual) == 0
            else:
                assert float(gradient.abs().max()) > least and relative(actual, gradient) < 1e-10


def take_gradients(projections: Sequence[PartlyLearnableProjection]) -> list[dict[str, Tensor]]:
    taken = []
    for projection in projections:
        parts = dict(projection.named_parameters())
        taken.append({name: torch.zeros_like(part) if part.grad is None else part.grad.clone() for name, part in parts.items()})
        for part in parts.values():
            part.grad = None
    return taken


class TwoLayers(nn.Module):
    """Two adapted layers behind each other, so that a half's gradient also has to pass another adapted layer."""

    def __init__(self, m: int, n: int, kind: str) -> None:
        super().__init__()
        self.first, self.second = double_projection(m, n, kind), double_projection(n, m, kind, "second")
        generator = torch.Generator().manual_seed(9)
        self.weights = [torch.randn(size, generator=generator, dtype=torch.float64) / 3 for size in ((m, n), (n, m))]

    def forward(self, x: Tensor, layer: Callable[[PartlyLearnableProjection, Tensor], Tensor]) -> Tensor:
        hidden = torch.tanh(linear(x, self.weights[0]) + layer(self.first, x))
        return linear(hidden, self.weights[1]) + layer(self.second, hidden)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("gradient_accumulation_steps", [1, 3])
@pytest.mark.parametrize("role,partners", CASES)
@pytest.mark.parametrize("m,n", SHAPES)
def test_one_batched_step_equals_two_separate_backward_passes(
    m: int, n: int, role: str, partners: int, gradient_accumulation_steps: int, kind: str
) -> None:
    net, own = TwoLayers(m, n, kind), 2
    generator = torch.Generator().manual_seed(1)
    batches = [
        torch.randn(2, own * (1 + partners), 4, n, generator=generator, dtype=torch.float64) for _ in range(gradient_accumulation_steps)
    ]
    layers = [net.first, net.second]
    for x, target in batches:
        for rows, movable in ((slice(0, own), MOVES[role][0]), (slice(own, None), MOVES[role][1])):
            if len(x[rows]):
                out = net(x[rows], lambda projection, h, movable=movable: linear(h, update(projection, movable)))
                (mse_loss(out, target[rows]) / gradient_accumulation_steps).backward()
    expected = take_gradients(layers)
    for x, target in batches:
        split = training(role, "multi_correspondence").rows(own, len(x))
        losses = (net(x, lambda projection, h, split=split: projection(h, split)) - target).square().mean(dim=(1, 2))
        partner = losses[own:].mean() if partners else losses.new_zeros(())
        ((losses[:own].mean() + partner) / gradient_accumulation_steps).backward()
    assert_same_gradients(layers, expected)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("role,partners", [("content", 0), ("content", 2), ("style", 3), ("together", 1)])
def test_one_batched_step_of_a_whole_unet_equals_two_passes(role: str, partners: int, kind: str) -> None:
    unet = tiny.tiny_unet((1, 1, 2), levels=2, dtype=torch.float64)
    facts = Facts(role=role if role != "together" else "merged", rank=3, **tiny.KINDS[kind])  # type: ignore[arg-type]
    adapter = tiny.filled(Adapter.for_unet(unet, facts), seed=2)
    for projection in adapter.layers.values():
        projection.double()
    inputs = unet_inputs(rows=1 + partners)
    layers = list(adapter.layers.values())
    plain = PlainAdapter(unet, adapter)
    for rows, movable in ((slice(0, 1), MOVES[role][0]), (slice(1, None), MOVES[role][1])):
        if len(inputs["sample"][rows]):
            plain.movable = movable
            mse_loss(run_unet(unet, inputs, rows), inputs["target"][rows]).backward()
    plain.remove()
    expected = take_gradients(layers)
    adapter.attach(unet)
    adapter.rows = training(role, "multi_correspondence").rows(1, 1 + partners)
    losses = (run_unet(unet, inputs, slice(None)) - inputs["target"]).square().mean(dim=(1, 2, 3))
    (losses[:1].mean() + (losses[1:].mean() if partners else 0)).backward()
    adapter.detach()
    assert_same_gradients(layers, expected, least=0)


class PlainAdapter:
    """The oracle on a UNet: forward hooks that add x dW', with the half that may not move detached."""

    def __init__(self, unet: nn.Module, adapter: Adapter) -> None:
        self.movable = "ABCD"
        self._handles = [unet.get_submodule(name).register_forward_hook(self._hook(layer)) for name, layer in adapter.layers.items()]

    def _hook(self, projection: PartlyLearnableProjection) -> Callable[..., Tensor]:
        return lambda module, inputs, output: output + linear(inputs[0], update(projection, self.movable))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def unet_inputs(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(6)
    shapes = {"sample": (rows, 4, 8, 8), "target": (rows, 4, 8, 8), "context": (rows, 5, tiny.TEXT_WIDTH), "pooled": (rows, tiny.POOLED)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def run_unet(unet: nn.Module, inputs: dict[str, Tensor], rows: slice) -> Tensor:
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]], dtype=torch.float64).expand(len(inputs["sample"][rows]), -1)
    added = {"text_embeds": inputs["pooled"][rows], "time_ids": sizes}
    return unet(inputs["sample"][rows], torch.tensor(300), encoder_hidden_states=inputs["context"][rows], added_cond_kwargs=added).sample


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("m,n", [(4, 4), (3, 5), (5, 4)])
def test_gradcheck_accepts_the_branch_where_all_rows_move_both(m: int, n: int, kind: str) -> None:
    projection = double_projection(m, n, kind, rank=2)
    parts = [getattr(projection, part).detach() for part in "ABCD"]
    x = torch.randn(2, 3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = [x, *(value for part, value in zip("ABCD", parts, strict=True) if part in projection.split.learned)]

    def branch(x: Tensor, *learned: Tensor) -> Tensor:
        given = dict(zip(projection.split.learned, learned, strict=True))
        every = (given.get(part, parts["ABCD".index(part)]) for part in "ABCD")
        return LowRankBranch.apply(x, projection.computed(), ALL_ROWS, TOKENS, *every)

    assert torch.autograd.gradcheck(branch, tuple(value.requires_grad_() for value in inputs))


@pytest.mark.parametrize("kind", ["published", "full", "free"])
def test_the_gradient_that_flows_on_is_whole_for_every_row(kind: str) -> None:
    projection = double_projection(8, 6, kind)
    x = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 8, dtype=torch.float64)
    (projection(x, Rows(up=slice(4, 4), down=slice(0, 1))) * weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight @ update(projection, "").detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["zero_start", "full", "free"])
def test_rows_that_may_not_move_a_half_do_not_change_its_gradient(kind: str) -> None:
    projection = double_projection(8, 6, kind)
    rows = Rows(up=slice(2, 4), down=slice(0, 2))
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    gradients = []
    for own_scale, partner_scale in ((1.0, 1.0), (5.0, 1.0), (1.0, 5.0)):
        take_gradients([projection])
        scaled = torch.cat([x[:2] * own_scale, x[2:] * partner_scale])
        projection(scaled, rows).sum().backward()
        gradients.append((projection.B.grad.clone(), projection.D.grad.clone()))  # type: ignore[union-attr]
    assert torch.equal(gradients[0][0], gradients[1][0]) and not torch.equal(gradients[0][1], gradients[1][1])
    assert torch.equal(gradients[0][1], gradients[2][1]) and not torch.equal(gradients[0][0], gradients[2][0])


@pytest.mark.parametrize("kind", ["published", "full", "free"])
def test_gradients_of_half_precision_rows_come_back_in_single_precision(kind: str) -> None:
    projection = double_projection(8, 6, kind).float()
    projection(torch.randn(2, 3, 6).bfloat16()).float().sum().backward()
    assert all(part.grad is not None and part.grad.dtype == torch.float32 for part in projection.parameters())


def test_the_row_slices_of_each_training_are_the_paper_s() -> None:
    def owners(role: str, own: int, total: int) -> tuple[list[int], list[int]]:
        rows, numbers = training(role, "multi_correspondence").rows(own, total), list(range(total))
        return numbers[rows.up], numbers[rows.down]

    assert owners("content", 1, 4) == ([1, 2, 3], [0])
    assert owners("content", 2, 2) == ([], [0, 1])
    assert owners("style", 1, 4) == ([0], [1, 2, 3])
    assert owners("style", 2, 2) == ([0, 1], [])
    assert owners("together", 1, 2) == ([0, 1], [0, 1])


def test_with_kept_correspondences_all_rows_move_what_is_taught_and_nothing_else() -> None:
    assert training("content", "output_preservation").rows(2, 4) == Rows(up=slice(2, 2), down=slice(0, 4))
    assert training("style", "output_preservation").rows(2, 4) == Rows(up=slice(0, 4), down=slice(2, 2))
    assert training("together", "output_preservation").rows(4, 8) == Rows(up=slice(0, 8), down=slice(0, 8))


def test_rows_that_are_kept_stand_beside_every_taught_row_and_are_none_without_auxiliary_sets() -> None:
    def beside(role: str, correspondence: str) -> list[tuple[int, bool]]:
        row = training(role, correspondence)
        return [
            (row.rows_beside(partners), row.has_preservation_rows(partners))
            for partners in ((1, 2, 6) if role == "together" else (0, 1, 5))
        ]

    assert beside("content", "output_preservation") == [(0, False), (1, True), (1, True)]
    assert beside("style", "multi_correspondence") == [(0, False), (1, False), (5, False)]
    assert beside("together", "output_preservation") == [(1, False), (3, True), (3, True)]
    assert training("together", "multi_correspondence").rows_beside(1) == 1
