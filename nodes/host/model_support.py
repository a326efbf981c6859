"""Which model a MODEL is, and how it adds noise. B4M trains SDXL; anything else is named in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_base
import comfy.model_sampling
import torch

from ...b4m_core import B4MError, NoiseSchedule
from .asking import ask

_NAMES = {
    "SD15": "Stable Diffusion 1.5",
    "SD15_instructpix2pix": "InstructPix2Pix (Stable Diffusion 1.5)",
    "SD20": "Stable Diffusion 2",
    "SD21UnclipL": "Stable Diffusion 2.1 unCLIP",
    "SD21UnclipH": "Stable Diffusion 2.1 unCLIP",
    "SD_X4Upscaler": "the Stable Diffusion x4 upscaler",
    "SDXLRefiner": "the SDXL refiner",
    "SDXL": "SDXL",
    "SDXL_instructpix2pix": "InstructPix2Pix (SDXL)",
    "SSD1B": "SSD-1B, a cut-down SDXL",
    "Segmind_Vega": "Segmind Vega, a cut-down SDXL",
    "KOALA_700M": "KOALA, a cut-down SDXL",
    "KOALA_1B": "KOALA, a cut-down SDXL",
    "SD3": "Stable Diffusion 3",
    "Stable_Cascade_B": "Stable Cascade",
    "Stable_Cascade_C": "Stable Cascade",
    "SVD_img2vid": "Stable Video Diffusion",
    "Flux": "Flux",
    "FluxInpaint": "Flux Fill",
    "FluxSchnell": "Flux Schnell",
    "Flux2": "Flux 2",
    "PixArtAlpha": "PixArt",
    "PixArtSigma": "PixArt Sigma",
    "AuraFlow": "AuraFlow",
    "HunyuanDiT": "Hunyuan-DiT",
    "HunyuanDiT1": "Hunyuan-DiT",
    "Lumina2": "Lumina 2",
    "ZImage": "Z-Image",
    "Chroma": "Chroma",
    "QwenImage": "Qwen-Image",
    "HiDream": "HiDream",
}
_PREDICTIONS = {comfy.model_sampling.EPS: "epsilon", comfy.model_sampling.V_PREDICTION: "v_prediction"}
_REAL_SDXL_SIZE = 1024
_SIZE_NUMBERS, _SIZE_WIDTH = 6, 256  # SDXL's size conditioning: six numbers of 256 sines and cosines each


def describe_model(model: Any) -> str:
    """The model's name for people: "SDXL", "Stable Diffusion 1.5", "the SDXL refiner", "Flux" ..."""
    config = model.model.model_config
    kind = type(config).__name__
    name = ask(config, "b4m_name") or _NAMES.get(kind, kind)
    if name == "SDXL" and config.unet_config.get("in_channels") != 4:
        return "an SDXL inpainting model"
    return name


def native_size(model: Any) -> int:
    """Side in pixels of the square pictures that the model was trained on."""
    return ask(model.model.model_config, "b4m_native_size", _REAL_SDXL_SIZE)


def require_sdxl(model: Any) -> None:
    """Raise B4MError, naming what the model is, unless it has the topology of the SDXL base model (any width or depth)."""
    is_sdxl = isinstance(model.model, comfy.model_base.SDXL) and _has_sdxl_topology(model.model.model_config.unet_config)
    if not is_sdxl:
        raise B4MError(
            f"B4M trains on SDXL models, but the model connected here is {describe_model(model)}; "
            "connect an SDXL base model or a fine-tune of it."
        )


def level_depths(unet_config: Mapping[str, Any]) -> list[int]:
    """Transformer blocks in each attention of each resolution level, e.g. SDXL [0, 2, 10]."""
    return list(unet_config["transformer_depth"])[::2]


def _has_sdxl_topology(config: Mapping[str, Any]) -> bool:
    if list(config.get("num_res_blocks", ())) != [2, 2, 2] or config.get("in_channels") != 4 or config.get("out_channels") != 4:
        return False
    depths = level_depths(config)
    return (
        list(config["transformer_depth"]) == [depth for depth in depths for _ in range(2)]
        and list(config["transformer_depth_output"]) == [depth for depth in depths for _ in range(3)]
        and config.get("transformer_depth_middle") == depths[-1] > 0
        and bool(config.get("use_linear_in_transformer"))
        and (config.get("adm_in_channels") or 0) > _SIZE_NUMBERS * _SIZE_WIDTH
        and not config.get("use_temporal_attention")
    )


def noise_schedule(model: Any) -> NoiseSchedule:
    """The model's noise schedule: alphas_cumprod (T,) float64 from the host's sigmas, and "epsilon" or "v_prediction".

    Reads what is in force, a ModelSamplingDiscrete node upstream included. alpha_bar = 1 / (1 + sigma^2) (Karras et al. 2022, eq. 8).
    Raises B4MError for models that are neither (EDM, flow matching, distilled samplings).
    """
    sampling = model.get_model_object("model_sampling")
    schedule, prediction = _schedule_and_prediction(sampling)
    if schedule is not comfy.model_sampling.ModelSamplingDiscrete or prediction not in _PREDICTIONS:
        raise B4MError(_untrainable(schedule, prediction))
    with torch.inference_mode(False):
        sigmas = sampling.sigmas.detach().to(device="cpu", dtype=torch.float64, copy=True)
        return NoiseSchedule(1.0 / (1.0 + sigmas**2), _PREDICTIONS[prediction])


def _schedule_and_prediction(sampling: Any) -> tuple[type, type]:
    """The two classes that the host mixes into one on the spot. Exact classes count: to the host an EDM is a V_PREDICTION too."""
    mixed = type(sampling).__mro__[1:]
    schedule = next(kind for kind in mixed if issubclass(kind, torch.nn.Module))
    return schedule, next(kind for kind in mixed if not issubclass(kind, torch.nn.Module))


def _untrainable(schedule: type, prediction: type) -> str:
    if "LCM" in prediction.__name__ or "Distilled" in schedule.__name__:
        return (
            "This model is set to LCM sampling, which paints in few steps and has no noise schedule to train on; connect the model from "
            "before the ModelSamplingDiscrete node here, and leave that node in front of KSampler."
        )
    return (
        f"This model is sampled by {prediction.__name__} with {schedule.__name__}, which B4M cannot train; "
        "connect an SDXL model with epsilon or v-prediction, or remove the model sampling node in front."
    )
