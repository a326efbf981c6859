"""Painting outside the host: a picture with an adapter's two sliders, or a table of both."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from .adapter import Adapter
from .errors import B4MError
from .painted import as_bytes
from .set_words import fill_prompt, words_of


class Painter(Protocol):
    """What paints: a base model as :func:`load_model` gives it."""

    @property
    def native_size(self) -> int:
        """The side in pixels that it was made for."""

    def sample(self, prompt: str, *, width: int, height: int, seed: int) -> Tensor:
        """A picture, (height, width, 3) float32 in 0..1."""

    def wearing(self, adapter: Adapter, content: float = 1.0, style: float = 1.0, detail: float = 1.0) -> AbstractContextManager[None]:
        """Within: it paints with the adapter."""


def paint(
    base: Painter,
    prompt: str,
    adapter: Adapter | None = None,
    *,
    content: float = 1.0,
    style: float = 1.0,
    size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """A picture of ``prompt``, (size, size, 3) float32 in 0..1 on the CPU, with ``adapter`` at the strengths ``content``
    and ``style``; without one the base model paints.

    {content} and {style} in the prompt stand for the adapter's words. ``size`` is the side in pixels, a multiple of 32,
    by default the model's own. The weights of ``base`` are afterwards what they were. Raises :class:`B4MError` for a
    size that cannot be, for an adapter of another kind of model and for words that it does not have.
    """
    side = base.native_size if size is None else size
    if side < 32 or side % 32:
        raise B4MError(f"The size is {side}: choose a multiple of 32.")
    if adapter is not None:
        prompt = fill_prompt(prompt, words_of(adapter.facts.content, adapter.facts.style), "the prompt")
    with nullcontext() if adapter is None else base.wearing(adapter, content, style):
        return base.sample(prompt, width=side, height=side, seed=seed)


def strength_table(
    base: Painter,
    prompt: str,
    adapter: Adapter,
    contents: Sequence[float],
    styles: Sequence[float],
    *,
    size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """``prompt`` at every pair of strengths from one seed, (len(contents), len(styles), size, size, 3) float32 in 0..1;
    the rest as for :func:`paint`. Raises :class:`B4MError` where there is no strength.
    """
    if not contents or not styles:
        raise B4MError("A table needs at least one strength of the content and one of the style.")
    rows = [[paint(base, prompt, adapter, content=c, style=s, size=size, seed=seed) for s in styles] for c in contents]
    return torch.stack([torch.stack(row) for row in rows])


def as_image(pixels: Tensor) -> Image.Image:
    """Pixels (H, W, 3) in 0..1, or a table of them (rows, columns, H, W, 3) as one sheet, as a picture of Pillow's."""
    if pixels.ndim == 5:
        pixels = pixels.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)  # (rows H, columns W, 3)
    return Image.fromarray(as_bytes(pixels))
