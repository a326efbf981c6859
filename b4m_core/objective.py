"""What is minimised: the mean squared error of the base model's own target, on noised latents."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import B4MError

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """The variance-preserving schedule of a base model.

    ``alphas_cumprod`` (T,) float64, falling; a terminal value of (nearly) 0 is a zero-terminal-SNR schedule.
    ``prediction`` is what the network predicts: the noise (``epsilon``) or the velocity (``v_prediction``, Salimans and
    Ho, arXiv 2202.00512).
    """

    alphas_cumprod: Tensor
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise B4MError(
                f"This model predicts {self.prediction!r}, and B4M trains models that predict epsilon or v: use an SDXL model."
            )
        if self.prediction == "epsilon" and float(self.alphas_cumprod[-1]) <= 0:
            raise B4MError(
                "This model has a zero-terminal-SNR schedule but predicts epsilon, which has no answer at the last step: use its v setting."
            )

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps (count,) int64, all alike likely."""
        return torch.randint(len(self), (count,), generator=generator)

    def describe(self) -> list[Any]:
        """Plain values that are equal for equal schedules."""
        return [self.prediction, self.alphas_cumprod.tolist()]

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of ``timesteps`` (rows,), each (rows, 1, 1, 1) float32."""
        alpha_bar = self.alphas_cumprod[timesteps.cpu()].double()
        return tuple(part.float().view(-1, 1, 1, 1) for part in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))  # type: ignore[return-value]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise, (rows, C, h, w)."""
        signal, sigma = (part.to(latents.device) for part in self.signal_and_noise(timesteps))
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict: the noise, or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = (part.to(latents.device) for part in self.signal_and_noise(timesteps))
        return signal * noise - sigma * latents


def row_losses(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each row, (rows,) float32 or finer; with ``mask`` (rows, 1, h, w) in 0..1, the mean inside
    the mask.
    """
    squared = (prediction - target).square()
    if mask is None:
        return squared.mean(dim=(1, 2, 3))
    weight = mask.expand_as(squared)
    return (squared * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1e-6)


def linear_beta_schedule(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """alpha_bar (steps,) float64 of SDXL's "scaled linear" betas."""
    return torch.cumprod(1 - torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2, dim=0)
