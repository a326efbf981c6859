"""A base model from a folder in diffusers' layout, for the command line and for scripts. The embedded model is one such
folder.
"""

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .adapter import Adapter
from .carried import DETAIL, Carried, add_to
from .checked import whole
from .compact_text import FILE as COMPACT
from .compact_text import compact_state_dict
from .diffusers_parts import clip_tokenizer, variant_of, weights_of
from .errors import B4MError
from .fingerprint import ROWS, network_fingerprint, sampled_layers
from .models.sdxl import SDXL, is_adapted
from .models.sdxl.modules import layer_key
from .models.sdxl.text import HIDDEN_LAYER, encode_tokens
from .objective import NoiseSchedule

SDXL_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


_MOST_TIMESTEPS = 100_000
_OWN_FILES = {"use_safetensors": True, "local_files_only": True}
REFINER_WIDTH = 1280
_TOKENS = 77  # of the text encoders, a beginning and an end among them
KINDS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", REFINER_WIDTH: "the SDXL refiner"}


class DiffusersFolder:
    """A :class:`~b4m_core.base_model.BaseModel` from ``folder``.

    ``tokenizer`` is a folder with CLIP's tokenizer.json, or its vocab.json and merges.txt, for a model that has
    none of its own that can be read.
    ``steps`` and ``guidance`` are those of :meth:`paint`. Raises :class:`B4MError` when the folder is not an SDXL in
    diffusers' layout.
    """

    family = SDXL
    hidden_layer = HIDDEN_LAYER

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        steps: int = 20,
        guidance: float = 5.0,
    ) -> None:
        self.folder, self.device, self.dtype = folder, torch.device(device), dtype
        self.tokenizer, self._steps, self._guidance = tokenizer, steps, guidance
        self.name, self._config = self._opened()

    def _opened(self) -> tuple[str, dict[str, Any]]:
        """The model's name, and its network's configuration as diffusers writes it."""
        folder = self.folder
        if not (folder / "unet" / "config.json").is_file() or not list((folder / "unet").glob("*.safetensors")):
            raise B4MError(
                f"{folder} is not a model folder in diffusers' layout with safetensors weights: choose another one, or a "
                "checkpoint that ends in .safetensors."
            )
        with readable(folder.name, "unet"):
            config: dict[str, Any] = dict(json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8")))
        if config.get("addition_embed_type") != "text_time" or config.get("cross_attention_dim") == REFINER_WIDTH:
            kind = KINDS.get(config.get("cross_attention_dim", 0), "another kind of model")
            raise B4MError(f"{folder.name} is {kind}, and B4M trains SDXL: choose an SDXL model folder.")
        return folder.resolve().name, config

    @functools.cached_property
    def unet(self) -> nn.Module:
        """The frozen network."""
        with torch.inference_mode(False), readable(self.name, "unet"):
            unet = UNet2DConditionModel.from_pretrained(self.folder / "unet", **self._reading("unet"))
            return cast(nn.Module, frozen(unet, self.device))

    @functools.cached_property
    def schedule(self) -> NoiseSchedule:
        """From scheduler/scheduler_config.json, or SDXL's own where the folder has none."""
        with readable(self.name, "scheduler"):
            config = self._scheduler_config()
            scheduler = DDPMScheduler.from_config({**config, "prediction_type": "epsilon"})
            alphas = scheduler.alphas_cumprod.double()
            if not len(alphas) or not ((alphas >= 0) & (alphas <= 1)).all():
                raise ValueError("its betas make no schedule")
            return NoiseSchedule(alphas, config.get("prediction_type", "epsilon"))

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over all weights, as files."""
        digest = hashlib.sha256()
        for file in sorted(self.folder.glob("*/*.safetensors")):
            digest.update(file.relative_to(self.folder).as_posix().encode())
            with open(file, "rb") as opened:
                for piece in iter(lambda: opened.read(1 << 22), b""):
                    digest.update(piece)
        return digest.hexdigest()

    @functools.cached_property
    def network_fingerprint(self) -> str:
        """See :class:`~b4m_core.base_model.BaseModel`. Read from the files, so that the compute dtype does not
        matter.
        """
        with contextlib.ExitStack() as stack, readable(self.name, "unet"):
            files = [
                stack.enter_context(safe_open(file, "pt"))
                for file in weights_of(self.folder / "unet")
            ]
            keys = {
                key.removesuffix(".weight"): file for file in files for key in file.keys() if key.endswith(".weight")
            }
            layers = {name: file.get_slice(f"{name}.weight") for name, file in keys.items() if is_adapted(name)}
            shapes = {name: layer.get_shape() for name, layer in layers.items()}
            return network_fingerprint(shapes, {name: layers[name][:ROWS] for name in sampled_layers(layers)})

    @property
    def native_size(self) -> int:
        """The side in pixels that the network was made for."""
        with readable(self.name, "unet"):
            return whole(self._config["sample_size"], "the sample_size of its network", 4, 1024) * 8

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """See :class:`~b4m_core.base_model.BaseModel`."""
        encoded = self._vae.encode((pixels * 2 - 1).to(self.device, self._vae.dtype))
        latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents.mul(self._vae.config.scaling_factor).float().cpu()

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See :class:`~b4m_core.base_model.BaseModel`."""
        encoded = [self._encode(prompt) for prompt in prompts]
        length = math.lcm(*(len(states) for states, _ in encoded))
        states = torch.stack([each.repeat(length // len(each), 1) for each, _ in encoded])
        return states, torch.stack([pooled for _, pooled in encoded])

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor]:
        """The states (77 k, width) of a prompt in its k pieces of 75 tokens, and the pooled vector (p,) of the first, as
        ComfyUI encodes it; float32 on the CPU.
        """
        states, pooled = encode_tokens(self.text_encoders, [ids.to(self.device) for ids in self.token_ids(prompt)])
        return states.flatten(0, 1).float().cpu(), pooled[0].float().cpu()

    @property
    def text_encoders(self) -> tuple[nn.Module, nn.Module]:
        """See :class:`~b4m_core.base_model.TextEncoders`."""
        first, second = self._text_encoders
        return first, second

    def token_ids(self, prompt: str) -> tuple[Tensor, Tensor]:
        """See :class:`~b4m_core.base_model.TextEncoders`."""
        first, second = (_pieces(tokenizer, prompt) for tokenizer in self._tokenizers)
        return first, second

    def sample(self, prompt: str, *, width: int, height: int, seed: int) -> Tensor:
        """See :class:`~b4m_core.base_model.BaseModel`."""
        picture = self.pipeline(
            **self._prompt(prompt),
            width=width,
            height=height,
            num_inference_steps=self._steps,
            guidance_scale=self._guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images[0]
        return picture.permute(1, 2, 0).float().cpu()  # type: ignore[no-any-return]

    def _prompt(self, prompt: str) -> dict[str, Any]:
        """A prompt as the pipeline takes it: as text, or encoded here where the pipeline would cut it after 75 tokens."""
        if len(self._tokenizers[0](prompt).input_ids) <= _TOKENS:
            return {"prompt": prompt}
        (states, pooled), (against, pooled_against) = self.encode_text([prompt]), self.encode_text([""])
        return {
            "prompt_embeds": states.to(self.device, self.dtype),
            "pooled_prompt_embeds": pooled.to(self.device, self.dtype),
            "negative_prompt_embeds": against.repeat(1, states.shape[1] // _TOKENS, 1).to(self.device, self.dtype),
            "negative_pooled_prompt_embeds": pooled_against.to(self.device, self.dtype),
        }

    @functools.cached_property
    def pipeline(self) -> StableDiffusionXLPipeline:
        """The whole model as diffusers' pipeline, on the same weights."""
        first, second = self._tokenizers
        pipeline = StableDiffusionXLPipeline(
            vae=self._vae,
            unet=self.unet,
            text_encoder=self._text_encoders[0],
            text_encoder_2=self._text_encoders[1],
            tokenizer=first,
            tokenizer_2=second,
            scheduler=EulerDiscreteScheduler.from_config({"timestep_spacing": "linspace", **self._scheduler_config()}),
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @torch.no_grad()
    def with_adapter(self, adapter: Adapter, content: float, style: float, detail: float = 1.0) -> None:
        """Add ``adapter`` to the weights, for painting; the folder object is not fit for training afterwards."""
        targets = adapter.targets(self.unet, whole=False)
        self.wear(adapter.carried, {"content": content, "style": style, DETAIL: detail})
        for name, layer in targets.items():
            layer.weight += adapter.layers[name].delta_weight(content, style).to(layer.weight).view_as(layer.weight)

    @contextlib.contextmanager
    def wearing(self, adapter: Adapter, content: float = 1.0, style: float = 1.0, detail: float = 1.0) -> Iterator[None]:
        """Within: it paints with ``adapter`` at these strengths. Afterwards every weight is bit for bit what it was."""
        changed = [layer.weight for layer in adapter.targets(self.unet, whole=False).values()]
        if adapter.carried:
            keys = {piece.key for piece in adapter.carried}
            weights = self._weights(any(piece.of_text_encoder for piece in adapter.carried))
            changed += [weight for name, weight in weights.items() if name.rpartition(".")[0] in keys]
        self._settle()
        before = [(weight, weight.detach().to("cpu", copy=True)) for weight in changed]  # a card may have no room for them twice
        try:
            self.with_adapter(adapter, content, style, detail)
            yield
        finally:
            self._settle()
            with torch.no_grad():
                for weight, kept in before:
                    weight.copy_(kept)

    def _settle(self) -> None:
        """Wait for the card: a training's step may still be reading the weights, those in main memory too."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def wear(self, carried: Sequence[Carried], strengths: Mapping[str, float]) -> None:
        """Add ``carried`` to the weights of the network and of the text encoders, for good, each piece as if it were
        alone; ``strengths`` by concept, 1 for one that is not there. Raises :class:`B4MError` where a piece does not
        fit, and then nothing has changed.
        """
        if carried:
            add_to(self._weights(any(piece.of_text_encoder for piece in carried)), carried, strengths, self.name)

    def _weights(self, text_encoders: bool) -> dict[str, Tensor]:
        """Weights and biases by the names of carried.py."""
        parts = {"unet": self.unet}
        if text_encoders:
            parts |= dict(zip(("text_encoder", "text_encoder_2"), self._text_encoders, strict=True))
        found: dict[str, Tensor] = {}
        for prefix, module in parts.items():
            for name, weight in module.named_parameters():
                path, _, kind = name.rpartition(".")
                if (key := layer_key(f"{prefix}.{path}")) is not None:
                    found[f"{key}.{kind}"] = weight
        return found

    def _scheduler_config(self) -> dict[str, Any]:
        file = self.folder / "scheduler" / "scheduler_config.json"
        told = dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
        whole(told.get("num_train_timesteps", 1000), "num_train_timesteps", 1, _MOST_TIMESTEPS)  # a list is made of so many
        return {**SDXL_SCHEDULE, **told}

    @functools.cached_property
    def _vae(self) -> Any:
        with readable(self.name, "vae"):
            tiny = json.loads((self.folder / "vae" / "config.json").read_text())["_class_name"] == "AutoencoderTiny"
            kind = AutoencoderTiny if tiny else AutoencoderKL
            return frozen(kind.from_pretrained(self.folder / "vae", **self._reading("vae")), self.device)

    @functools.cached_property
    def _text_encoders(self) -> list[Any]:
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        folders = (self.folder / "text_encoder", self.folder / "text_encoder_2")
        with readable(self.name, "text encoders"):
            return [
                frozen(_text_encoder(folder, kind, self._reading(folder.name)), self.device)
                for folder, kind in zip(folders, kinds, strict=True)
            ]

    def _reading(self, part: str) -> dict[str, Any]:
        """How diffusers and transformers are to read the weights of a part."""
        return {**_OWN_FILES, "torch_dtype": self.dtype, "variant": variant_of(self.folder / part)}

    def check_tokenizers(self) -> None:
        """Raise :class:`B4MError` where the model has no tokenizer and none was named, before work that needs one is begun."""
        _ = self._tokenizers

    @functools.cached_property
    def _tokenizers(self) -> list[CLIPTokenizer]:
        found: list[CLIPTokenizer] = []
        for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
            with readable(self.name, name):
                tokenizer = clip_tokenizer((self.folder / name, self.tokenizer), padding)
            if tokenizer is None:
                raise B4MError(
                    f"{self.name} has no tokenizer: name a folder with CLIP's tokenizer.json, or its vocab.json and merges.txt, by "
                    "--tokenizer (ComfyUI has comfy/sd1_tokenizer)."
                )
            found.append(tokenizer)
        return found


def _pieces(tokenizer: CLIPTokenizer, prompt: str) -> Tensor:
    """The tokens of a prompt, (k, 77): pieces of 75 between a beginning and an end, filled up."""
    tokens = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    room = _TOKENS - 2
    pieces = [tokens[start : start + room] for start in range(0, max(len(tokens), 1), room)]
    filled = [
        [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (room - len(piece)) for piece in pieces
    ]
    return torch.tensor(filled)


def _text_encoder(folder: Path, kind: Any, reading: dict[str, Any]) -> Any:
    if not (folder / COMPACT).is_file():
        return kind.from_pretrained(folder, **reading)
    model = kind(CLIPTextConfig.from_json_file(folder / "config.json"))
    key = next(key for key in model.state_dict() if key.endswith("token_embedding.weight"))
    model.load_state_dict(compact_state_dict(folder, key))
    return model.to(reading["torch_dtype"])


@contextlib.contextmanager
def readable(name: str, part: str) -> Iterator[None]:
    """A part of a model folder that is missing or damaged becomes one sentence."""
    try:
        yield
    except B4MError:
        raise
    except Exception as error:  # the libraries' readers raise whatever they like over a damaged file
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise B4MError(
            f"{name} cannot be read: its {part} is missing or damaged ({reason}); download it again or choose another."
        ) from error


def frozen(module: Any, device: torch.device) -> Any:
    return module.to(device).eval().requires_grad_(False)
