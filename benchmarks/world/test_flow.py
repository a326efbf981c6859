"""The second base model: what its transformer adapts, learns and paints. A few seconds, on transformers of one head."""

import pathlib
import time

import pytest
import torch
from torch import nn

from benchmarks.world.flat import FlatWeights, orthogonalised
from benchmarks.world.flow import FLOW, SCHEDULE, FlowTraining, Told, load_flow, make_flow, sample_flow

CONTEXT, POOLED, SIDE = 10, 6, 8


def texts(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 77, CONTEXT, generator=generator), torch.randn(count, POOLED, generator=generator)


def some(count: int) -> Told:
    context, pooled = texts(count)
    latents = torch.full((count, 4, SIDE, SIDE), 2.0).half()
    return Told(latents, context, pooled, texts(1))


def velocity(network: nn.Module, noisy: torch.Tensor, time: float = 0.5) -> torch.Tensor:
    context, pooled = texts(len(noisy))
    given = {"noisy": noisy, "timesteps": torch.full((len(noisy),), time), "context": context, "pooled": pooled}
    with torch.no_grad():
        return FLOW.predict(network, given, torch.float32)


def test_attention_of_text_and_picture_is_adapted_and_nothing_else() -> None:
    network = make_flow(64, 1, 1, CONTEXT, POOLED)
    adapted = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and FLOW.is_adapted(name)]
    double = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    expected = {f"transformer_blocks.0.attn.{name}" for name in double}
    expected |= {f"single_transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")} | {"single_transformer_blocks.0.proj_out"}
    assert set(adapted) == expected


def test_a_fresh_transformer_answers_zero_and_euler_leaves_the_noise() -> None:
    network = make_flow(64, 1, 1, CONTEXT, POOLED).eval()
    noise = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    assert velocity(network, noise).abs().max() == 0
    painted = sample_flow(network, texts(2), texts(1), side=SIDE, steps=3, guidance=4.0, seed=3)
    assert torch.equal(painted, noise)
    nn.init.constant_(network.proj_out.bias, 0.5)  # a constant velocity carries every point as far
    torch.testing.assert_close(sample_flow(network, texts(2), texts(1), side=SIDE, steps=3, guidance=4.0, seed=3), noise - 0.5)


def test_the_path_from_noise_to_picture_is_straight() -> None:
    latents, noise = torch.randn(2, 3, 4, 4, 4)
    ends = SCHEDULE.add_noise(latents, noise, torch.zeros(3)), SCHEDULE.add_noise(latents, noise, torch.ones(3))
    assert torch.equal(ends[0], latents)
    assert torch.equal(ends[1], noise)
    early, late = (SCHEDULE.add_noise(latents, noise, torch.full((3,), time)) for time in (0.2, 0.3))
    torch.testing.assert_close((late - early) / 0.1, SCHEDULE.target(latents, noise, torch.zeros(3)), rtol=1e-4, atol=1e-4)
    times = SCHEDULE.sample(500, torch.Generator().manual_seed(0))
    assert times.min() > 0
    assert times.max() < 1
    assert times.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("matrix_rate", [0.0, 2.0])
def test_a_few_steps_teach_the_velocity(matrix_rate: float, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    training = FlowTraining(make_flow(64, 1, 1, CONTEXT, POOLED), some(4), batch=8, rate=2e-2, dropout=0.1, matrix_rate=matrix_rate)
    training.weights.rate.fill_(training.rate)
    training.weights.share.fill_(1.0)  # the average is the last step
    losses = []
    for _ in range(12):
        training.loss.zero_()
        training.step()
        losses.append(training.loss.item() * 50)  # one step's share of the running mean
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    training.save_model(tmp_path)
    noisy = torch.randn(2, 4, SIDE, SIDE)
    loaded, trained = velocity(load_flow(tmp_path, torch.float32).eval(), noisy), velocity(training.network.eval(), noisy)
    assert (loaded - trained).norm() < 0.01 * trained.norm()  # half precision


def test_the_network_is_asked_without_cudnns_attention() -> None:
    """Whose backward pass may be kept for a gradient of another layout."""
    network, seen = make_flow(64, 1, 1, CONTEXT, POOLED), []
    network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    velocity(network, torch.randn(2, 4, SIDE, SIDE))
    assert seen == [False]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_step_of_a_matrix_turns_all_directions_alike() -> None:
    torch.manual_seed(0)
    tall, flat = torch.randn(2, 24, 8), torch.randn(2, 8, 24)
    for matrices in (tall, flat):
        values = torch.linalg.svdvals(orthogonalised(matrices))
        assert values.min() > 0.5
        assert values.max() < 1.4
    net = nn.Sequential(nn.Linear(8, 24), nn.Linear(24, 3))
    before = [each.detach().clone() for each in net.parameters()]
    weights = FlatWeights({"net": net}, torch.float32, lambda name: name == "net.0.weight", 3.0)
    weights.rate.fill_(1e-2)
    net(torch.randn(16, 8)).square().mean().backward()
    weights.update(decay=0.0)
    moved = [new.detach() - old for new, old in zip(net.parameters(), before, strict=True)]
    values = torch.linalg.svdvals(moved[0]) / (1e-2 * 3.0 * 0.2 * 24**0.5)
    assert values.max() < 1.4
    assert moved[2].abs().max() == pytest.approx(1e-2, rel=1e-2)  # Adam's first step


def test_a_training_stops_where_its_weights_are_lost_and_not_for_one_loss(capsys: pytest.CaptureFixture[str]) -> None:
    training = FlowTraining(make_flow(64, 1, 1, CONTEXT, POOLED), some(2), batch=2, rate=1e-3, dropout=0.0, matrix_rate=1.0)
    training.loss.fill_(float("nan"))
    assert training.run(0.01, time.monotonic() + 60)
    assert "but finite weights" in capsys.readouterr().out
    assert training.loss.isfinite()
    training.weights.master[5] = float("inf")
    with pytest.raises(FloatingPointError, match="no longer finite"):
        training.run(60, time.monotonic() + 60)
