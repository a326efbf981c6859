"""A base model from one file, as ComfyUI and most sites have it: network, text encoders and VAE under the names of the
original SDXL.

diffusers converts the names; it would fetch the sizes from the network, so they are read off the weights here.
"""

import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from .diffusers_folder import KINDS, REFINER_WIDTH, SDXL_SCHEDULE, DiffusersFolder, frozen, readable
from .errors import B4MError
from .fingerprint import ROWS, network_fingerprint, sampled_layers
from .models.sdxl import CONTEXT_WIDTH, is_adapted
from .models.sdxl.names import module_path

Shapes = Mapping[str, tuple[int, ...]]
NETWORK, FIRST, SECOND, VAE = (
    "model.diffusion_model.",
    "conditioner.embedders.0.transformer.text_model.",
    "conditioner.embedders.1.model.",
    "first_stage_model.",
)
_PARTS = {NETWORK: "network", FIRST: "first text encoder", SECOND: "second text encoder", VAE: "VAE"}
_HEAD, _STRIDE = 64, 3
"""Numbers of an attention head, in the network and the text encoders; blocks of a level."""


class CheckpointFile(DiffusersFolder):
    """A :class:`~b4m_core.base_model.BaseModel` from one safetensors file, which stands where a folder
    does: ``folder`` is its path. The rest as for a folder.

    Raises :class:`B4MError` when the file is not a whole SDXL.
    """

    def _opened(self) -> tuple[str, dict[str, Any]]:
        if self.folder.suffix.lower() != ".safetensors":
            raise B4MError(
                f"{self.folder.name} is no safetensors file, and B4M opens no others: choose a .safetensors checkpoint."
            )
        self._shapes = _shapes_of(self.folder)
        name = self.folder.stem
        _require_sdxl(self._shapes, name)
        with readable(name, "network"):
            return name, _network_config(self._shapes)

    @functools.cached_property
    def unet(self) -> nn.Module:
        """The frozen network."""
        return frozen(self._whole.unet, self.device)  # type: ignore[no-any-return]

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the file."""
        digest = hashlib.sha256()
        with open(self.folder, "rb") as opened:
            for piece in iter(lambda: opened.read(1 << 22), b""):
                digest.update(piece)
        return digest.hexdigest()

    @functools.cached_property
    def network_fingerprint(self) -> str:
        """See :class:`~b4m_core.base_model.BaseModel`."""
        names = {path: key for key in self._shapes if (path := _adapted_path(key))}
        with readable(self.name, "network"), safe_open(self.folder, "pt") as file:
            shapes = {path: self._shapes[key] for path, key in names.items()}
            return network_fingerprint(shapes, {path: file.get_slice(names[path])[:ROWS] for path in sampled_layers(names)})

    @functools.cached_property
    def _whole(self) -> StableDiffusionXLPipeline:
        """All parts, as diffusers makes them of the file."""
        first, second = self._tokenizers
        with torch.inference_mode(False), readable(self.name, "file"), tempfile.TemporaryDirectory() as place:
            _write_configs(Path(place), self._config, self._shapes)
            return StableDiffusionXLPipeline.from_single_file(
                str(self.folder), config=place, local_files_only=True, torch_dtype=self.dtype,
                tokenizer=first, tokenizer_2=second, scheduler=EulerDiscreteScheduler(**SDXL_SCHEDULE),
            )  # fmt: skip

    def _scheduler_config(self) -> dict[str, Any]:
        """SDXL's own; checkpoints of v-prediction say so by a tensor of that name."""
        marks = {"prediction_type": "v_prediction"} if "v_pred" in self._shapes else {}
        return {**SDXL_SCHEDULE, **marks, "rescale_betas_zero_snr": "ztsnr" in self._shapes}

    @functools.cached_property
    def _vae(self) -> Any:
        return frozen(self._whole.vae, self.device)

    @functools.cached_property
    def _text_encoders(self) -> list[Any]:
        return [frozen(encoder, self.device) for encoder in (self._whole.text_encoder, self._whole.text_encoder_2)]


def _shapes_of(file: Path) -> Shapes:
    try:
        with safe_open(file, "pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise B4MError(f"{file.name} is missing, damaged or no safetensors file ({reason}): choose another one.") from error


def _require_sdxl(shapes: Shapes, name: str) -> None:
    width = next((shape[1] for key, shape in shapes.items() if key.startswith(NETWORK) and key.endswith("attn2.to_k.weight")), 0)
    if not width:
        raise B4MError(f"{name} is no checkpoint of Stable Diffusion: choose an SDXL checkpoint, or a folder in diffusers' layout.")
    if NETWORK + "label_emb.0.0.weight" not in shapes or width == REFINER_WIDTH:
        raise B4MError(f"{name} is {KINDS.get(width, 'another kind of model')}, and B4M trains SDXL: choose an SDXL checkpoint.")
    missing = [part for prefix, part in _PARTS.items() if not any(key.startswith(prefix) for key in shapes)]
    if missing:
        raise B4MError(f"{name} holds no {' and no '.join(missing)}: choose a checkpoint that holds the whole model.")


def _adapted_path(key: str) -> str:
    """diffusers' path of a layer that gets an update, from its key in the file; nothing for any other."""
    if not key.startswith(NETWORK) or not key.endswith(".weight") or ".attn" not in key:
        return ""
    name = "lora_unet_" + key[len(NETWORK) : -len(".weight")].replace(".", "_")
    try:
        path = module_path(name)
    except B4MError:
        return ""
    return path if is_adapted(path) else ""


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered parts there are below ``prefix``."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match[1] for key in shapes if (match := pattern.match(key))})


def _network_config(shapes: Shapes) -> dict[str, Any]:
    levels = -(-_count(shapes, NETWORK + "input_blocks.") // _STRIDE)
    firsts = [f"{NETWORK}input_blocks.{1 + _STRIDE * level}." for level in range(levels)]
    channels = [shapes[f"{first}0.out_layers.3.weight"][0] for first in firsts]
    depths = [_count(shapes, f"{first}1.transformer_blocks.") for first in firsts]
    width = next(shape[1] for key, shape in shapes.items() if key.startswith(NETWORK) and key.endswith("attn2.to_k.weight"))
    conditions, pooled = shapes[f"{NETWORK}label_emb.0.0.weight"][1], shapes[f"{SECOND}text_projection"][1]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128 if width == CONTEXT_WIDTH else 32,
        "in_channels": shapes[f"{NETWORK}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{NETWORK}out.2.weight"][0],
        "block_out_channels": channels,
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "attention_head_dim": [count // _HEAD for count in channels],
        "cross_attention_dim": width,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (conditions - pooled) // 6,
        "projection_class_embeddings_input_dim": conditions,
        "layers_per_block": _STRIDE - 1,
    }


def _text_config(hidden: int, inner: int, layers: int, tokens: int, projection: int, act: str) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": hidden // _HEAD,
        "vocab_size": tokens, "projection_dim": projection, "hidden_act": act, "max_position_embeddings": 77,
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "model_type": "clip_text_model",
    }  # fmt: skip


def _vae_config(shapes: Shapes) -> dict[str, Any]:
    levels = _count(shapes, VAE + "encoder.down.")
    channels = [shapes[f"{VAE}encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(shapes, f"{VAE}encoder.down.0.block."),
        "latent_channels": shapes[f"{VAE}post_quant_conv.weight"][0],
        "scaling_factor": 0.13025,
    }


def _write_configs(place: Path, network: Mapping[str, Any], shapes: Shapes) -> None:
    """What diffusers reads beside a checkpoint: the sizes of every part, and which parts there are."""
    inner = shapes[f"{FIRST}encoder.layers.0.mlp.fc1.weight"]
    first = _text_config(inner[1], inner[0], _count(shapes, FIRST + "encoder.layers."),
                         shapes[f"{FIRST}embeddings.token_embedding.weight"][0], inner[1], "quick_gelu")  # fmt: skip
    inner = shapes[f"{SECOND}transformer.resblocks.0.mlp.c_fc.weight"]
    second = _text_config(inner[1], inner[0], _count(shapes, SECOND + "transformer.resblocks."),
                          shapes[f"{SECOND}token_embedding.weight"][0], shapes[f"{SECOND}text_projection"][1], "gelu")  # fmt: skip
    kinds = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    }
    index = {"_class_name": "StableDiffusionXLPipeline", **kinds}
    for name, config in (("", index), ("unet", network), ("vae", _vae_config(shapes)), ("text_encoder", first), ("text_encoder_2", second)):
        (place / name).mkdir(exist_ok=True)
        (place / name / ("config.json" if name else "model_index.json")).write_text(json.dumps(config))

