"""The host's MODEL, CLIP and VAE as the base model that a training needs (b4m_core's BaseModel protocol)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...b4m_core import Adapter, lora_state_dict
from ...b4m_core.carried import Carried
from ...b4m_core.models.sdxl import SDXL
from ...b4m_core.planner import MEMORY_MODES, least_beside
from . import runtime, sampler
from .asking import ask
from .identity import fingerprint, network_fingerprint
from .lora import apply_adapter, apply_carried, apply_file
from .model_support import describe_model, native_size, noise_schedule
from .network import network_bytes, require_trainable, training_dtype, training_network
from .text_encoders import TextEncoders, hidden_layer, require_teachable, text_encoders_bytes, token_ids, training_text_encoders
from .weights import let_go_of_pages
from .wires import require_clip, require_model, require_vae

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class HostBaseModel:
    """BaseModel made of the graph's MODEL, CLIP and VAE, which stay bit-identical.

    The training network is built when `unet` is first read, so that a run found in the store costs no copy.
    `room` bytes are asked from the host's memory manager before that and again after every picture painted, and `beside` are kept free
    beside the network (see `expect`).
    """

    family = SDXL

    def __init__(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        *,
        name: str | None = None,
        sampling: sampler.Sampling | None = None,
        carried: Sequence[Carried] = (),
    ) -> None:
        """Raises B4MError when the model is not SDXL, cannot be read or has a sampling that cannot be trained, or when the CLIP or VAE is
        missing or another family's. `carried` is worn: the model has it on, at full strength.
        """
        require_model(model)
        require_trainable(model)
        self.vae, self._bare = vae, model
        self.room = self.beside = self._for_words = 0
        self.schedule = noise_schedule(model)
        require_clip(model, clip)
        self.model, self.clip = apply_carried(model, clip, carried, {})
        require_vae(model, vae)
        self.name = name or describe_model(model)
        self.native_size = native_size(model)
        self.sampling = sampling or sampler.Sampling()
        self._encoded: dict[str, Any] = {}

    def expect(self, rank: int, rows: int, resolution: int, *, convolutions: bool = False) -> None:
        """Make ready for a training of a rank, in passes of so many rows; ``convolutions``: whether these are adapted too."""
        pixels = (resolution // 8) ** 2
        self.room = network_bytes(self.model, self.dtype) + MEMORY_MODES[0].needed(rows, pixels, convolutions)
        self.beside = least_beside(rank, rows, pixels, convolutions)

    def expect_words(self) -> None:
        """Make ready for a training that learns words: the network leaves room for the text encoders. Raises B4MError for a CLIP in which
        none can be learned.
        """
        require_teachable(self.clip)
        self._for_words = text_encoders_bytes(self.clip, self.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights really used."""
        return fingerprint(self.model, self.clip, self.vae)

    @cached_property
    def network_fingerprint(self) -> str:
        """The network alone, the same for every way to load it, without what it wears."""
        return network_fingerprint(self._bare)

    @property
    def device(self) -> torch.device:
        """Where the network trains: the host's device."""
        return runtime.device()

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return training_dtype(self.model, self.device)

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        """The frozen training network on the host's device."""
        if self.room:
            runtime.make_room(self.room + self._for_words)
        return training_network(self.model, beside=self.beside + self._for_words)

    @cached_property
    def text_encoders(self) -> TextEncoders:
        """The frozen CLIP-L and CLIP-G that words are learned through, on the host's device in the network's dtype."""
        runtime.make_room(text_encoders_bytes(self.clip, self.dtype))
        return training_text_encoders(self.clip, self.device, self.dtype)

    @property
    def hidden_layer(self) -> int:
        """Which of their hidden states is a prompt's context, counted from the end."""
        return hidden_layer(self.clip)

    def token_ids(self, prompt: str) -> tuple[Tensor, Tensor] | None:
        """(k, 77) ids of a prompt for each of them; None where it has weights or an `embedding:`, which the host alone can encode."""
        return token_ids(self.clip, prompt)

    def settle(self) -> None:
        """The training runs: what reading the model's file has taken of main memory is given back."""
        let_go_of_pages(self.model.model.parameters())

    def release(self) -> None:
        """Give the memory of the training's networks back to the host."""
        for network in ("unet", "text_encoders"):
            self.__dict__.pop(network, None)
        if runtime.device().type == "cuda":
            gc.collect()  # what is still tied to itself holds weights, in main memory too
            torch.cuda.empty_cache()
            # weights that a training kept in pinned memory; torch has no public word for giving it back
            ask(torch._C, "_host_emptyCache", lambda: None)()
            runtime.trim_main_memory()

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) float in 0..1 -> (N, 4, H/8, W/8) float32 CPU latents as the UNet sees them."""
        return sampler.encode_pictures(self.vae, self.model, pixels)

    def encode_text(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompts -> (N, 77k, width) and (N, pooled), float32 CPU."""
        return sampler.encode_text(self.clip, prompts)

    def sample(self, prompt: str, *, width: int, height: int, seed: int, watch: Callable[[int], None] = lambda done: None) -> Tensor:
        """(H, W, 3) float32 in 0..1 by the model as it is here, sampled as `self.sampling` says. `watch` gets the sampler steps done."""
        try:
            texts = self._conditioning(prompt), self._conditioning(self.sampling.negative)
            return sampler.sample(self.model, self.vae, *texts, width=width, height=height, seed=seed, sampling=self.sampling, watch=watch)
        finally:
            if self.room:  # the host has just loaded its own model beside the training network
                runtime.make_room(self.room)

    def _conditioning(self, prompt: str) -> Any:
        """The prompt as the sampler takes it, encoded once: the text encoders need not change places with the network for every picture."""
        if prompt not in self._encoded:
            self._encoded[prompt] = sampler.conditioning(self.clip, prompt)
        return self._encoded[prompt]

    def sample_with(
        self,
        adapter_weights: Mapping[str, Tensor],
        prompt: str,
        *,
        width: int,
        height: int,
        seed: int,
        watch: Callable[[int], None] = lambda done: None,
    ) -> Tensor:
        """The same with an adapter's file content (kohya keys, file dtype): the pixels that the saved file gives later in the graph."""
        try:
            return self.with_adapter(adapter_weights).sample(prompt, width=width, height=height, seed=seed, watch=watch)
        finally:
            runtime.end_passes()

    def with_adapter(self, adapter_weights: Mapping[str, Tensor]) -> HostBaseModel:
        """The same model with an adapter patched in, for several pictures: the host patches its weights once for all of them.

        Call `end_passes` when they are painted.
        """
        return self._patched(*apply_file(self.model, self.clip, adapter_weights))

    def with_all_of(self, adapter: Adapter, content: float, style: float) -> HostBaseModel:
        """The same with all that an adapter is, what it carries along too, at two strengths."""
        if not adapter.carried:
            return self.with_adapter(lora_state_dict(adapter, content, style))
        return self._patched(*apply_adapter(self.model, self.clip, adapter, {"content": content, "style": style, "detail": 1.0}))

    def _patched(self, model: Any, clip: Any) -> HostBaseModel:
        base = HostBaseModel(model, clip, self.vae, name=self.name, sampling=self.sampling)
        base.room, base._encoded = self.room, self._encoded if clip is self.clip else {}
        return base
