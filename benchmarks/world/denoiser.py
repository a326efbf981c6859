"""The denoiser: diffusers' UNet2DConditionModel in SDXL's topology made small, trained with the text encoders to predict the noise."""

import dataclasses
import pathlib

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from .diffusion import HOST_SIZES, STEPS, add_noise, alphas_cumprod, size_ids
from .flat import FlatWeights
from .text import TextPair, save_text
from .timed import TimedTraining

TIME_WIDTH = 256  # SDXL's width of one embedded size number


def make_unet(sample_size: int, channels: tuple[int, ...], depths: tuple[int, ...], context: int, pooled: int) -> UNet2DConditionModel:
    """SDXL's topology: no attention at the first level, heads 64 wide, text and size conditioning."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=channels,
        layers_per_block=2,
        attention_head_dim=[max(1, width // 64) for width in channels],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=list(depths),
        use_linear_projection=True,
        cross_attention_dim=context,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=6 * TIME_WIDTH + pooled,
    )


@dataclasses.dataclass
class Examples:
    """Training data, all on the device: latents fp16 (N, 4, h, h) and token ids int32 (N, 77)."""

    latents: Tensor
    ids: Tensor
    empty: Tensor  # ids of the empty prompt, (1, 77)


class DenoiserTraining(TimedTraining):
    compiled_blocks = ("BasicTransformerBlock", "ResnetBlock2D")

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: TextPair,
        examples: Examples,
        *,
        batch: int,
        rate: float,
        dropout: float,
        adapter: nn.Module | None = None,
    ) -> None:
        """unet and text on the device; dropout is the share of empty prompts, for guidance. With an adapter only that is trained."""
        device = examples.latents.device
        self.unet, self.text, self.examples, self.dropout = unet.train(), text.train(), examples, dropout
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        if adapter is not None:
            for frozen in (unet, text):
                frozen.to(self.dtype).requires_grad_(False)
        weights = FlatWeights({"adapter": adapter} if adapter is not None else {"unet": unet, "text": text}, self.dtype)
        super().__init__(unet, weights, batch, rate, device)
        self.alphas = alphas_cumprod(device)
        size = unet.config.sample_size * 8
        self.sizes = torch.cat(
            [size_ids(each, device) for each in (*[size] * 9 * len(HOST_SIZES), *HOST_SIZES)]
        )  # 10 % are other programs' sizes
        self.ramp = torch.arange(batch, device=device)

    def step(self) -> None:
        data, n = self.examples, self.batch
        device = data.latents.device
        rows = torch.randint(len(data.latents), (n,), device=device)
        latents = data.latents[rows].float()
        ids = torch.where(torch.rand(n, 1, device=device) < self.dropout, data.empty, data.ids[rows])
        times = (
            ((self.ramp + torch.rand(n, device=device)) / n * STEPS).long().clamp(max=STEPS - 1)
        )  # one time in each n-th part of the schedule
        noise = torch.randn_like(latents)
        self.weights.clear_gradient()
        loss = F.mse_loss(self.predict(add_noise(latents, noise, times, self.alphas), times, ids).float(), noise)
        loss.backward()
        self.weights.update()
        self.loss.lerp_(loss.detach(), 0.02)

    def predict(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        context, pooled = self.text(ids.long())
        named = self.sizes[torch.randint(len(self.sizes), (len(noisy),), device=noisy.device)]
        images = noisy.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return self.unet(images, times, encoder_hidden_states=context, added_cond_kwargs={"text_embeds": pooled, "time_ids": named}).sample

    def save_model(self, folder: pathlib.Path) -> None:
        """The averaged weights in diffusers' layout, fp16, in shards under 15 MB."""
        config = dict(self.unet.config)
        unet = UNet2DConditionModel.from_config(config)
        unet.load_state_dict(self.weights.averaged("unet"))
        unet.half().save_pretrained(folder / "unet", max_shard_size="14MB")
        known = self.text.first.known.tolist()
        text = TextPair(known, (self.text.first.rows.shape[1], self.text.second.rows.shape[1]))
        text.load_state_dict(self.weights.averaged("text"))
        save_text(text, folder)
