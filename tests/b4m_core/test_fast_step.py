"""The fast step does the plain step's sums: same losses, same gradients, same training, for every split and every training."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from b4m_core import Adapter, Facts, RunStore, train
from b4m_core.fast.kinds import kinds
from b4m_core.fast.network import is_written_out
from b4m_core.fast.step import FastStep, PlainStep, Step
from b4m_core.planner import GIB, WAYS, explained, fastest_way
from b4m_core.row_split import ALL_ROWS, Rows
from b4m_core.stacks import Stack
from tests.b4m_core.tiny import POOLED, TEXT_WIDTH, TOKENS, Cancelled, TinyBase, cancel_at, filled, plan, tiny_unet

CONTENT, STYLE = Rows(slice(1, 4), slice(0, 1)), Rows(slice(0, 1), slice(1, 4))
SPLITS = [("zero_start", "halves"), ("published", "halves"), ("zero_start", "full"), ("zero_start", "free")]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


def batch(rows: int = 4, height: int = 8, width: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The inputs of one micro-step."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return {
        "noisy": draw(rows, 4, height, width),
        "target": draw(rows, 4, height, width),
        "mask": torch.ones(rows, 1, height, width, dtype=dtype),
        "timesteps": torch.full((rows,), 500),
        "context": draw(rows, TOKENS, TEXT_WIDTH),
        "pooled": draw(rows, POOLED),
        "size_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * rows, dtype=dtype),
    }


class Trained:
    """A tiny network under an adapter, with a step to train it by."""

    def __init__(
        self, fast: bool, start: str = "zero_start", split: str = "free", *,
        dtype: torch.dtype = torch.float64, device: str = "cpu", graph: bool = False, way: int = 0, still: str = "",
        silent: str = "",
    ) -> None:  # fmt: skip
        unet = tiny_unet(dtype=dtype).to(device)
        self.adapter = filled(Adapter.for_unet(unet, Facts(role="content", rank=4, base="f" * 64, start=start, split=split)))
        if dtype == torch.float64:
            for projection in self.adapter.layers.values():
                projection.double()
        of_kind = kinds(self.adapter.shapes())
        self.stacks = [Stack([self.adapter.layers[path] for group in groups for path in group], device) for groups in of_kind.values()]
        for stack in self.stacks:
            for part in still:
                stack.rest(part)
            for part in silent:
                stack.parts[part].data.zero_()
        self.step: Step
        if fast:
            self.step = FastStep(unet, self.adapter, self.stacks, of_kind, micro_steps=2, graph=graph, way=way)
        else:
            self.step = PlainStep(unet, self.adapter, micro_steps=2)

    def gradients(self) -> dict[str, Tensor]:
        parts = {f"{name}.{part}": getattr(layer, part) for name, layer in self.adapter.layers.items() for part in layer.learned()}
        return {name: part.grad.clone() for name, part in parts.items() if part.requires_grad}

    def learn(self, steps: int, rows: Rows = CONTENT) -> list[float]:
        """The losses of ``steps`` steps of AdamW on changing batches."""
        halves = [stack.parts[part] for stack in self.stacks for part in stack.kind.learned()]
        optimiser = torch.optim.AdamW(halves, lr=1e-3)
        losses = []
        for number in range(steps):
            for half in halves:
                half.grad.zero_()  # type: ignore[union-attr]
            losses.append(float(self.step(batch(seed=number % 7, dtype=torch.float32), 1, rows).sum()))
            optimiser.step()
            self.step.refresh()
        return losses


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance * (float(gradient.abs().max()) + 1e-12))


@pytest.mark.parametrize(("start", "split"), SPLITS)
def test_losses_and_gradients_equal_the_plain_path_in_double_precision(start: str, split: str) -> None:
    plain, fast = Trained(False, start, split), Trained(True, start, split)
    for seed, rows in enumerate((CONTENT, STYLE, ALL_ROWS)):  # gradients add up over micro-steps
        expected, found = plain.step(batch(seed=seed), 1, rows), fast.step(batch(seed=seed), 1, rows)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_same_gradients(fast.gradients(), plain.gradients(), 1e-9)


@pytest.mark.parametrize("split", ["halves", "full", "free"])
def test_rows_that_keep_are_taught_what_the_base_model_says(split: str) -> None:
    plain, fast = Trained(False, split=split), Trained(True, split=split)
    everything = Rows(slice(0, 0), slice(0, 4))
    expected, found = (trained.step(batch(), 2, everything, keep=True) for trained in (plain, fast))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert float(expected[1]) < float(plain.step(batch(), 2, everything)[1])
    fast.step(batch(), 2, everything)
    assert_same_gradients(fast.gradients(), plain.gradients(), 1e-9)


@pytest.mark.parametrize("split,still,taught", [("free", "BC", "AD"), ("free", "AD", "BC"), ("full", "B", "D"), ("halves", "B", "D")])
def test_a_concept_that_is_not_there_takes_no_room(split: str, still: str, taught: str) -> None:
    """A first training in the free split is that of an ordinary LoRA of rank r, not of 2r."""
    trained = [Trained(fast, split=split, still=still, silent=still[0]) for fast in (False, True)]
    plain, fast = trained
    torch.testing.assert_close(fast.step(batch(), 1, ALL_ROWS), plain.step(batch(), 1, ALL_ROWS), rtol=1e-12, atol=1e-12)
    gradients = fast.gradients()
    assert {name[-1] for name in gradients} == set(taught)
    assert_same_gradients(gradients, plain.gradients(), 1e-9)
    assert fast.step.groups.families[0].layout.width == (8 if split == "halves" else 4)  # type: ignore[attr-defined]


def test_a_half_that_no_row_may_move_gets_no_gradient() -> None:
    fast = Trained(True)
    fast.step(batch(), 4, Rows(slice(4, 4), slice(0, 4)))
    assert {name[-1] for name, gradient in fast.gradients().items() if gradient.any()} == {"A", "D"}


def test_every_picture_shape_works_with_the_same_step() -> None:
    plain, fast = Trained(False), Trained(True)
    for height, width in ((8, 8), (4, 16), (8, 4)):
        given = batch(height=height, width=width)
        torch.testing.assert_close(fast.step(given, 1, CONTENT), plain.step(given, 1, CONTENT), rtol=1e-12, atol=1e-12)


def test_forty_steps_give_the_plain_paths_losses() -> None:
    plain, fast = (Trained(fast, dtype=torch.float32).learn(40) for fast in (False, True))
    torch.testing.assert_close(torch.tensor(fast), torch.tensor(plain), rtol=2e-3, atol=2e-4)
    assert fast[-1] < fast[4]


@pytest.mark.parametrize("way", range(1, len(WAYS)))
def test_the_ways_that_need_less_memory_do_the_same_sums(way: int) -> None:
    whole, small = Trained(True), Trained(True, way=way)
    for seed, (own, rows) in enumerate([(1, CONTENT), (2, ALL_ROWS), (4, Rows(slice(4, 4), slice(0, 4)))]):
        expected, found = (trained.step(batch(seed=seed), own, rows, keep=seed == 1) for trained in (whole, small))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert_same_gradients(small.gradients(), whole.gradients(), 1e-9)


def test_the_network_is_left_with_its_own_weights() -> None:
    trained = Trained(True, dtype=torch.float32)
    unet = trained.step.network.unet  # type: ignore[attr-defined]
    trained.step.close()
    for name, weight in tiny_unet().state_dict().items():
        assert torch.equal(unet.state_dict()[name], weight), name


def test_only_the_network_that_is_written_out_takes_the_fast_step() -> None:
    unet = tiny_unet()
    assert is_written_out(unet) and not is_written_out(torch.nn.Linear(1, 1))
    unet.register_to_config(use_linear_projection=False)
    assert not is_written_out(unet)


def test_the_fastest_way_that_fits_is_taken_and_explained() -> None:
    small, large = 64 * 64, 128 * 128
    assert [fastest_way(free * GIB, 4, small) for free in (70, 8)] == [0, 0]
    assert fastest_way(70 * GIB, 4, large) == 0 and fastest_way(0, 4, large) == len(WAYS) - 1
    chosen = [fastest_way(free * GIB, 4, large) for free in range(40)]
    assert chosen == sorted(chosen, reverse=True) and set(chosen) == set(range(len(WAYS)))
    assert explained(1, 9 * GIB, 4, large) == "Memory: 9.0 GB free, a step needs about 6.0: one picture after the other."


def test_a_step_that_ran_out_of_memory_takes_the_next_way_until_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    trained = Trained(True)
    expected = trained.step(batch(), 1, CONTENT)
    with caplog.at_level(logging.WARNING, logger="b4m"):
        for way in WAYS[1:]:
            assert trained.step.squeeze() and caplog.messages[-1] == f"The card's memory ran out: from here on {way.words}."
            torch.testing.assert_close(trained.step(batch(), 1, CONTENT), expected, rtol=1e-9, atol=1e-9)
    assert not trained.step.squeeze()


@CUDA
@pytest.mark.parametrize(("start", "split"), SPLITS)
def test_a_replayed_graph_equals_the_plain_path_on_the_card(start: str, split: str) -> None:
    plain, fast = (Trained(fast, start, split, dtype=torch.float32, device="cuda", graph=fast) for fast in (False, True))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for height, width in ((8, 8), (4, 16), (8, 8)):
        for trained in (plain, fast):
            for stack in trained.stacks:
                for part in stack.kind.learned():
                    stack.parts[part].grad.zero_()  # type: ignore[union-attr]
        given = batch(height=height, width=width, dtype=torch.float32)
        torch.testing.assert_close(fast.step(given, 1, CONTENT), plain.step(given, 1, CONTENT), rtol=1e-4, atol=1e-5)
        assert_same_gradients(fast.gradients(), plain.gradients(), 2e-3)
    assert len(fast.step._captured) == 2  # type: ignore[attr-defined]


@CUDA
@pytest.mark.parametrize("way", range(1, len(WAYS)))
def test_the_ways_that_need_less_memory_replay_too(way: int) -> None:
    whole, small = (Trained(True, dtype=torch.float32, device="cuda", graph=way > 0, way=way) for way in (0, way))
    for seed in range(3):
        given = batch(seed=seed, dtype=torch.float32)
        torch.testing.assert_close(small.step(given, 1, CONTENT), whole.step(given, 1, CONTENT), rtol=1e-4, atol=1e-5)
    assert_same_gradients(small.gradients(), whole.gradients(), 2e-3)
    assert small.step.graph  # type: ignore[attr-defined]


@CUDA
def test_two_hundred_replayed_steps_give_the_plain_paths_losses() -> None:
    plain, fast = (Trained(fast, dtype=torch.float32, device="cuda", graph=fast).learn(200) for fast in (False, True))
    torch.testing.assert_close(torch.tensor(fast), torch.tensor(plain), rtol=2e-2, atol=2e-3)


@CUDA
@pytest.mark.parametrize("role", ["content", "style", "together"])
def test_a_training_on_the_card_that_was_cancelled_comes_to_the_processors_losses(role: str, tmp_path: Path) -> None:
    made, losses = plan(role, steps=6, accumulation=2), []
    for device in ("cpu", "cuda"):
        base = TinyBase(tiny_unet().to(device))
        base.device = torch.device(device)
        if device == "cuda":
            with pytest.raises(Cancelled):
                train(made, base, RunStore(tmp_path / device), cancel_at(20))
        losses.append([row[1:] for row in train(made, base, RunStore(tmp_path / device)).facts.losses])
    assert len(losses[0]) == 6
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=2e-2, atol=2e-3)
