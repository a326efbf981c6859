"""Stable Diffusion XL (Podell et al., arXiv 2307.01952): diffusers' UNet2DConditionModel, of any width and depth.

The conditioning of a picture: ``context`` (77 k, width) and ``pooled`` (p,) of its caption, k being the pieces of 75
tokens that the caption has, and ``size_ids`` (6,). Its layers are q, k, v and the output projection of every attention,
560 of them, and where it is asked for the 49 convolutions of its blocks: all but the first and the last. The network
written out is in fast/.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...bounds import Largest
from ...buckets import Crop
from ...fast.fused_step import FusedStep
from ...fast.network import is_written_out
from ..family import Family, FusedStepKind, adapted_layers
from .names import kernel_of, kohya_key, module_path

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
CONTEXT_WIDTH = 2048


class _SDXL:
    """See :class:`~b4m_core.models.family.Family`."""

    name, title = "sdxl", "SDXL"
    largest = Largest(layers=609, features=2560, row=9 * 2560)

    def is_adapted(self, path: str) -> bool:
        return path.endswith(ADAPTED) and ".attn" in path

    def kernel(self, path: str) -> int:
        return kernel_of(path)

    def lora_key(self, path: str) -> str:
        return kohya_key(path)

    def module_path(self, key: str) -> str:
        return module_path(key)

    def header(self, kind: str, shapes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """A network of SDXL's plan but of another size, such as the embedded model, gets names of its own: other tools
        would offer its files for SDXL.
        """
        whole = any(n == CONTEXT_WIDTH for _, n in shapes.values())
        return {
            "modelspec.architecture": f"{'stable-diffusion-xl-v1-base' if whole else 'b4m-small-sdxl'}/{kind}",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "ss_base_model_version": "sdxl_base_v1-0" if whole else "b4m_small_sdxl",
            "ss_v2": "False",
        }

    def encode_prompt(self, base: Any, prompt: str) -> dict[str, Tensor]:
        context, pooled = base.encode_text([prompt])  # (1, 77 k, width), (1, p)
        return {"context": context[0], "pooled": pooled[0]}

    def size_conditioning(self, crop: Crop) -> dict[str, Tensor]:
        """Section 2.2 of the paper: original height and width, top and left of the crop, target height and width."""
        return {"size_ids": torch.tensor(crop.geometry, dtype=torch.float32)}  # (6,)

    def predict(self, network: nn.Module, given: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        output: Any = network(
            given["noisy"].to(dtype),  # (R, 4, h, w)
            given["timesteps"],  # (R,)
            encoder_hidden_states=given["context"].to(dtype),  # (R, S, width)
            added_cond_kwargs={
                "text_embeds": given["pooled"].to(dtype),
                "time_ids": given["size_ids"],
            },  # (R, p), (R, 6)
        )
        return output.sample.float() if dtype != torch.float64 else output.sample  # type: ignore[no-any-return]

    def fused_step(self, network: nn.Module) -> FusedStepKind | None:
        return FusedStep if is_written_out(network) else None


SDXL: Family = _SDXL()


def is_adapted(path: str) -> bool:
    """Whether the layer at ``path`` is a q, k, v or output projection of an attention."""
    return SDXL.is_adapted(path)


def attention_projections(unet: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """(module path, Linear) of every q, k, v and output projection of every attention."""
    return ((path, layer) for path, layer in adapted_layers(SDXL, unet) if isinstance(layer, nn.Linear))
