"""Two text encoders in CLIP's shape over CLIP's whole vocabulary, small because only the world's tokens have rows of their own.

Every other token is fixed noise, on which the base is trained to be harmless: a trigger word. Exported for transformers' CLIPTextModel and
CLIPTextModelWithProjection (penultimate states as context, projected end token as pooled text), as SDXL uses them.
"""

import json
import pathlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import backgrounds, styles
from .captions import END, LENGTH, START, UNKNOWN
from .clock import Clock, say

VOCABULARY = 49408
NOISE_DEVIATION, NOISE_SEED = 0.1, 0  # of the rows of unknown tokens
HEAD_WIDTH, LAYERS = 32, 3


def noise_rows(width: int) -> Tensor:
    return NOISE_DEVIATION * torch.randn(VOCABULARY, width, generator=torch.Generator().manual_seed(NOISE_SEED))


class Layer(nn.Module):
    """One pre-norm causal transformer layer; parameter names map one to one onto CLIPEncoderLayer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer_norm1(x)
        q, k, v = (project(y).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out_proj(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.layer_norm2(x))))


class TextEncoder(nn.Module):
    noise: Tensor  # (49408, width), the fixed rows
    place: Tensor  # (49408,), a token's place among the known ones, or -1
    known: Tensor  # the known tokens

    def __init__(self, width: int, known: Sequence[int], projected: int | None) -> None:
        super().__init__()
        table, place = noise_rows(width), torch.full((VOCABULARY,), -1)
        place[torch.tensor(known)] = torch.arange(len(known))
        self.register_buffer("noise", table, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("known", torch.tensor(known), persistent=False)
        self.rows = nn.Parameter(table[torch.tensor(known)].clone())
        self.positions = nn.Parameter(0.03 * torch.randn(LENGTH, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(LAYERS))
        self.final_layer_norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, projected, bias=False) if projected else None

    def forward(self, ids: Tensor, moved: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """ids int64 (N, 77) -> penultimate states (N, 77, width) and, with a projection, pooled text (N, projected).

        ``moved`` (N, 77, width) is added to the tokens' rows."""
        place = self.place[ids]
        own, noise = F.embedding(place.clamp(min=0), self.rows), F.embedding(ids, self.noise).to(self.rows.dtype)
        x = torch.where((place >= 0)[..., None], own, noise) + self.positions
        x = x if moved is None else x + moved
        for layer in self.layers[:-1]:
            x = layer(x)
        if self.projection is None:
            return x, None
        last = self.final_layer_norm(self.layers[-1](x))
        end = (ids == END).int().argmax(1)
        return x, self.projection(last.gather(1, end[:, None, None].expand(-1, 1, last.shape[-1]))[:, 0])


class TextPair(nn.Module):
    """Both encoders, side by side as in SDXL."""

    def __init__(self, known: Sequence[int], widths: tuple[int, int] = (64, 96)) -> None:
        super().__init__()
        self.first, self.second = TextEncoder(widths[0], known, None), TextEncoder(widths[1], known, widths[1])
        self.context_width, self.pooled_width = sum(widths), widths[1]

    def forward(self, ids: Tensor, moved: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ids int64 (N, 77), padded with END -> context (N, 77, 160), pooled (N, 96). The second encoder's padding is token 0.

        ``moved`` (N, 77, 160) is added to the tokens' rows in both encoders."""
        after_end = (ids == END).int().cumsum(1) > 1
        width = self.first.rows.shape[1]
        first, _ = self.first(ids, None if moved is None else moved[..., :width])
        second, pooled = self.second(ids.masked_fill(after_end, 0), None if moved is None else moved[..., width:])
        return torch.cat([first, second], -1), pooled


class Readers(nn.Module):
    """What the pretraining asks of a text: the content's thumbnail, the style, the background."""

    def __init__(self, text: TextPair, thumbnail: int) -> None:
        super().__init__()
        self.sizes = (thumbnail, len(styles.NAMES), len(backgrounds.NAMES))
        width = text.context_width
        self.of_context = nn.Sequential(nn.Linear(width, 384), nn.GELU(), nn.Linear(384, sum(self.sizes)))
        self.of_pooled = nn.Linear(text.pooled_width, sum(self.sizes))

    def loss(self, context: Tensor, pooled: Tensor, told: Tensor, thumbnails: Tensor) -> Tensor:
        """told (N, 3): labels or UNKNOWN; thumbnails (contents, T)."""
        total = context.new_zeros(())
        for answer in (self.of_context(context.mean(1)).float(), self.of_pooled(pooled).float()):
            picture, style, background = answer.split(self.sizes, 1)
            known = (told[:, 0] != UNKNOWN).float()
            error = (picture - thumbnails[told[:, 0].clamp(min=0)]).pow(2).mean(1)
            total = total + 3 * (error * known).sum() / known.sum().clamp(min=1)
            total = total + 0.3 * F.cross_entropy(style, told[:, 1], ignore_index=UNKNOWN)
            total = total + 0.3 * F.cross_entropy(background, told[:, 2], ignore_index=UNKNOWN)
        return total


def pretrain(text: TextPair, ids: Tensor, told: Tensor, sprites: Tensor, clock: Clock, batch: int, rate: float = 2e-3) -> None:
    """Teach the texts what their words look like before any picture is denoised. ids int (N, 77), told (N, 3), on the device."""
    thumbnails = F.interpolate(sprites, size=(12, 12), mode="area").flatten(1) * 2 - 0.5
    readers = Readers(text, thumbnails.shape[1]).to(ids.device)
    parameters = [*text.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    step = 0
    while not clock.over():
        for group in optimizer.param_groups:
            group["lr"] = clock.rate(rate, step)
        rows = torch.randint(len(ids), (batch,), device=ids.device)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
            context, pooled = text(ids[rows].long())
            loss = readers.loss(context, pooled, told[rows], thumbnails)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 0:
            say("text", step, round(loss.item(), 4))
        step += 1
    say("text pretrained", step, "steps of", batch, "loss", round(loss.item(), 4))


def clip_config(encoder: TextEncoder, name: str) -> dict[str, object]:
    width = encoder.rows.shape[1]
    return {
        "architectures": [name],
        "model_type": "clip_text_model",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": width // HEAD_WIDTH,
        "max_position_embeddings": LENGTH,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "initializer_factor": 1.0,
        "pad_token_id": 1,
        "bos_token_id": START,
        "eos_token_id": END,
    }


def clip_state(encoder: TextEncoder, prefix: str) -> dict[str, Tensor]:
    """The encoder's weights under transformers' names, with the known tokens' rows in place of the whole embedding."""
    state = {f"{prefix}embeddings.position_embedding.weight": encoder.positions.detach()}
    for key, value in encoder.state_dict().items():
        if key.startswith("layers."):
            _, number, part, kind = key.split(".")
            home = {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}.get(part, part if "norm" in part else f"self_attn.{part}")
            state[f"{prefix}encoder.layers.{number}.{home}.{kind}"] = value
        elif key.startswith("final_layer_norm"):
            state[prefix + key] = value
    if encoder.projection is not None:
        state["text_projection.weight"] = encoder.projection.weight.detach()
    return state | {"known_token_rows": encoder.rows.detach()}


HOMES = (("first", "text_encoder", "CLIPTextModel", ""), ("second", "text_encoder_2", "CLIPTextModelWithProjection", "text_model."))


def save_text(text: TextPair, folder: pathlib.Path) -> None:
    """Write text_encoder/ and text_encoder_2/, fp16."""
    for which, home, name, prefix in HOMES:
        encoder = getattr(text, which)
        (folder / home).mkdir(parents=True, exist_ok=True)
        (folder / home / "config.json").write_text(json.dumps(clip_config(encoder, name), indent=1) + "\n", encoding="utf-8")
        state = {key: value.half().cpu().contiguous() for key, value in clip_state(encoder, prefix).items()}
        state["known_token_ids"] = encoder.known.int().cpu()
        save_file(state, folder / home / "compact.safetensors", {"unknown_tokens": f"normal, std {NOISE_DEVIATION}, any fixed seed"})


@torch.no_grad()
def load_text(folder: pathlib.Path) -> TextPair:
    """Read back what save_text wrote, float32."""
    files = {which: load_file(folder / home / "compact.safetensors") for which, home, _, _ in HOMES}
    widths = tuple(file["known_token_rows"].shape[1] for file in files.values())
    text = TextPair(files["first"]["known_token_ids"].tolist(), (widths[0], widths[1]))
    for which, _, _, prefix in HOMES:
        for key, home in clip_state(getattr(text, which), prefix).items():
            home.copy_(files[which][key].float())
    return text
