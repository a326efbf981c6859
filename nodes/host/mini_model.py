"""The embedded small SDXL on the host's own classes. Its folder has diffusers' layout; every size is read from the configurations there."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from safetensors.torch import load_file
from torch import Tensor

from ...b4m_core import B4MError
from ...b4m_core.compact_text import compact_state_dict

FOLDER = Path(__file__).resolve().parents[2] / "mini"


@cache
def mini_model() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the small SDXL in float32 (60 MB); the same objects each time. B4MError when its files cannot be read."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _load_model(), _load_clip(), _load_vae()
    except Exception as error:  # the libraries' readers raise whatever they like over a damaged file
        raise B4MError(f"The small model in the folder mini of B4M cannot be read ({error}); install B4M again.") from error


class _MiniConfig(comfy.supported_models.SDXL):
    """SDXL of another size. The host detects SDXL by its 320 channels, so this one needs its own loader."""

    b4m_name = "the B4M mini model"

    def __init__(self, unet_config: dict[str, Any], native: int) -> None:
        super().__init__(unet_config)
        self.b4m_native_size = native

    def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device: torch.device | None = None) -> _MiniUNet:
        return _MiniUNet(self, device=device)


class _MiniUNet(comfy.model_base.SDXL):
    """SDXL whose size conditioning defaults to its own size instead of the host's 768, so that a plain CLIPTextEncode suits it."""

    def encode_adm(self, **kwargs: Any) -> Tensor:
        native = self.model_config.b4m_native_size
        return super().encode_adm(**{"width": native, "height": native, **kwargs})


def _load_model() -> Any:
    config = _json("unet/config.json")
    unet_config = _host_unet_config(config)
    host_config = _MiniConfig(unet_config, config["sample_size"] * 8)
    host_config.set_inference_dtype(torch.float32, None)
    model = host_config.get_model({}, "", torch.device("cpu"))
    names = comfy.utils.unet_to_diffusers(host_config.unet_config)
    weights = {names[key]: tensor for key, tensor in _weights("unet").items()}
    model.diffusion_model.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    load_device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload)


def _host_unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """The host's UNet configuration from diffusers' one."""
    depths = [
        depth if "CrossAttn" in kind else 0
        for depth, kind in zip(config["transformer_layers_per_block"], config["down_block_types"], strict=True)
    ]
    channels = config["block_out_channels"]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": [config["layers_per_block"]] * len(channels),
        "transformer_depth": [depth for depth in depths for _ in range(2)],
        "transformer_depth_middle": depths[-1],
        "transformer_depth_output": [depth for depth in depths for _ in range(3)],
        "context_dim": config["cross_attention_dim"],
        "adm_in_channels": config["projection_class_embeddings_input_dim"],
        "num_classes": "sequential",
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "legacy": False,
        "use_checkpoint": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


class _MiniClip(comfy.sdxl_clip.SDXLClipModel):
    """SDXL's pair of text encoders with configurations of our own."""

    def __init__(self, configs: tuple[dict[str, Any], ...], device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        torch.nn.Module.__init__(self)  # the parent's would build the full-size encoders
        encoder = partial(
            comfy.sd1_clip.SDClipModel, layer="hidden", layer_idx=-2, layer_norm_hidden_state=False, device=device, dtype=dtype,
            model_options=model_options or {},
        )  # fmt: skip
        self.clip_l = encoder(textmodel_json_config=configs[0])
        self.clip_g = encoder(textmodel_json_config=configs[1], special_tokens={"start": 49406, "end": 49407, "pad": 0})
        self.dtypes = {dtype}


def _load_clip() -> Any:
    names = ("text_encoder", "text_encoder_2")
    configs = tuple(_json(f"{name}/config.json") for name in names)
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, partial(_MiniClip, configs))
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32, "initial_device": torch.device("cpu")})
    for name, encoder in zip(names, (clip.cond_stage_model.clip_l, clip.cond_stage_model.clip_g), strict=True):
        missing, unexpected = encoder.transformer.load_state_dict(_text_weights(name), strict=False)
        if unexpected or any("text_projection" not in key for key in missing):
            raise B4MError(f"The small model's {name} does not match its configuration; install B4M again.")
        if missing:  # the first encoder has no projection and nobody reads its pooled vector, but unset memory must not enter a fingerprint
            torch.nn.init.eye_(encoder.transformer.text_projection.weight)
    return clip


def _text_weights(name: str) -> dict[str, Tensor]:
    """CLIP's weights under the host's names."""
    weights = compact_state_dict(FOLDER / name)
    return {key if key.startswith("text_") else f"text_model.{key}": tensor for key, tensor in weights.items()}


def _load_vae() -> Any:
    """A TAESD, the host's name for diffusers' AutoencoderTiny. vae_scale undoes the factor of SDXL's latent format."""
    weights = {}
    for key, tensor in _weights("vae").items():
        side, _, number, rest = key.split(".", 3)
        offset = 1 if side == "decoder" else 0  # the host's decoder starts with a clamp that diffusers keeps outside
        weights[f"taesd_{side}.{int(number) + offset}.{rest}"] = tensor.float()
    weights["vae_scale"] = torch.tensor(comfy.latent_formats.SDXL.scale_factor)
    weights["vae_shift"] = torch.tensor(0.0)
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def _json(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def _weights(part: str) -> dict[str, Tensor]:
    """All tensors of a diffusers folder, one file or several."""
    weights: dict[str, Tensor] = {}
    for path in sorted((FOLDER / part).glob("diffusion_pytorch_model*.safetensors")):
        weights.update(load_file(path))
    return weights
