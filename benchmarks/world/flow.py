"""A second base model of another kind: a small transformer with flow matching, for the same world.

diffusers' FluxTransformer2DModel: latents are packed two by two into tokens, text and picture go through one attention, and the network
answers the velocity between picture and noise (Lipman et al., arXiv 2210.02747; Esser et al., arXiv 2403.03206). Autoencoder and text
encoders are the embedded model's, as they are. ``FLOW`` says what a contest must know of the family, by the methods of
``b4m_core.models.family.Family`` that it needs.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .flat import FlatWeights
from .timed import TimedTraining

TEXT_TOKENS = 32  # of the 77: no caption of the world is longer
PATCH = 2  # latents a side of a token
PAINTED_IN = torch.bfloat16  # on a GPU; float16 overflows
# Not cuDNN's: torch 2.11 keeps its backward pass by the shapes and strides of q, k and v alone, and the gradient of a single block
# lies otherwise in memory than that of a double one. It was then read wrongly, or beyond its end (an illegal access on an H100).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
HEAD_WIDTH, ROPE_AXES = 64, (16, 24, 24)
_ATTENTION = r"to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out"
_ADAPTED = re.compile(rf"(single_)?transformer_blocks\.\d+\.(attn\.({_ATTENTION})|proj_out)")
_LINEAR = re.compile(r"(single_)?transformer_blocks\..*")


class RectifiedFlow:
    """x_t = (1 - t) x + t noise; the network answers noise - x. Timesteps are between 0 and 1, most of them in the middle."""

    prediction = "flow"

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) from the logit-normal distribution."""
        return torch.sigmoid(torch.randn(count, generator=generator))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        t = timesteps.view(-1, 1, 1, 1)
        return (1 - t) * latents + t * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents


class FlowFamily:
    """See ``b4m_core.models.family.Family``."""

    name, title = "world_flow", "the world's flow transformer"

    def is_adapted(self, path: str) -> bool:
        """q, k, v and output projection of every attention, of text and picture. In a single block the output projection is that of the
        feed-forward too."""
        return _ADAPTED.fullmatch(path) is not None

    def is_in_transformer(self, path: str) -> bool:
        return _LINEAR.fullmatch(path) is not None

    def predict(self, network: nn.Module, given: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The velocity (R, 4, h, w); ``given``: noisy (R, 4, h, w), timesteps (R,), context (R, S, c), pooled (R, p)."""
        noisy, context = given["noisy"].to(dtype), given["context"][:, :TEXT_TOKENS].to(dtype)
        height, width = (side // PATCH for side in noisy.shape[-2:])
        with sdpa_kernel(KERNELS):
            output = network(
                hidden_states=rearrange(noisy, "r c (h p) (w q) -> r (h w) (c p q)", p=PATCH, q=PATCH),
                encoder_hidden_states=context,
                pooled_projections=given["pooled"].to(dtype),
                timestep=given["timesteps"].to(dtype),
                img_ids=places(height, width, noisy.device),
                txt_ids=torch.zeros(context.shape[1], 3, device=noisy.device),
            )
        answer = rearrange(output.sample, "r (h w) (c p q) -> r c (h p) (w q)", h=height, w=width, p=PATCH, q=PATCH)
        return answer if dtype == torch.float64 else answer.float()


FLOW, SCHEDULE = FlowFamily(), RectifiedFlow()


def places(height: int, width: int, device: torch.device) -> Tensor:
    """Where the tokens are, (height * width, 3): nothing, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float()


def make_flow(width: int, double: int, single: int, context: int, pooled: int) -> FluxTransformer2DModel:
    """``double`` blocks in which text and picture have weights of their own, then ``single`` ones in which they share them. Every block
    begins as the identity, and the answer as zero (Peebles and Xie, arXiv 2212.09748)."""
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * PATCH**2,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=width // HEAD_WIDTH,
        joint_attention_dim=context,
        pooled_projection_dim=pooled,
        guidance_embeds=False,
        axes_dims_rope=ROPE_AXES,
    )
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and (name == "proj_out" or re.fullmatch(r".*norm\w*\.linear", name)):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def load_flow(folder: pathlib.Path, dtype: torch.dtype) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=dtype)  # type: ignore[no-any-return]


@torch.no_grad()
def sample_flow(
    network: nn.Module,
    positive: tuple[Tensor, Tensor],
    negative: tuple[Tensor, Tensor],
    *,
    side: int,
    steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    """Latents float32 (N, 4, side, side) by Euler steps on t = 1 ... 0, linear; texts are (context, pooled)."""
    first = next(network.parameters())
    n, device, dtype = len(positive[0]), first.device, first.dtype
    times = torch.linspace(1, 0, steps + 1, device=device)
    x = torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    context, pooled = (torch.cat([p, q.expand(n, *q.shape[1:])]) for p, q in zip(positive, negative, strict=True))
    for now, then in zip(times[:-1], times[1:], strict=True):
        given = {"noisy": x.repeat(2, 1, 1, 1), "timesteps": now.expand(2 * n), "context": context, "pooled": pooled}
        with_text, without = FLOW.predict(network, given, dtype).chunk(2)
        x = x + (then - now) * (without + guidance * (with_text - without))
    return x


@dataclasses.dataclass
class Told:
    """Training data, all on the device: latents fp16 (N, 4, h, h), what the text encoders say of the captions, context (N, S, c) and
    pooled (N, p), and of the empty prompt, (1, ...)."""

    latents: Tensor
    context: Tensor
    pooled: Tensor
    empty: tuple[Tensor, Tensor]


class FlowTraining(TimedTraining):
    """AdamW on what is no matrix, Muon on the matrices of the blocks (flat.py)."""

    compiled_blocks = ("FluxTransformerBlock", "FluxSingleTransformerBlock")

    def __init__(
        self, network: FluxTransformer2DModel, examples: Told, *, batch: int, rate: float, dropout: float, matrix_rate: float
    ) -> None:
        """``matrix_rate``: what the matrices' rate is in terms of the others'. 0: AdamW for all."""
        device = examples.latents.device
        self.examples, self.dropout = examples, dropout
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        weights = FlatWeights({"transformer": network.train()}, self.dtype, _is_matrix if matrix_rate else None, matrix_rate)
        super().__init__(network, weights, batch, rate, device)
        self.ramp = torch.arange(batch, device=device)

    def step(self) -> None:
        data, n = self.examples, self.batch
        device = data.latents.device
        rows = torch.randint(len(data.latents), (n,), device=device)
        latents = data.latents[rows].float()
        wordless = torch.rand(n, 1, device=device) < self.dropout
        context = torch.where(wordless[..., None], data.empty[0], data.context[rows])
        pooled = torch.where(wordless, data.empty[1], data.pooled[rows])
        quantile = ((self.ramp + torch.rand(n, device=device)) / n).clamp(1e-4, 1 - 1e-4)  # one time in each n-th of the distribution
        times = torch.sigmoid(2**0.5 * torch.erfinv(2 * quantile - 1))
        noise = torch.randn_like(latents)
        noisy = SCHEDULE.add_noise(latents, noise, times)
        self.weights.clear_gradient()
        given = {"noisy": noisy, "timesteps": times, "context": context, "pooled": pooled}
        loss = F.mse_loss(FLOW.predict(self.network, given, self.dtype), SCHEDULE.target(latents, noise, times))
        loss.backward()
        self.weights.update()
        self.loss.lerp_(loss.detach(), 0.02)

    def prepare(self, compiled: bool) -> Callable[[], None]:
        """Not compiled means not captured either: the plain step."""
        return super().prepare(True) if compiled else self.step

    def save_model(self, folder: pathlib.Path) -> None:
        """The averaged weights in diffusers' layout, fp16, in shards under 15 MB."""
        network = FluxTransformer2DModel.from_config(dict(self.network.config))
        network.load_state_dict(self.weights.averaged("transformer"))
        network.half().save_pretrained(folder / "transformer", max_shard_size="14MB")


def _is_matrix(name: str) -> bool:
    """Attention and feed-forward of the blocks; not what modulates them, nor what goes in and out."""
    return re.fullmatch(r"transformer\.(single_)?transformer_blocks\..*\.weight", name) is not None and ".norm" not in name
