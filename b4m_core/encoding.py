"""Pictures turned into what the network sees, once: latents, conditioning and mask, at every bucket in use."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from .base_model import BaseModel
from .buckets import Bucket, Crop, crop_to, nearest_bucket
from .errors import B4MError
from .pictures import Picture, PictureSet

PROMPT = "prompt"
"""In the conditioning of a training whose words are learned: the number of a picture's prompt among those that are
encoded again, -1 for any other.
"""


@dataclass(frozen=True)
class EncodedPicture:
    """One picture at one bucket: latents (C, h, w), mask (1, h, w), and the family's conditioning by name; all float32,
    CPU.
    """

    latents: Tensor
    mask: Tensor
    conditioning: dict[str, Tensor]


@dataclass(frozen=True)
class EncodedSet:
    """The samples of a picture set: ``home[i]`` is picture i's own bucket, ``at[bucket, i]`` picture i at
    ``bucket``.
    """

    home: tuple[Bucket, ...]
    at: dict[tuple[Bucket, int], EncodedPicture]


def encode_sets(
    base: BaseModel,
    sets: Sequence[PictureSet],
    resolution: int,
    *,
    primary_sets: int,
    watch: Callable[[int, int], None] = lambda done, total: None,
    learned: Collection[str] | None = None,
) -> list[EncodedSet]:
    """Encode what the batches can need: the first ``primary_sets`` sets at their own buckets, every set at those of its
    leaders.

    ``watch`` (pictures done, total) may raise. ``learned``: the prompts whose words are learned, in the order of their
    numbers (:data:`PROMPT`).
    """
    homes = [
        tuple(
            nearest_bucket(picture.pixels.shape[0], picture.pixels.shape[1], resolution)
            for picture in pictures.pictures
        )
        for pictures in sets
    ]
    texts = _encode_texts(base, [prompt for pictures in sets for prompt in pictures.prompts()])
    if learned is not None:
        numbers = {prompt: number for number, prompt in enumerate(learned)}
        texts = {prompt: {**text, PROMPT: torch.tensor(numbers.get(prompt, -1))} for prompt, text in texts.items()}
    needed = [
        (number, bucket, index)
        for number in range(len(sets))
        for index in range(len(homes[number]))
        for bucket in _needed(homes, number, index, primary_sets)
    ]
    found: list[dict[tuple[Bucket, int], EncodedPicture]] = [{} for _ in sets]
    for done, (number, bucket, index) in enumerate(needed):
        watch(done, len(needed))
        found[number][bucket, index] = _sample(base, sets[number].pictures[index], bucket, texts)
    return [EncodedSet(home, samples) for home, samples in zip(homes, found, strict=True)]


def _needed(homes: Sequence[Sequence[Bucket]], number: int, index: int, primary_sets: int) -> list[Bucket]:
    """The buckets at which picture ``index`` of set ``number`` can be drawn: its own if it leads, and those of the sets
    that lead it.
    """
    own = {homes[number][index]} if number < primary_sets else set()
    return sorted(own | {bucket for leader in range(primary_sets) if leader != number for bucket in homes[leader]})


def _encode_texts(base: BaseModel, prompts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The text's share of the conditioning, each prompt once."""
    encoded = {prompt: base.family.encode_prompt(base, prompt) for prompt in dict.fromkeys(prompts)}
    texts = {prompt: {name: _ours(value) for name, value in text.items()} for prompt, text in encoded.items()}
    for prompt, text in texts.items():
        if not all(torch.isfinite(value).all() for value in text.values()):
            raise B4MError(
                f'The text encoders turn the caption "{prompt[:80]}" into values that are not numbers: load the CLIP in '
                "another precision, or without the embedding or LoRA that brings them in."
            )
    return texts


def _sample(
    base: BaseModel, picture: Picture, bucket: Bucket, texts: Mapping[str, dict[str, Tensor]]
) -> EncodedPicture:
    """One picture, cut to its bucket, with the encoded text of its caption. Raises :class:`B4MError` for latents that
    are not numbers.
    """
    crop = crop_to(picture, bucket)
    pixels = rearrange(torch.from_numpy(crop.pixels.astype(np.float32) / 255), "h w c -> 1 c h w")
    latents = _ours(base.encode_pictures(pixels)[0])  # (C, h/8, w/8)
    if not torch.isfinite(latents).all():
        raise B4MError(
            f"The VAE turns {picture.name} into values that are not numbers: use a VAE that works in this precision, or leave it out."
        )
    conditioning = {**texts[picture.caption], **base.family.size_conditioning(crop)}
    return EncodedPicture(latents, _latent_mask(crop, latents), conditioning)


def _latent_mask(crop: Crop, latents: Tensor) -> Tensor:
    """The mask averaged over the pixels of each latent, (1, h, w); ones where there is none."""
    if crop.mask is None:
        return torch.ones(1, *latents.shape[1:])
    mask = torch.from_numpy(crop.mask.astype(np.float32) / 255)[None, None]  # (1, 1, H, W)
    return interpolate(mask, size=latents.shape[1:], mode="area")[0]  # (1, h, w)


def _ours(tensor: Tensor) -> Tensor:
    """A copy that belongs to no inference mode and no graph."""
    with torch.inference_mode(False):
        return tensor.detach().float().cpu().clone()
