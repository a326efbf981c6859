"""What it costs to learn words: a step with a prompt whose words are learned and without, and its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from b4m_core.encoding import PROMPT
from b4m_core.learned_words import LearnedWords, Trigger
from b4m_core.models.sdxl.text import HIDDEN_LAYER

from .clock import tidy
from .network import as_others_have_it, inputs_of, new_adapter
from .ours import Ours

if TYPE_CHECKING:
    from .parts import Bench

ROWS, TOKENS = 2, 77
SDXLS = ({"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}, {"hidden_size": 1280, "num_hidden_layers": 32,
         "num_attention_heads": 20})  # fmt: skip


class RandomText:
    """Text encoders of SDXL's size, or of a network's width, with random weights: what learned words ask of a base model."""

    hidden_layer, name = HIDDEN_LAYER, "random"

    def __init__(self, bench: Bench) -> None:
        self.device, config = bench.device, bench.unet.config
        width = config["cross_attention_dim"] // 2
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        small: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes = SDXLS if bench.real else (small, small)
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        made = []
        for kind, size in zip(kinds, sizes, strict=True):
            with torch.device(bench.device):
                encoder = kind(CLIPTextConfig(intermediate_size=4 * size["hidden_size"], projection_dim=pooled, **size))
            made.append(encoder.to(bench.dtype).eval().requires_grad_(False))
        self.text_encoders = made[0], made[1]

    def token_ids(self, prompt: str) -> tuple[Tensor, Tensor]:
        """As many tokens as letters."""
        ids = torch.full((1, TOKENS), 49407)
        ids[0, : len(prompt) + 1] = torch.tensor([49406, *(1000 + ord(letter) for letter in prompt)])
        return ids, ids


def learned_words(bench: Bench) -> None:
    """As a training has it by default: free split, one own and one preservation picture, half of the benchmark's rank; every step a
    micro-step, which is the most that words can cost: the encoders are gone through twice in every optimiser step.
    """
    adapter, base = new_adapter(bench.unet, bench.rank // 2, "free"), RandomText(bench)
    token = torch.tensor([1000 + ord("q")])
    trigger = Trigger("content", (token, token), {"a photo of a q bear": base.token_ids("a photo of a q bear")})
    for learned in (None, LearnedWords(trigger, base)):  # type: ignore[arg-type]
        for size in bench.sizes:
            mine = Ours(bench.unet, adapter, bench.device, correspondence="output_preservation", words=learned)
            inputs = inputs_of(bench.unet, size, ROWS)
            if learned is not None:
                inputs[PROMPT] = torch.tensor([0, *[-1] * (ROWS - 1)])
            bench.take(f"B4M, {'no words' if learned is None else 'words'} learned", size, mine.whole(inputs))
            mine.close()
            del mine
            tidy()
    as_others_have_it(bench.unet)
