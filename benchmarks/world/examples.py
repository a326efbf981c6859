"""Training data of the denoiser: latents of rendered pictures and the token ids of their captions."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from .autoencoder import encode
from .pool import Labels, World


def draw_labels(world: World, count: int, photos: float, pairs_of_objects: float) -> list[Labels]:
    """What the denoiser may see."""
    return [world.draw(everything=False, photos=photos, pairs_of_objects=pairs_of_objects) for _ in range(count)]


def latents_of(world: World, autoencoder: AutoencoderTiny, labels: Sequence[Labels], batch: int = 1024) -> Tensor:
    """fp16 (N, 4, size/8, size/8) on the world's device."""
    parts = [encode(autoencoder, world.render(labels[start : start + batch])).half() for start in range(0, len(labels), batch)]
    return torch.cat(parts)
