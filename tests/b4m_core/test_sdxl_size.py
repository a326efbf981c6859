"""The numbers of METHOD.md, counted on SDXL's real configuration without its weights."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from b4m_core import Adapter, Facts
from b4m_core.bounds import require_possible
from b4m_core.layers import CONVOLUTIONS, matrix_shape
from b4m_core.models.family import adapted_layers
from b4m_core.models.sdxl import SDXL as FAMILY
from b4m_core.models.sdxl import attention_projections
from b4m_core.models.sdxl.names import kohya_key, module_path

SDXL = {
    "act_fn": "silu", "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "center_input_sample": False,
    "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "downsample_padding": 1,
    "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816, "resnet_time_scale_shift": "default", "sample_size": 128,
    "time_embedding_type": "positional", "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "upcast_attention": False, "use_linear_projection": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL)


@pytest.fixture(scope="module")
def adapter(unet: nn.Module) -> Adapter:
    return Adapter.for_unet(unet, Facts(role="content", rank=64))


def test_the_network_of_this_test_is_the_real_sdxl(unet: nn.Module) -> None:
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684


def test_sdxl_has_five_hundred_and_sixty_layers_of_four_shapes(unet: nn.Module) -> None:
    shapes = Counter((linear.out_features, linear.in_features) for _, linear in attention_projections(unet))
    assert shapes == {(640, 640): 60, (1280, 1280): 360, (640, 2048): 20, (1280, 2048): 120}
    assert sum(shapes.values()) == 560


def test_the_adapter_of_sdxl_has_the_numbers_of_the_paper_half_of_them_learned(adapter: Adapter) -> None:
    assert len(adapter.layers) == 560
    assert adapter.learned_numbers() == adapter.frozen_numbers() == 92_897_280 // 2
    assert sum(layer.up().numel() + layer.down().numel() for layer in adapter.layers.values()) == 92_897_280


def test_an_adapter_made_on_the_meta_device_holds_real_numbers(adapter: Adapter) -> None:
    layer = next(iter(adapter.layers.values()))
    assert {half.device.type for half in (layer.A, layer.B, layer.C, layer.D)} == {"cpu"}
    assert float(layer.A.abs().sum()) > 0


def test_every_layer_of_sdxl_has_its_own_name_in_a_lora_file_and_back(adapter: Adapter) -> None:
    keys = [kohya_key(name) for name in adapter.layers]
    assert len(set(keys)) == 560
    assert [module_path(key) for key in keys] == list(adapter.layers)


def test_no_two_layers_of_sdxl_share_their_basis(adapter: Adapter) -> None:
    first_rows = {tuple(layer.A[:4].flatten().tolist()) for layer in adapter.layers.values()}
    assert len(first_rows) == 560


def test_the_sdxl_blocks_have_the_names_that_kohya_gives_them() -> None:
    """Counted by hand in the original network: input blocks 4, 5, 7, 8, the middle block, output blocks 0 to 5."""
    blocks = {
        "down_blocks.1.attentions.0": "input_blocks_4_1", "down_blocks.1.attentions.1": "input_blocks_5_1",
        "down_blocks.2.attentions.0": "input_blocks_7_1", "down_blocks.2.attentions.1": "input_blocks_8_1",
        "mid_block.attentions.0": "middle_block_1",
        "up_blocks.0.attentions.0": "output_blocks_0_1", "up_blocks.0.attentions.1": "output_blocks_1_1",
        "up_blocks.0.attentions.2": "output_blocks_2_1", "up_blocks.1.attentions.0": "output_blocks_3_1",
        "up_blocks.1.attentions.1": "output_blocks_4_1", "up_blocks.1.attentions.2": "output_blocks_5_1",
    }  # fmt: skip
    for path, key in blocks.items():
        assert kohya_key(f"{path}.transformer_blocks.1.attn2.to_out.0") == f"lora_unet_{key}_transformer_blocks_1_attn2_to_out_0"


def test_full_reach_learns_as_many_numbers_as_the_published_split_has_in_all(unet: nn.Module, adapter: Adapter) -> None:
    full = Adapter.for_unet(unet, Facts(role="content", rank=64, split="full"))
    assert full.learned_numbers() == full.frozen_numbers() == 92_897_280 and full.facts.basis != adapter.facts.basis


def test_a_free_content_of_half_the_rank_learns_as_many_numbers_as_the_published_split_has_in_all(unet: nn.Module) -> None:
    free = Adapter.for_unet(unet, Facts(role="content", rank=32, split="free"))
    assert (free.learned_numbers(), free.frozen_numbers()) == (92_897_280, 0)
    assert sum(layer.A.numel() + layer.D.numel() for layer in free.layers.values()) == 46_448_640


def test_sdxl_has_forty_nine_convolutions_to_adapt_by_the_names_that_kohya_gives_them(unet: nn.Module) -> None:
    """Counted by hand in the original network, as above; a file of them all is one that can be."""
    shapes = {name: matrix_shape(layer) for name, layer in adapted_layers(FAMILY, unet, CONVOLUTIONS)}
    added = {name: shape for name, shape in shapes.items() if FAMILY.kernel(name)}
    assert len(shapes) == 609 == FAMILY.largest.layers and len(added) == 49 and max(n for _, n in added.values()) == FAMILY.largest.row
    assert sum(m + n for m, n in added.values()) == 378_880
    assert len({kohya_key(name) for name in shapes}) == 609 and all(module_path(kohya_key(name)) == name for name in shapes)
    names = {
        "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.1.conv2": "input_blocks_2_0_out_layers_3",
        "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
        "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3", "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
        "up_blocks.2.resnets.2.conv_shortcut": "output_blocks_8_0_skip_connection",
    }  # fmt: skip
    assert all(kohya_key(path) == f"lora_unet_{key}" for path, key in names.items())
    require_possible(shapes, 512, FAMILY.largest, sum(2 * 512 * (m // 2) for m, _ in shapes.values()), "a style in halves, compact")
