"""A model that is not SDXL is named in one sentence; noise schedules are read from what the host says."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.model_base
import comfy.model_sampling
import comfy.supported_models
import pytest
import small_sdxl
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete


def stand_in(kind: str, **unet_config: Any) -> Any:
    """A MODEL of a family without its weights: what the check reads is there."""
    config_class = getattr(comfy.supported_models, kind)
    config = config_class({**small_sdxl.small_config(), **config_class.unet_config, **unet_config})
    base = (
        comfy.model_base.SDXL.__new__(comfy.model_base.SDXL) if issubclass(config_class, comfy.supported_models.SDXL) else SimpleNamespace()
    )
    base.__dict__["model_config"] = config
    return SimpleNamespace(model=base)


FAMILIES = [
    ("SD15", "Stable Diffusion 1.5"),
    ("SD20", "Stable Diffusion 2"),
    ("SDXLRefiner", "the SDXL refiner"),
    ("SSD1B", "SSD-1B"),
    ("KOALA_1B", "KOALA"),
    ("SD3", "Stable Diffusion 3"),
    ("Flux", "Flux"),
    ("FluxSchnell", "Flux Schnell"),
    ("Chroma", "Chroma"),
    ("WAN21_T2V", "WAN21_T2V"),
]


@pytest.mark.parametrize(("kind", "name"), FAMILIES)
def test_a_model_that_is_not_sdxl_is_named_in_the_sentence(host: ModuleType, error: type[Exception], kind: str, name: str) -> None:
    with pytest.raises(error, match=f"the model connected here is {name}.*; connect an SDXL base model"):
        host.require_sdxl(stand_in(kind, transformer_depth_middle=1))


def test_an_sdxl_inpainting_model_is_named_in_the_sentence(host: ModuleType, error: type[Exception]) -> None:
    with pytest.raises(error, match="an SDXL inpainting model"):
        host.require_sdxl(stand_in("SDXL", in_channels=9))


def test_the_full_size_sdxl_and_the_mini_model_are_both_accepted(host: ModuleType, mini: tuple[Any, Any, Any]) -> None:
    depths = {"transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10, "channel_mult": [1, 2, 4]}
    sdxl = stand_in("SDXL", **depths)
    host.require_sdxl(sdxl)
    host.require_sdxl(mini[0])
    assert (host.describe_model(sdxl), host.native_size(sdxl)) == ("SDXL", 1024)
    assert host.describe_model(mini[0]) == "the B4M mini model"


def test_the_full_size_configuration_is_the_published_one(host: ModuleType) -> None:
    from diffusers import UNet2DConditionModel

    network = __import__("sys").modules["b4m_pack.nodes.host.network"]
    depths = {"transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10, "channel_mult": [1, 2, 4]}
    unet_config = stand_in("SDXL", **depths).model.model_config.unet_config
    with torch.device("meta"):
        unet = UNet2DConditionModel(**network.network_config(unet_config, 1024))
    assert sum(weight.numel() for weight in unet.parameters()) == 2_567_463_684
    assert unet.config.attention_head_dim == [5, 10, 20] and unet.config.transformer_layers_per_block == [1, 2, 10]
    assert set(unet.state_dict()) <= set(comfy.utils.unet_to_diffusers(unet_config))


def test_the_schedule_of_an_epsilon_model_is_sdxls(host: ModuleType) -> None:
    schedule = host.noise_schedule(small_sdxl.small_model())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert schedule.prediction == "epsilon" and schedule.alphas_cumprod.dtype == torch.float64
    assert torch.allclose(schedule.alphas_cumprod, torch.cumprod(1 - betas, 0), rtol=1e-5)


def test_a_v_prediction_checkpoint_with_zero_terminal_snr_is_read_as_such(host: ModuleType) -> None:
    keys = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    schedule = host.noise_schedule(small_sdxl.small_model(state_dict=keys))
    plain = host.noise_schedule(small_sdxl.small_model(state_dict={"v_pred": torch.tensor([])}))
    assert schedule.prediction == plain.prediction == "v_prediction"
    assert schedule.alphas_cumprod[-1] < 1e-7 < 1e-3 < plain.alphas_cumprod[-1]
    assert torch.allclose(schedule.alphas_cumprod[0], plain.alphas_cumprod[0])


def test_a_sampling_node_upstream_is_what_counts(host: ModuleType) -> None:
    (model,) = ModelSamplingDiscrete().patch(small_sdxl.small_model(), "v_prediction", True)
    schedule = host.noise_schedule(model)
    assert schedule.prediction == "v_prediction" and schedule.alphas_cumprod[-1] < 1e-7


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ("x0", "B4M cannot train; connect an SDXL model with epsilon or v-prediction"),
        ("lcm", "LCM sampling.*connect the model from before the ModelSamplingDiscrete node here"),
    ],
)
def test_a_distilled_or_x0_sampling_is_refused_in_a_sentence(
    host: ModuleType, error: type[Exception], sampling: str, sentence: str
) -> None:
    (model,) = ModelSamplingDiscrete().patch(small_sdxl.small_model(), sampling, False)
    with pytest.raises(error, match=sentence):
        host.noise_schedule(model)


@pytest.mark.parametrize("sampling", ["v_prediction", "edm", "eps"])
def test_a_continuous_edm_sampling_is_refused_in_a_sentence(host: ModuleType, error: type[Exception], sampling: str) -> None:
    (model,) = ModelSamplingContinuousEDM().patch(small_sdxl.small_model(), sampling, 120.0, 0.002)
    with pytest.raises(error, match="EDM, which B4M cannot train"):
        host.noise_schedule(model)


def test_playground_and_flow_models_are_refused_in_a_sentence(host: ModuleType, error: type[Exception]) -> None:
    playground = small_sdxl.small_model(state_dict={"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)})
    with pytest.raises(error, match="EDM"):
        host.HostBaseModel(playground, None, None)
    flow = small_sdxl.small_model()
    flow.add_object_patch("model_sampling", comfy.model_base.model_sampling(flow.model.model_config, comfy.model_base.ModelType.FLOW))
    with pytest.raises(error, match="ModelSamplingDiscreteFlow"):
        host.noise_schedule(flow)
