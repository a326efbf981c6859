"""SDXL's two text encoders, as transformers has them: from token ids to the text's share of the conditioning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

HIDDEN_LAYER = -2
"""Which of the hidden states SDXL reads: those before the last layer, without the final norm."""


def encode_tokens(encoders: Sequence[nn.Module], ids: Sequence[Tensor], layer: int = HIDDEN_LAYER) -> tuple[Tensor, Tensor]:
    """The states (P, 77, width) and pooled vectors (P, p) of P pieces of prompts; ``ids`` are their tokens, (P, 77) for
    each encoder, of which the second one pools.
    """
    outputs: list[Any] = [
        encoder(tokens, output_hidden_states=True) for encoder, tokens in zip(encoders, ids, strict=True)
    ]
    return torch.cat([output.hidden_states[layer] for output in outputs], dim=-1), outputs[-1].text_embeds
