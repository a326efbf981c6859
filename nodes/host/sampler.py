"""Pictures to latents, prompts to text conditioning, and painting: all through the host's own VAE, text encoders and sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...b4m_core import B4MError
from . import runtime


class PictureDoesNotFit(B4MError):
    """A picture could not be painted for lack of memory; a training goes on without it."""


def sampler_names() -> list[str]:
    """The host's samplers, in its order."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    """The host's step schedulers, in its order."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def encode_pictures(vae: Any, model: Any, pixels: Tensor) -> Tensor:
    """(N, 3, H, W) float in 0..1 -> (N, 4, H/8, W/8) float32 CPU latents, scaled as the UNet sees them.

    One picture at a time: the host batches by free memory, and a result must not depend on that.
    """
    scale = model.get_model_object("latent_format").process_in
    with torch.inference_mode():
        latents = [scale(vae.encode(picture.movedim(0, -1)[None, :, :, :3].float())) for picture in pixels]
        return _own(torch.cat(latents))


def encode_text(clip: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Prompts -> (N, 77k, width) states and (N, pooled) vectors, float32 on the CPU, as CLIPTextEncode gives them.

    Prompts longer than 75 tokens have k > 1. Shorter ones are then repeated, which attention cannot tell from the original.
    """
    with torch.inference_mode():
        encoded = [conditioning(clip, prompt)[0] for prompt in prompts]
        length = math.lcm(*(states.shape[1] for states, _ in encoded))
        states = torch.cat([states.repeat(1, length // states.shape[1], 1) for states, _ in encoded])
        pooled = torch.cat([extra["pooled_output"] for _, extra in encoded])
        return _own(states), _own(pooled)


@dataclass(frozen=True)
class Sampling:
    """How a picture is sampled: the widgets of KSampler, with the negative prompt."""

    steps: int = 25
    guidance: float = 5.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    negative: str = ""


def sample(
    model: Any,
    vae: Any,
    positive: Any,
    against: Any,
    *,
    width: int,
    height: int,
    seed: int,
    sampling: Sampling,
    watch: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Paint one picture (H, W, 3) float32 in 0..1 on the CPU, towards the conditioning `positive` and away from `against`.

    `watch` gets the number of sampler steps done after each.

    Equals, pixel for pixel, CLIPTextEncode -> EmptyLatentImage -> KSampler -> VAEDecode with the same values.
    Leaves torch's global random state alone.
    Raises PictureDoesNotFit when memory runs out and the host's Cancelled when the artist presses Cancel.
    """
    def after_step(step: int, *_: object) -> None:
        runtime.stop_if_cancelled()
        watch(step + 1)

    with fits(f"A {width} x {height} picture"), torch.inference_mode(), _random_state_kept():
        latent = torch.zeros([1, 4, height // 8, width // 8], device=comfy.model_management.intermediate_device())
        latent = comfy.sample.fix_empty_latent_channels(model, latent)
        noise = comfy.sample.prepare_noise(latent, seed)
        samples = comfy.sample.sample(
            model, noise, sampling.steps, sampling.guidance, sampling.sampler_name, sampling.scheduler, positive, against, latent,
            callback=after_step, disable_pbar=True, seed=seed,
        )  # fmt: skip
        return _own(vae.decode(samples)[0])


def conditioning(clip: Any, prompt: str) -> Any:
    """What CLIPTextEncode puts on its output."""
    with fits("The prompt of a picture"), torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


@contextmanager
def fits(what: str) -> Iterator[None]:
    """Within: lack of memory becomes PictureDoesNotFit, which says that `what` does not fit."""
    try:
        yield
    except Exception as error:
        if not runtime.is_out_of_memory(error):
            raise
        raise PictureDoesNotFit(
            f"{what} does not fit in the memory that is left: make the picture smaller; for samples of a training, set sample_every to 0."
        ) from error


def _own(tensor: Tensor) -> Tensor:
    """A float32 CPU copy that autograd may use: the host's results are inference tensors."""
    with torch.inference_mode(False):
        return tensor.detach().to(device="cpu", dtype=torch.float32, copy=True)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """The host seeds torch's global generators for its noise; a training around it must not notice."""
    place = runtime.device()
    devices = [place.index or 0] if place.type in ("cuda", "xpu") else []
    with torch.random.fork_rng(devices=devices, device_type=place.type if devices else "cuda"):
        yield
