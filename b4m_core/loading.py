"""The one way to a base model outside the host: from a checkpoint, from a folder, or the embedded one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .embedded import embedded_model
from .errors import B4MError

if TYPE_CHECKING:
    from .diffusers_folder import DiffusersFolder

TOKENIZER_VARIABLE = "B4M_TOKENIZER"
"""The environment variable that names a folder with CLIP's tokenizer, for models that have none."""


def load_model(
    path: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    steps: int = 20,
    guidance: float = 5.0,
) -> DiffusersFolder:
    """An SDXL as a base model for :func:`train`, :func:`paint` and whatever else asks for one. Nothing is fetched.

    ``path`` is a checkpoint that ends in .safetensors or a folder in diffusers' layout; None is the embedded model.
    ``tokenizer`` is a folder with CLIP's tokenizer.json, or its vocab.json and merges.txt, for a model that has none of
    its own (default: what ``B4M_TOKENIZER`` names). ``device`` is a name of torch's, by default "cuda" where there is a
    card; ``dtype`` is torch.float32 or torch.bfloat16, by default the latter on a card. ``steps`` and ``guidance`` are
    the sampler's when it paints. The weights are read when they are first needed. Raises :class:`B4MError` for what is
    no SDXL, and for a card that is not there.
    """
    from .checkpoint_file import CheckpointFile
    from .diffusers_folder import DiffusersFolder

    place = embedded_model() if path is None else Path(path)
    tokenizer = tokenizer or os.environ.get(TOKENIZER_VARIABLE)
    where = device_named(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind = CheckpointFile if place.is_file() else DiffusersFolder
    return kind(
        place,
        tokenizer=None if tokenizer is None else Path(tokenizer),
        device=str(where),
        dtype=dtype or (torch.bfloat16 if where.type == "cuda" else torch.float32),
        steps=steps,
        guidance=guidance,
    )


def device_named(name: str) -> torch.device:
    """torch's device of that name. Raises :class:`B4MError` for one that is not here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise B4MError(f"The device {name!r} is none of PyTorch's: say cpu, cuda, or cuda:1 for a second card.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise B4MError(f"The device is {name}, and PyTorch finds {torch.cuda.device_count()} cards here: say cpu, or another card.")
    return device
