"""The fast step does the plain step's sums: same losses, same gradients, same training, for every split and every training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from b4m_core import Adapter, B4MError, Facts, RunStore, TrainingSettings, engine, train, trainings
from b4m_core.engine import Engine
from b4m_core.fast import fused_step, network
from b4m_core.fast.attention import ShortAttention, lie_side_by_side
from b4m_core.fast.fused_step import FusedStep
from b4m_core.fast.graph import Captured, Places
from b4m_core.fast.network import is_written_out
from b4m_core.fast.optimizer_step import UpdateAhead
from b4m_core.layers import ATTENTION
from b4m_core.planner import FIRST_OFFLOADED, GIB, MEMORY_MODES, explained, fastest_way
from b4m_core.riemannian import RiemannianAdamW
from b4m_core.row_split import ALL_ROWS, Rows
from b4m_core.trainings import Training
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
        silent: str = "", apart: bool = False, layers: str = ATTENTION,
    ) -> None:  # fmt: skip
        unet = tiny_unet(dtype=dtype).to(device)
        if apart:  # as for a card without room for the network
            for name, module in unet.named_modules():
                if ".transformer_blocks." in name and isinstance(module, torch.nn.Linear):
                    module.weight.data = module.weight.data.cpu()
        facts = Facts(role="content", rank=4, base="f" * 64, start=start, split=split, layers=layers)
        self.adapter = filled(Adapter.for_unet(unet, facts))
        if dtype == torch.float64:
            for projection in self.adapter.layers.values():
                projection.double()
        for projection in self.adapter.layers.values():
            for part in silent:
                getattr(projection, part).data.zero_()
        taught = frozenset(concept for concept in ("content", "style") if not set(getattr(facts.split_row, concept)) & set(still))
        row = Training(taught, taught, trainings.adamw, "content")
        settings = TrainingSettings(rank=4, start=start, split=split, gradient_accumulation_steps=2)
        self.engine = Engine.build(unet, self.adapter, row, settings, other_sets=1, fused=fast, graph=graph, first=way)
        self.stacks, self.step = self.engine.learned.stacks, self.engine.micro_step

    def gradients(self) -> dict[str, Tensor]:
        parts = {f"{name}.{part}": getattr(layer, part) for name, layer in self.adapter.layers.items() for part in layer.split.learned}
        return {name: part.grad.clone() for name, part in parts.items() if part.requires_grad}

    def learn(self, steps: int, rows: Rows = CONTENT) -> list[float]:
        """The losses of ``steps`` steps of AdamW on changing batches."""
        halves = [stack.parts[part] for stack in self.stacks for part in stack.split.learned]
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


class AttentionInTorch:
    """What triton_attention.py does, in torch and double precision."""

    used = 0

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), q.new_zeros(1)

    @classmethod
    def attend_backward(cls, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, gradient: Tensor, heads: int, into: Any) -> None:
        parts = [part.detach().clone().requires_grad_() for part in (q, k, v)]
        with torch.enable_grad():
            again, _ = cls.attend(*parts, heads)
        for place, value in zip(into, torch.autograd.grad(again, parts, gradient), strict=True):
            place.copy_(value)
        cls.used += lie_side_by_side(into)


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize(("start", "split"), SPLITS)
def test_an_attention_that_leaves_its_gradients_side_by_side_changes_no_sum(
    start: str, split: str, way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "attend", lambda q, k, v, heads, kernels: ShortAttention.apply(q, k, v, heads, AttentionInTorch))
    plain, fast = Trained(False, start, split), Trained(True, start, split, way=way)
    before = AttentionInTorch.used
    for seed, rows in enumerate((CONTENT, STYLE, ALL_ROWS)):
        torch.testing.assert_close(fast.step(batch(seed=seed), 1, rows), plain.step(batch(seed=seed), 1, rows), rtol=1e-11, atol=1e-11)
    assert_same_gradients(fast.gradients(), plain.gradients(), 1e-9)
    assert AttentionInTorch.used > before


def asking(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a step with a context that asks for its gradient."""
    return {**given, "context": given["context"].clone().requires_grad_()}


@pytest.mark.parametrize(("split", "way"), [("halves", 0), *(("free", way) for way in range(len(MEMORY_MODES)))])
def test_a_context_that_asks_for_its_gradient_gets_the_plain_paths(split: str, way: int) -> None:
    plain, fast = Trained(False, split=split), Trained(True, split=split, way=way)
    for preserve, rows in ((False, CONTENT), (True, Rows(slice(0, 0), slice(0, 4)))):
        expected, found = asking(batch()), asking(batch())
        for trained, given in ((plain, expected), (fast, found)):
            trained.step(given, 2, rows, preserve=preserve)
            trained.step(given, 2, rows, preserve=preserve)  # it adds up
        gradient = expected["context"].grad
        assert gradient is not None and gradient.abs().amax((1, 2)).all()
        torch.testing.assert_close(found["context"].grad, gradient, rtol=1e-9, atol=1e-12)
    assert_same_gradients(fast.gradients(), plain.gradients(), 1e-9)


class Rerun(Captured):
    """A recording that runs the function again, for processors, which record nothing."""

    def __init__(self, function: Callable[..., Tensor], example: dict[str, Tensor], device: torch.device, pool: object) -> None:
        self.function, self.places = function, Places(example, device)
        self.result = function(**self.places.tensors)
        self.graph = self  # type: ignore[assignment]

    def replay(self) -> None:
        self.places.clear()
        self.result.copy_(self.function(**self.places.tensors))


@pytest.mark.parametrize("way", [0, len(MEMORY_MODES) - 1])
def test_a_recording_gives_the_gradient_of_every_context_that_it_is_given(way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_step, "Captured", Rerun)
    plain, fast = Trained(False), Trained(True, way=way)
    fast.step.graph = True  # type: ignore[attr-defined]
    for seed in range(3):
        expected, found = asking(batch(seed=seed)), asking(batch(seed=seed))
        leaf = found["context"]
        found["context"] = torch.stack(list(leaf))  # as learned words give it
        plain.step(expected, 1, CONTENT), fast.step(found, 1, CONTENT)
        torch.testing.assert_close(leaf.grad, expected["context"].grad, rtol=1e-9, atol=1e-12)
    recorded = len(fast.step._captured)  # type: ignore[attr-defined]
    fast.step(batch(), 1, CONTENT)
    assert recorded and len(fast.step._captured) > recorded  # type: ignore[attr-defined]


@CUDA
@pytest.mark.parametrize("way", range(len(MEMORY_MODES)))
def test_a_replayed_graph_gives_the_gradient_of_the_context(way: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain, fast = (Trained(fast, dtype=torch.float32, device="cuda", graph=fast, way=way if fast else 0) for fast in (False, True))
    for seed in range(3):
        for device in ("cpu", "cuda"):
            given = {name: value.to(device) for name, value in batch(seed=seed, dtype=torch.float32).items()}
            expected, found = asking(given), asking(given)
            plain.step(expected, 1, CONTENT), fast.step(found, 1, CONTENT)
            wanted = expected["context"].grad
            assert wanted is not None
            torch.testing.assert_close(found["context"].grad, wanted, rtol=0, atol=2e-3 * float(wanted.abs().max()))
    assert fast.step.graph and fast.step._captured  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", ["halves", "full", "free"])
def test_rows_that_keep_are_taught_what_the_base_model_says(split: str) -> None:
    plain, fast = Trained(False, split=split), Trained(True, split=split)
    everything = Rows(slice(0, 0), slice(0, 4))
    expected, found = (trained.step(batch(), 2, everything, preserve=True, taught=2) for trained in (plain, fast))
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


@pytest.mark.parametrize("way", range(1, len(MEMORY_MODES)))
def test_the_ways_that_need_less_memory_do_the_same_sums(way: int) -> None:
    whole, small = Trained(True), Trained(True, way=way)
    for seed, (own, rows) in enumerate([(1, CONTENT), (2, ALL_ROWS), (4, Rows(slice(4, 4), slice(0, 4)))]):
        expected, found = (trained.step(batch(seed=seed), own, rows, preserve=seed == 1) for trained in (whole, small))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert_same_gradients(small.gradients(), whole.gradients(), 1e-9)


def test_a_card_that_streams_already_does_not_count_what_that_saved_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fused_step, "free_memory", lambda device: 10 * GIB)
    monkeypatch.setattr(fused_step, "fastest_way", lambda free, *given: asked.append(free) or 0)
    for first in (0, FIRST_OFFLOADED):
        Trained(True, dtype=torch.float32, way=first).step._fastest(4, 64)  # type: ignore[attr-defined]
    assert asked[0] == 10 * GIB and 0 < asked[0] - asked[1] < 2**20


@pytest.mark.parametrize("way", [0, len(MEMORY_MODES) - 1])
def test_the_network_is_left_with_its_own_weights(way: int) -> None:
    trained = Trained(True, dtype=torch.float32, way=way)
    unet = trained.step.network.unet  # type: ignore[attr-defined]
    trained.step(batch(dtype=torch.float32), 1, CONTENT)
    trained.step.close()
    for name, weight in tiny_unet().state_dict().items():
        assert torch.equal(unet.state_dict()[name], weight), name


def test_streamed_weights_are_right_though_the_card_has_no_room_for_them_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained(True, dtype=torch.float32, way=len(MEMORY_MODES) - 1)
    unet = trained.step.network.unet  # type: ignore[attr-defined]
    trained.step(batch(dtype=torch.float32), 1, CONTENT)

    def full(*given: object, **named: object) -> Tensor:
        raise torch.cuda.OutOfMemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "to", full)
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
    assert fastest_way(70 * GIB, 4, large) == 0 and fastest_way(0, 4, large) == len(MEMORY_MODES) - 1
    chosen = [fastest_way(free * GIB, 4, large) for free in range(40)]
    assert chosen == sorted(chosen, reverse=True) and set(chosen) == set(range(len(MEMORY_MODES)))
    assert explained(1, 9 * GIB, 4, large) == "Memory: 9.0 GB free, a step needs about 3.9: activations computed twice."
    assert "Memory: 3.0 GB free, a step needs about 1.0:" in explained(2, GIB, 1, 4096, saved=2 * GIB)


def test_a_step_that_ran_out_of_memory_takes_the_next_way_until_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    trained = Trained(True)
    expected = trained.step(batch(), 1, CONTENT)
    with caplog.at_level(logging.WARNING, logger="b4m"):
        for way in MEMORY_MODES[1:]:
            assert trained.step.reduce_memory() and caplog.messages[-1] == f"The card's memory ran out: from here on {way.words}."
            torch.testing.assert_close(trained.step(batch(), 1, CONTENT), expected, rtol=1e-9, atol=1e-9)
    assert not trained.step.reduce_memory()


@CUDA
@pytest.mark.parametrize(("start", "split"), SPLITS)
def test_a_replayed_graph_equals_the_plain_path_on_the_card(start: str, split: str) -> None:
    plain, fast = (Trained(fast, start, split, dtype=torch.float32, device="cuda", graph=fast) for fast in (False, True))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for height, width in ((8, 8), (4, 16), (8, 8)):
        for trained in (plain, fast):
            for stack in trained.stacks:
                for part in stack.split.learned:
                    stack.parts[part].grad.zero_()  # type: ignore[union-attr]
        given = batch(height=height, width=width, dtype=torch.float32)
        torch.testing.assert_close(fast.step(given, 1, CONTENT), plain.step(given, 1, CONTENT), rtol=1e-4, atol=1e-5)
        assert_same_gradients(fast.gradients(), plain.gradients(), 2e-3)
    assert len(fast.step._captured) == 2  # type: ignore[attr-defined]


@CUDA
@pytest.mark.parametrize("way", range(1, len(MEMORY_MODES)))
def test_the_ways_that_need_less_memory_replay_too(way: int) -> None:
    whole, small = (Trained(True, dtype=torch.float32, device="cuda", graph=way > 0, way=way) for way in (0, way))
    for seed in range(3):
        given = batch(seed=seed, dtype=torch.float32)
        torch.testing.assert_close(small.step(given, 1, CONTENT), whole.step(given, 1, CONTENT), rtol=1e-4, atol=1e-5)
    assert_same_gradients(small.gradients(), whole.gradients(), 5e-3)
    assert small.step.graph and small.step.mode == way  # type: ignore[attr-defined]


@CUDA
def test_a_network_whose_blocks_come_in_main_memory_is_streamed() -> None:
    whole, apart = (Trained(True, dtype=torch.float32, device="cuda", graph=True, apart=apart) for apart in (False, True))
    for seed in range(3):
        given = batch(seed=seed, dtype=torch.float32)
        torch.testing.assert_close(apart.step(given, 1, CONTENT), whole.step(given, 1, CONTENT), rtol=1e-4, atol=1e-5)
    assert_same_gradients(apart.gradients(), whole.gradients(), 5e-3)
    assert apart.step.graph and apart.step.mode >= FIRST_OFFLOADED  # type: ignore[attr-defined]
    feed_forward = network.feed_forwards(apart.step.network.unet)[0][1]  # type: ignore[attr-defined]
    apart.step.close()
    assert not feed_forward.weight.is_cuda


@CUDA
def test_two_hundred_replayed_steps_give_the_plain_paths_losses() -> None:
    plain, fast = (Trained(fast, dtype=torch.float32, device="cuda", graph=fast).learn(200) for fast in (False, True))
    torch.testing.assert_close(torch.tensor(fast), torch.tensor(plain), rtol=2e-2, atol=2e-3)


ON_BOTH = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
ROLES = ["content", "style", "together"]


class Card(TinyBase):
    """The tiny base model on a card, or on a processor that is taken for one: with the fast step, and at work a step ahead."""

    def __init__(
        self,
        device: str,
        patch: pytest.MonkeyPatch,
        *,
        graph: bool = True,
        poisoned_from: float = float("inf"),
        full_at: int = -1,
        narrow: bool = False,
    ) -> None:
        super().__init__(tiny_unet().to(device))
        self.device = torch.device(device)
        calls, self.ways = iter(range(10**9)), list[int]()

        class Disturbed(FusedStep):
            def __init__(me, *given: object, first: int = 0, **named: object) -> None:  # noqa: N805
                self.ways.append(first)
                super().__init__(*given, first=first, **{**named, "graph": graph})  # type: ignore[arg-type]
                if narrow and first == 0:
                    raise torch.cuda.OutOfMemoryError("no room to build it")

            def __call__(self, *given: object, **named: object) -> Tensor:
                losses, call = super().__call__(*given, **named), next(calls)  # type: ignore[arg-type]
                if call == full_at:
                    raise torch.cuda.OutOfMemoryError("another program")
                return losses * (float("nan") if call >= poisoned_from else 1)

        patch.setattr(engine, "works_ahead", lambda device, step: True)
        patch.setattr(engine, "fused_step_for", lambda network, family: Disturbed)
        patch.setattr(trainings, "AdamW", lambda *given, **named: torch.optim.AdamW(*given, **{**named, "fused": True}))


@pytest.mark.parametrize(("device", "graph"), [("cpu", False), *(pytest.param("cuda", graph, marks=CUDA) for graph in (True, False))])
@pytest.mark.parametrize("role", ROLES)
def test_a_card_that_works_ahead_comes_to_the_plain_trainings_losses(
    device: str, graph: bool, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 20 if device == "cuda" else 8
    made = plan(role, steps=steps, gradient_accumulation_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "fused_step_for", lambda network, family: None)
        expected = train(made, TinyBase(), RunStore(tmp_path / "plain"))
    found = train(made, Card(device, monkeypatch, graph=graph), RunStore(tmp_path / "ahead"))
    losses = [torch.tensor([row[1:] for row in adapter.facts.losses]) for adapter in (found, expected)]
    assert len(losses[0]) == found.facts.steps == steps
    torch.testing.assert_close(*losses, rtol=2e-2, atol=2e-3)


@ON_BOTH
def test_memory_that_runs_out_between_two_steps_costs_time_and_nothing_else(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, losses = plan(steps=4, gradient_accumulation_steps=2), []
    for full_at in (-1, 5):
        adapter = train(made, Card(device, monkeypatch, full_at=full_at), RunStore(tmp_path / str(full_at)))
        losses.append(torch.tensor([row[1:] for row in adapter.facts.losses]))
    assert len(losses[1]) == 4
    torch.testing.assert_close(*losses, rtol=2e-3, atol=2e-3)


@ON_BOTH
def test_a_card_without_room_to_build_the_step_keeps_a_part_of_the_network_in_main_memory(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, losses = plan(steps=4, gradient_accumulation_steps=2), []
    for narrow in (False, True):
        card = Card(device, monkeypatch, narrow=narrow)
        adapter = train(made, card, RunStore(tmp_path / str(narrow)))
        losses.append(torch.tensor([row[1:] for row in adapter.facts.losses]))
    assert card.ways == [0, FIRST_OFFLOADED]
    torch.testing.assert_close(*losses, rtol=2e-3, atol=2e-3)
    for name, weight in tiny_unet().state_dict().items():
        assert torch.equal(card.unet.state_dict()[name].cpu(), weight), name


@ON_BOTH
@pytest.mark.parametrize("role", ROLES)
def test_steps_are_told_in_their_order_and_none_is_missing(device: str, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    train(plan(role, steps=5), Card(device, monkeypatch), RunStore(tmp_path), lambda now: told.append(now.step) if now.step_done else None)
    assert told == [1, 2, 3, 4, 5]


@ON_BOTH
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("disturbed", ["cancelled", "not a number"])
def test_what_a_card_did_ahead_is_neither_lost_nor_done_twice(
    device: str, role: str, disturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(role, steps=6, gradient_accumulation_steps=2)
    whole = train(made, Card(device, monkeypatch), RunStore(tmp_path / "whole"))
    store, saved = RunStore(tmp_path / "disturbed"), []
    if disturbed == "cancelled":
        with pytest.raises(Cancelled):
            train(made, Card(device, monkeypatch), store, cancel_at(20))
    else:
        with pytest.raises(B4MError, match="loss is not a number at step 4 of 6: training stopped and step 3 is kept"):
            train(made, Card(device, monkeypatch, poisoned_from=7), store)
        step, saved = store.open(made.key(Card(device, monkeypatch))).begin().load_state()  # type: ignore[arg-type,misc]
        assert step == 3 and all(bool(torch.isfinite(tensor).all()) for tensor in saved.values())  # type: ignore[attr-defined]
    resumed = train(made, Card(device, monkeypatch), store)
    rows = [torch.tensor([row[1:] for row in adapter.facts.losses]) for adapter in (resumed, whole)]
    tolerance = 0 if device == "cpu" else 2e-3
    torch.testing.assert_close(*rows, rtol=tolerance, atol=tolerance)
    if device == "cpu":
        assert resumed.digest() == whole.digest()


@ON_BOTH
@pytest.mark.parametrize("riemannian", [False, True])
def test_a_step_that_found_no_number_moves_nothing_and_neither_do_those_behind_it(device: str, riemannian: bool) -> None:
    torch.manual_seed(0)
    up, down = (torch.randn(2, *shape, device=device).requires_grad_() for shape in ((6, 3), (3, 5)))
    up.grad, down.grad = torch.ones_like(up), torch.ones_like(down)
    optimiser = RiemannianAdamW([(up, down)], lr=0.1) if riemannian else torch.optim.AdamW([up, down], lr=0.1, fused=True)
    begun, seen = up.detach().clone(), torch.zeros_like(up)
    update = UpdateAhead(optimiser, [[up], [down]], 1.0, lambda: seen.copy_(up.detach()))
    assert torch.equal(up, begun)
    update(update.bounded(torch.ones(2, device=device)))
    moved = [part.detach().clone() for part in (up, down)]
    assert not torch.equal(moved[0], begun) and torch.equal(seen, up) and float(optimiser.state[up]["step"]) == 1
    for losses in ([1.0, float("inf")], [1.0, 1.0]):
        found = update(update.bounded(torch.tensor(losses, device=device))).read()
        assert found[:2].tolist() == losses and len(found) == 4
    assert all(torch.equal(part, before) for part, before in zip((up, down), moved, strict=True))
    assert float(optimiser.state[up]["step"]) == 1


@CUDA
@pytest.mark.parametrize("rank", [4, 16, 64, 128])
def test_a_recorded_riemannian_step_is_the_launched_one(rank: int) -> None:
    torch.manual_seed(0)
    made = [torch.randn(*shape, device="cuda") for shape in ((3, 160, rank), (3, rank, 192))]
    results = []
    for recorded in (False, True):
        pair = [value.clone().requires_grad_() for value in made]
        for value in pair:
            value.grad = torch.zeros_like(value)
        optimiser = RiemannianAdamW([(pair[0], pair[1])], lr=0.01)
        optimiser.param_groups[0]["capturable"] = recorded
        seen = torch.zeros_like(pair[0])
        update = UpdateAhead(optimiser, [[value] for value in pair], 1e9, lambda seen=seen, up=pair[0]: seen.copy_(up.detach()))  # type: ignore[misc]
        for _ in range(5):
            for value in pair:
                value.grad.copy_(torch.sin(value.detach()))  # type: ignore[union-attr]
            update(update.bounded(torch.ones(2, device="cuda")))
        update.close()
        results.append([*pair, seen])
    for launched, replayed in zip(*results, strict=True):
        torch.testing.assert_close(replayed, launched)


@CUDA
@pytest.mark.parametrize("role", ["content", "style", "together"])
def test_a_training_on_the_card_that_was_cancelled_comes_to_the_processors_losses(role: str, tmp_path: Path) -> None:
    made, losses = plan(role, steps=6, gradient_accumulation_steps=2), []
    for device in ("cpu", "cuda"):
        base = TinyBase(tiny_unet().to(device))
        base.device = torch.device(device)
        if device == "cuda":
            with pytest.raises(Cancelled):
                train(made, base, RunStore(tmp_path / device), cancel_at(20))
        losses.append([row[1:] for row in train(made, base, RunStore(tmp_path / device)).facts.losses])
    assert len(losses[0]) == 6
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=2e-2, atol=2e-3)
