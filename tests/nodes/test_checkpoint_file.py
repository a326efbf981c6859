"""A checkpoint in one file, as the host itself writes one: the command line reads the same network, encoders and VAE from it."""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import pytest
import small_sdxl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TOKENIZER = Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer")
WIDTHS = (64, 128)  # of the two text encoders: told apart by them
VAE_CONFIG = {
    "double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1, 2, 2],
    "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


class SmallClip(comfy.sdxl_clip.SDXLClipModel):
    """SDXL's two encoders, small and random."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        torch.nn.Module.__init__(self)
        encoder = partial(
            comfy.sd1_clip.SDClipModel, layer="hidden", layer_idx=-2, layer_norm_hidden_state=False, device=device, dtype=dtype,
            model_options=model_options or {},
        )  # fmt: skip
        configs = [
            {"num_attention_heads": width // 64, "num_hidden_layers": 3, "hidden_size": width, "intermediate_size": 2 * width,
             "hidden_act": act, "max_position_embeddings": 77, "eos_token_id": 49407, "vocab_size": 49408, "projection_dim": width}
            for width, act in zip(WIDTHS, ("quick_gelu", "gelu"), strict=True)
        ]  # fmt: skip
        self.clip_l = encoder(textmodel_json_config=configs[0])
        self.clip_g = encoder(textmodel_json_config=configs[1], special_tokens={"start": 49406, "end": 49407, "pad": 0})
        self.dtypes = {dtype}


def fill(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.requires_grad_(False)
        weight.copy_(torch.randn(weight.shape, generator=generator) * (weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, Any]:
    """The file, and the host's MODEL, CLIP and VAE that are in it."""
    pooled = WIDTHS[1]
    model = small_sdxl.small_model(context_dim=sum(WIDTHS), adm_in_channels=pooled + 6 * 256)
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, SmallClip)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32, "initial_device": torch.device("cpu")})
    vae = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE_CONFIG, embed_dim=4)
    fill(clip.cond_stage_model, 2)
    fill(vae, 3)
    clip_state = clip.get_sd() if hasattr(clip, "get_sd") else clip.cond_stage_model.state_dict()
    newer = "unet_state_dict" in inspect.signature(model.model.state_dict_for_saving).parameters
    first = (model.model.diffusion_model.state_dict(),) if newer else ()
    state = model.model.state_dict_for_saving(*first, clip_state, vae.state_dict())
    file = tmp_path_factory.mktemp("checkpoint") / "small_xl.safetensors"
    save_file({key: value.contiguous().clone() for key, value in state.items() if isinstance(value, Tensor)}, file)
    return file, model, clip, vae


@pytest.fixture(scope="module")
def base(made: tuple[Path, Any, Any, Any]) -> Any:
    kind = importlib.import_module("b4m_pack.b4m_core.checkpoint_file").CheckpointFile
    return kind(made[0], tokenizer=TOKENIZER, steps=1)


def test_the_network_of_the_file_is_the_hosts(made: tuple[Path, Any, Any, Any], base: Any, host: ModuleType) -> None:
    assert base.network_fingerprint == host.network_fingerprint(made[1]) and base.name == "small_xl"
    rows = small_sdxl.inputs(text_width=sum(WIDTHS), pooled=WIDTHS[1])
    wanted = small_sdxl.host_output(made[1], rows)
    given = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
    with torch.no_grad():
        output = base.unet(rows["latents"], rows["timesteps"], encoder_hidden_states=rows["text"], added_cond_kwargs=given).sample
    torch.testing.assert_close(output, wanted.float(), rtol=1e-3, atol=1e-4)


def test_the_text_encoders_and_the_vae_are_the_hosts(made: tuple[Path, Any, Any, Any], base: Any) -> None:
    _, _, clip, vae = made
    context, pooled = base.encode_text(["a photo of a cat"])
    wanted, wanted_pooled = clip.encode_from_tokens(clip.tokenize("a photo of a cat"), return_pooled=True)
    torch.testing.assert_close(context, wanted.float().cpu(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(pooled, wanted_pooled.float().cpu(), rtol=1e-3, atol=1e-3)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moments = vae.quant_conv(vae.encoder(pixels * 2 - 1)).chunk(2, 1)[0]
    torch.testing.assert_close(base.encode_pictures(pixels), moments * 0.13025, rtol=1e-3, atol=1e-4)


def test_it_paints_on_the_command_line(made: tuple[Path, Any, Any, Any], tmp_path: Path) -> None:
    main = importlib.import_module("b4m_pack.b4m_core.commandline").main
    words = ["generate", "a cat", "--model", made[0], "--tokenizer", TOKENIZER, "--size", 64, "--device", "cpu", "--dtype", "float32"]
    assert main([str(word) for word in [*words, "--out", tmp_path / "x.png"]]) == 0 and (tmp_path / "x.png").is_file()


@pytest.mark.parametrize(
    "drop,sentence",
    [
        ("first_stage_model.", "small_xl holds no VAE: choose a checkpoint that holds the whole model"),
        ("conditioner.", "small_xl holds no first text encoder and no second text encoder"),
        ("model.diffusion_model.", "small_xl is no checkpoint of Stable Diffusion"),
        ("model.diffusion_model.label_emb.", "small_xl is another kind of model, and B4M trains SDXL"),
        ("model.diffusion_model.input_blocks.0.", "small_xl cannot be read: its network is missing or damaged"),
    ],
)
def test_what_is_missing_in_a_file_is_named(
    drop: str, sentence: str, made: tuple[Path, Any, Any, Any], error: type[Exception], tmp_path: Path
) -> None:
    kind = importlib.import_module("b4m_pack.b4m_core.checkpoint_file").CheckpointFile
    part = {key: value for key, value in load_file(made[0]).items() if not key.startswith(drop)}
    save_file(part, tmp_path / "small_xl.safetensors")
    with pytest.raises(error, match=sentence):
        kind(tmp_path / "small_xl.safetensors", tokenizer=TOKENIZER)


def test_a_file_of_another_kind_is_a_sentence(error: type[Exception], tmp_path: Path) -> None:
    kind = importlib.import_module("b4m_pack.b4m_core.checkpoint_file").CheckpointFile
    for name, sentence in (("x.ckpt", "x.ckpt is no safetensors file"), ("x.safetensors", "x.safetensors is missing, damaged or no")):
        (tmp_path / name).write_bytes(b"no file")
        with pytest.raises(error, match=sentence):
            kind(tmp_path / name)
