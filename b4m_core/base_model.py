"""What a training needs of a base model. The host's nodes give one (nodes/host), a diffusers folder gives another
(diffusers_folder.py).
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .models.family import Family, Schedule


class BaseModel(Protocol):
    """A model of one family: its network for training, its encoders, and a way to paint with it."""

    @property
    def family(self) -> Family:
        """What the network is (models/family.py)."""

    @property
    def unet(self) -> nn.Module:
        """The training network with the base weights: frozen, on the training device, in the compute dtype, ours alone.

        For a card without room for it the Linears of its transformer blocks may be in main memory, in any dtype, their
        weights the host's own: read, and never written to.
        """

    @property
    def device(self) -> torch.device:
        """Where the network trains; known before it is built."""

    @property
    def dtype(self) -> torch.dtype:
        """The network's compute dtype; known before it is built."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule and what the network predicts."""

    @property
    def fingerprint(self) -> str:
        """sha256 over all weights that are really used: network, autoencoder, text encoders."""

    @property
    def network_fingerprint(self) -> str:
        """The network alone, the same for every way to load it (fingerprint.py)."""

    @property
    def name(self) -> str:
        """What people call it."""

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) float32 in 0..1 to latents (N, C, H/8, W/8) float32 on the CPU, scaled as the network sees
        them.
        """

    def encode_text(self, prompts: Any) -> Any:
        """What the family's ``encode_prompt`` asks for; of SDXL, for a list of N prompts, the context (N, tokens,
        width) and the pooled embedding (N, pooled), float32 on the CPU.
        """

    def sample(self, prompt: str, *, width: int, height: int, seed: int) -> Tensor:
        """A picture of ``prompt`` by the base model alone, (height, width, 3) float32 in 0..1."""


class TextEncoders(Protocol):
    """What a base model has besides, whose text encoders a training may take gradients through (learned_words.py)."""

    @property
    def text_encoders(self) -> tuple[nn.Module, nn.Module]:
        """transformers' CLIPTextModel and CLIPTextModelWithProjection: frozen, on the training device, in a dtype that
        gradients can be taken in. Read once, after the prompts were encoded.
        """

    @property
    def hidden_layer(self) -> int:
        """Which of their hidden states the network reads, counted from the end: -2."""

    def token_ids(self, prompt: str) -> tuple[Tensor, Tensor] | None:
        """The tokens of a prompt as either encoder gets them, (k, 77) int64 on the CPU: pieces of 75 between a beginning
        and an end, filled up. None for a prompt that is more than tokens, such as one with weights in it.
        """


@runtime_checkable
class OnDisk(Protocol):
    """A base model that was read from a file or a folder, and says from where."""

    folder: Path
    tokenizer: Path | None
