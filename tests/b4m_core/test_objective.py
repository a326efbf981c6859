"""What is minimised: targets, noise, masks, and schedules that end in pure noise."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from b4m_core import B4MError, NoiseSchedule
from b4m_core.objective import linear_beta_schedule, row_losses


def rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 4, 3, 3, generator=generator), torch.randn(4, 4, 3, 3, generator=generator), torch.tensor([0, 1, 500, 999])


def diffusers_scheduler(prediction: str, **more: object) -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, **more)


def test_sdxl_s_schedule_is_the_one_that_diffusers_makes() -> None:
    torch.testing.assert_close(linear_beta_schedule().float(), diffusers_scheduler("epsilon").alphas_cumprod, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("zero_terminal", [False, True])
def test_noised_latents_and_velocity_agree_with_diffusers(zero_terminal: bool) -> None:
    scheduler = diffusers_scheduler("v_prediction", rescale_betas_zero_snr=zero_terminal)
    schedule = NoiseSchedule(scheduler.alphas_cumprod.double(), "v_prediction")
    latents, noise, timesteps = rows()
    torch.testing.assert_close(
        schedule.add_noise(latents, noise, timesteps), scheduler.add_noise(latents, noise, timesteps), rtol=1e-5, atol=1e-5
    )
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(schedule.target(latents, noise, timesteps), velocity, rtol=1e-5, atol=1e-5)


def test_the_target_of_an_epsilon_model_is_the_noise_itself() -> None:
    latents, noise, timesteps = rows()
    assert torch.equal(NoiseSchedule(linear_beta_schedule()).target(latents, noise, timesteps), noise)


def test_a_zero_terminal_schedule_ends_in_pure_noise_and_in_minus_the_picture() -> None:
    alphas = linear_beta_schedule()
    alphas[-1] = 0
    schedule = NoiseSchedule(alphas, "v_prediction")
    latents, noise, _ = rows()
    last = torch.full((4,), 999)
    assert torch.equal(schedule.add_noise(latents, noise, last), noise)
    assert torch.equal(schedule.target(latents, noise, last), -latents)


def test_an_epsilon_model_with_a_zero_terminal_schedule_is_refused() -> None:
    alphas = linear_beta_schedule()
    alphas[-1] = 0
    with pytest.raises(B4MError, match="zero-terminal-SNR schedule but predicts epsilon"):
        NoiseSchedule(alphas, "epsilon")


@pytest.mark.parametrize("prediction", ["sample", "flow_prediction", "", "v"])
def test_a_prediction_that_is_neither_epsilon_nor_v_is_refused(prediction: str) -> None:
    with pytest.raises(B4MError, match="trains models that predict epsilon or v"):
        NoiseSchedule(linear_beta_schedule(), prediction)


def test_the_loss_of_a_row_is_its_own_mean_squared_error() -> None:
    prediction, target, _ = rows()
    expected = [((prediction[k] - target[k]) ** 2).sum() / 36 for k in range(4)]
    torch.testing.assert_close(row_losses(prediction, target), torch.stack(expected))


def test_a_mask_counts_what_is_inside_it_and_nothing_else() -> None:
    prediction, target, _ = rows()
    mask = torch.zeros(4, 1, 3, 3)
    mask[:, :, 0, :2] = 1
    inside = ((prediction - target)[:, :, 0, :2] ** 2).mean(dim=(1, 2))
    torch.testing.assert_close(row_losses(prediction, target, mask), inside)
    prediction[:, :, 1:] += 100
    torch.testing.assert_close(row_losses(prediction, target, mask), inside)


def test_a_soft_mask_weighs_the_squares_by_its_values() -> None:
    prediction, target, _ = rows()
    mask = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    squares = (prediction - target) ** 2
    expected = torch.stack([sum((squares[k, c] * mask[k, 0]).sum() for c in range(4)) / (4 * mask[k].sum()) for k in range(4)])
    torch.testing.assert_close(row_losses(prediction, target, mask), expected)


def test_a_mask_of_ones_is_as_if_there_were_none() -> None:
    prediction, target, _ = rows()
    torch.testing.assert_close(row_losses(prediction, target, torch.ones(4, 1, 3, 3)), row_losses(prediction, target))


def test_a_mask_that_was_cut_away_gives_no_loss_and_no_gradient_and_no_nan() -> None:
    prediction, target, _ = rows()
    prediction.requires_grad_()
    loss = row_losses(prediction, target, torch.zeros(4, 1, 3, 3)).mean()
    loss.backward()
    assert float(loss.detach()) == 0 and prediction.grad is not None and torch.count_nonzero(prediction.grad) == 0
