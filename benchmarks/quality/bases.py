"""The base models that a contest can run on: what it asks of a network, of its noise, and of its family.

A family answers by the methods of ``b4m_core.models.family.Family`` that a contest needs; the embedded model's is the product's own. The
noise is told apart from it, because a contest draws, mixes and samples by the hundred, on the device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from b4m_core.models.sdxl import SDXL
from benchmarks.world.diffusion import add_noise, alphas_cumprod
from benchmarks.world.flow import FLOW, PAINTED_IN, SCHEDULE, load_flow


class Door(Protocol):
    """The part of a family's door that a contest goes through."""

    def is_adapted(self, path: str) -> bool: ...

    def predict(self, network: nn.Module, given: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor: ...


class Noise(Protocol):
    """How latents are noised and what the network should answer; and the straight steps of Euler from noise to a picture.

    A *course* is its times (S,) and its levels (S + 1,): from level to level a picture moves by their difference times the answer.
    """

    dtype: torch.dtype  # of times

    def draw(self, count: int, generator: torch.Generator, tilt: float) -> Tensor:
        """Timesteps (count,) on the CPU for training; a tilt above 1 draws those with less noise more often."""

    def at(self, share: float) -> float:
        """The time at a share of the way from picture to noise."""

    def add(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor: ...

    def target(self, latents: Tensor, noise: Tensor) -> Tensor: ...

    def course(self, steps: int) -> tuple[Tensor, Tensor]: ...

    def start(self, noise: Tensor, latents: Tensor | None, level: Tensor) -> Tensor:
        """Where a course begins: noise alone, or latents noised to a level."""

    def shown(self, x: Tensor, level: Tensor) -> Tensor:
        """What the network sees of x at a level."""


class EpsilonNoise:
    """SDXL's: a thousand timesteps, and the network answers the noise. Levels are sigmas."""

    dtype = torch.long

    def __init__(self, alphas: Tensor) -> None:
        """``alphas`` (T,): the share of the picture in the variance, by timestep."""
        self.alphas = alphas

    def draw(self, count: int, generator: torch.Generator, tilt: float) -> Tensor:
        most = len(self.alphas)
        if tilt == 1.0:
            return torch.randint(most, (count,), generator=generator)
        return (most * torch.rand(count, generator=generator) ** tilt).long().clamp(max=most - 1)

    def at(self, share: float) -> float:
        return round(share * len(self.alphas))

    def add(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return add_noise(latents, noise, times, self.alphas)

    def target(self, latents: Tensor, noise: Tensor) -> Tensor:
        return noise

    def course(self, steps: int) -> tuple[Tensor, Tensor]:
        """Like the host's "normal" schedule."""
        times = torch.linspace(len(self.alphas) - 1, 0, steps, device=self.alphas.device).round().long()
        return times, torch.cat([((1 - self.alphas[times]) / self.alphas[times]).sqrt(), self.alphas.new_zeros(1)])

    def start(self, noise: Tensor, latents: Tensor | None, level: Tensor) -> Tensor:
        return noise * level + (0 if latents is None else latents)

    def shown(self, x: Tensor, level: Tensor) -> Tensor:
        return x / (level**2 + 1).sqrt()


class FlowNoise:
    """Rectified flow: times between 0 and 1 are levels, and the network answers noise - picture."""

    dtype = torch.float32

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def draw(self, count: int, generator: torch.Generator, tilt: float) -> Tensor:
        return SCHEDULE.sample(count, generator) ** tilt

    def at(self, share: float) -> float:
        return share

    def add(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return SCHEDULE.add_noise(latents, noise, times)

    def target(self, latents: Tensor, noise: Tensor) -> Tensor:
        return noise - latents

    def course(self, steps: int) -> tuple[Tensor, Tensor]:
        levels = torch.linspace(1, 0, steps + 1, device=self.device)
        return levels[:-1], levels

    def start(self, noise: Tensor, latents: Tensor | None, level: Tensor) -> Tensor:
        return noise * level + (0 if latents is None else (1 - level) * latents)

    def shown(self, x: Tensor, level: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Base:
    """``load`` (folder of the embedded model, dtype) gives the network, which paints in ``painted_in`` on a GPU; ``captured``: its steps
    there are CUDA graphs. ``runs_at_once``: of how many joint trainings of eight rows a GPU of 80 GB holds what a backward pass needs."""

    family: Door
    noise: Callable[[torch.device], Noise]
    load: Callable[[Path, torch.dtype], nn.Module]
    is_in_transformer: Callable[[str], bool]
    painted_in: torch.dtype
    captured: bool
    runs_at_once: int


def _unet(folder: Path, dtype: torch.dtype) -> nn.Module:
    return UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype)  # type: ignore[no-any-return]


UNET = Base(
    family=SDXL,
    noise=lambda device: EpsilonNoise(alphas_cumprod(device)),
    load=_unet,
    is_in_transformer=lambda path: ".attentions." in path,
    painted_in=torch.float16,
    captured=True,
    runs_at_once=108,
)


def flow_base(flow: Path) -> Base:
    """The second base model, whose transformer is in ``flow`` (benchmarks.world.make_flow); the rest is the embedded model's."""
    return Base(
        family=FLOW,
        noise=FlowNoise,
        load=lambda folder, dtype: load_flow(flow, dtype),
        is_in_transformer=FLOW.is_in_transformer,
        painted_in=PAINTED_IN,
        captured=True,
        runs_at_once=54,
    )
