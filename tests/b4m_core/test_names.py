"""Layer names in diffusers and in LoRA files, against diffusers' own conversion."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

from b4m_core import B4MError
from b4m_core.models.sdxl import attention_projections
from b4m_core.models.sdxl.names import kohya_key, module_path


def test_every_name_is_what_diffusers_reads_it_as() -> None:
    """Each layer's factors carry a number of their own; after diffusers' conversion each number must sit at its layer."""
    unet = tiny.tiny_unet((1, 1, 2), levels=2)
    names = [name for name, _ in attention_projections(unet)]
    lora = {}
    for number, name in enumerate(names):
        lora[kohya_key(name) + ".lora_up.weight"] = torch.full((2, 1), float(number + 1))
        lora[kohya_key(name) + ".lora_down.weight"] = torch.full((1, 2), 1.0)
        lora[kohya_key(name) + ".alpha"] = torch.tensor(1.0)
    state, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(lora, unet_config=unet.config)
    ups = {key: int(value[0, 0]) for key, value in state.items() if key.endswith("up.weight")}
    assert len(ups) == len(names)
    for number, name in enumerate(names):
        block, _, projection = name.removesuffix(".0").rpartition(".")
        assert ups[f"unet.{block}.processor.{projection}_lora.up.weight"] == number + 1


def test_names_go_there_and_back_for_every_layer() -> None:
    for name, _ in attention_projections(tiny.tiny_unet((1, 2, 2), levels=2)):
        assert module_path(kohya_key(name)) == name


@pytest.mark.parametrize(
    "path",
    [
        "conv_in",
        "down_blocks.1.resnets.0.norm1",
        "up_blocks.0.downsamplers.0.conv",
        "down_blocks.0.resnets.0.conv",
        "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2",
        "",
        "transformer_blocks.0.attn.to_q",
    ],
)
def test_a_layer_without_a_name_is_refused_in_a_sentence(path: str) -> None:
    with pytest.raises(B4MError, match="has no name in an SDXL LoRA file"):
        kohya_key(path)


@pytest.mark.parametrize(
    "key",
    [
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_unet_input_blocks_4_1_proj_in",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_2",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q\n",
        "x" * 5000,
    ],
)
def test_a_key_of_another_kind_is_refused_in_a_short_sentence(key: str) -> None:
    with pytest.raises(B4MError, match="is neither an attention projection nor a convolution of SDXL") as caught:
        module_path(key)
    assert len(str(caught.value)) < 220


def test_a_block_number_that_sdxl_does_not_have_never_becomes_a_layer() -> None:
    """Input block 0 is the first convolution; read carelessly it would be down block minus one."""
    with pytest.raises(B4MError):
        module_path("lora_unet_input_blocks_0_1_transformer_blocks_0_attn1_to_q")
