"""The host's vision models (CLIP Vision, DINOv2) and text towers, as vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...b4m_core import B4MError
from .asking import ask


def embed_pictures(vision: Any, pictures: Iterable[np.ndarray | Tensor]) -> Tensor:
    """One vector for each picture (H, W, 3), uint8 or float in 0..1, by a CLIP_VISION: (N, d) float32 on the CPU.

    What is outside the middle square is not seen, as wherever CLIP is used. Raises B4MError for anything but a CLIP_VISION.
    """
    if ask(vision, "encode_image") is None:
        raise B4MError(f"The clip_vision input got {type(vision).__name__}: connect Load CLIP Vision with a CLIP or DINOv2 vision model.")
    vectors = []
    for picture in pictures:
        pixels = torch.as_tensor(picture)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        found = vision.encode_image(pixels[None, ..., :3])["image_embeds"].detach().float().cpu()
        vectors.append(found.mean(1) if found.ndim == 3 else found)  # SigLIP gives one for each patch
    return torch.cat(vectors)


def embed_prompt(clip: Any, prompt: str, width: int) -> Tensor:
    """The whole prompt as one vector (1, width) of the vision model's own space.

    Raises B4MError where the text encoder is not that of the vision model: the two agree in width only where one was trained with the
    other (SDXL's second text encoder is that of CLIP-ViT-bigG-14).
    """
    if ask(clip, "encode_from_tokens") is None:
        raise B4MError(f"The clip input got {type(clip).__name__}: connect the CLIP of an SDXL checkpoint, or nothing.")
    pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)[1]
    if pooled is None or pooled.shape[-1] != width:
        gives = "none" if pooled is None else str(pooled.shape[-1])
        raise B4MError(
            f"The vision model gives {width} numbers and this CLIP {gives} for the whole prompt: they are not of one CLIP. "
            "For an SDXL checkpoint's CLIP load CLIP-ViT-bigG-14, or leave clip unconnected."
        )
    return pooled.detach().float().cpu().reshape(1, -1)
