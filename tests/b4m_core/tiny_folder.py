"""A whole SDXL in diffusers' layout, a few hundred KB: network, VAE, both text encoders, tokenizer, all random."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SIZE = 64


def write_folder(folder: Path, *, scheduler: dict[str, object] | None = None, tiny_vae: bool = False) -> Path:
    """Write the model; ``scheduler`` is its scheduler_config.json, if it has one."""
    tiny.tiny_unet().save_pretrained(folder / "unet")
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer_2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        _vae(tiny_vae).save_pretrained(folder / "vae")
        CLIPTextModel(_text_config()).save_pretrained(folder / "text_encoder")
        CLIPTextModelWithProjection(_text_config()).save_pretrained(folder / "text_encoder_2")
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def _vae(tiny_vae: bool) -> torch.nn.Module:
    if tiny_vae:
        return AutoencoderTiny(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), scaling_factor=1.0)
    blocks = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks, block_out_channels=(8,) * blocks,
        latent_channels=4, norm_num_groups=4, layers_per_block=1, scaling_factor=0.13025,
    )  # fmt: skip


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(_vocabulary()), hidden_size=tiny.TEXT_WIDTH // 2, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=tiny.POOLED, bos_token_id=len(_vocabulary()) - 2, eos_token_id=len(_vocabulary()) - 1, pad_token_id=0,
    )  # fmt: skip


def _vocabulary() -> dict[str, int]:
    """Single printable characters, inside and at the end of a word, and CLIP's two marks."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    return {token: number for number, token in enumerate([*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}


def write_tokenizer(folder: Path) -> Path:
    """CLIP's two files with a vocabulary of single characters."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder
