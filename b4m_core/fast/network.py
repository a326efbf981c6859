"""SDXL's network written out as plain functions over diffusers' modules, which serve as the weights.

The same sums as UNet2DConditionModel.forward, in an order that suits a training step: projections in groups, the text's
keys and values of all attentions at once, frozen layers that keep no inputs, no branches and no reads from the card, so
that a graph can be captured.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, silu
from torch.utils.checkpoint import checkpoint

from .attention import attend
from .frozen import FrozenFeedForward, convolve
from .fused_adapter import FusedAdapter
from .norms import add_norm, shifted_norm
from .resnets import Resnets
from .streamed import Resident


class Network:
    """The network with the projections of ``groups``. ``recompute``: keep what goes into a block, and compute the rest
    of it twice.
    """

    def __init__(self, unet: Any, groups: FusedAdapter, kernels: Any, weights: Resident) -> None:
        self.unet, self.groups, self.kernels, self.weights, self.gradient_checkpointing = (
            unet,
            groups,
            kernels,
            weights,
            False,
        )
        self._names = {id(module): name for name, module in unet.named_modules()}
        self.resnets = Resnets([resnet for level in _levels(unet) for resnet in level.resnets], groups, kernels)

    def __call__(self, noisy: Tensor, timesteps: Tensor, context: Tensor, pooled: Tensor, size_ids: Tensor) -> Tensor:
        """The prediction (R, 4, h, w), in the compute dtype."""
        unet = self.unet
        shifts = self.resnets.shifts(silu(self._embedding(timesteps, pooled, size_ids, noisy.dtype)))  # (R, C) by block
        texts = self.groups.text(context)  # (R, S, m) by layer
        x = convolve(noisy, unet.conv_in)  # (R, 4, h, w) -> (R, C, h, w)
        kept = [x]
        for level in unet.down_blocks:
            for index, resnet in enumerate(level.resnets):
                x = self._resnet(x, None, shifts, resnet)
                if hasattr(level, "attentions"):
                    x = self._transformer(x, level.attentions[index], texts)
                kept.append(x)
            if level.downsamplers is not None:
                x = self.groups.convolve(x, level.downsamplers[0].conv)  # (R, C, h/2, w/2)
                kept.append(x)
        first, last = unet.mid_block.resnets
        x = self._resnet(x, None, shifts, first)
        x = self._transformer(x, unet.mid_block.attentions[0], texts)
        x = self._resnet(x, None, shifts, last)
        for level in unet.up_blocks:
            for index, resnet in enumerate(level.resnets):
                x = self._resnet(x, kept.pop(), shifts, resnet)
                if hasattr(level, "attentions"):
                    x = self._transformer(x, level.attentions[index], texts)
            if level.upsamplers is not None:
                x = interpolate(x, size=kept[-1].shape[-2:], mode="nearest")  # (R, C, 2h, 2w)
                x = self.groups.convolve(x, level.upsamplers[0].conv)
        return convolve(shifted_norm(x, None, unet.conv_norm_out, self.kernels)[1], unet.conv_out)  # (R, 4, h, w)

    def _embedding(self, timesteps: Tensor, pooled: Tensor, size_ids: Tensor, dtype: torch.dtype) -> Tensor:
        unet = self.unet
        emb = unet.time_embedding(unet.time_proj(timesteps).to(dtype))  # (R,) -> (R, e)
        sizes = unet.add_time_proj(size_ids.flatten()).reshape(len(size_ids), -1)  # (R, 6) -> (6 R, d) -> (R, 6 d)
        added = torch.cat([pooled, sizes.to(pooled.dtype)], dim=-1).to(dtype)  # (R, p + 6 d)
        return emb + unet.add_embedding(added)  # type: ignore[no-any-return]

    def _run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        if not self.gradient_checkpointing:
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)

    def _resnet(self, x: Tensor, skipped: Tensor | None, shifts: dict[int, Tensor], resnet: Any) -> Tensor:
        def whole(x: Tensor, skipped: Tensor | None, shift: Tensor) -> Tensor:
            x = x if skipped is None else torch.cat([x, skipped], dim=1)  # (R, C + C', h, w)
            return self.resnets(x, shift, resnet)

        return self._run(whole, x, skipped, shifts[id(resnet)])  # type: ignore[no-any-return]

    def _transformer(self, x: Tensor, module: Any, texts: dict[str, Tensor]) -> Tensor:
        height = x.shape[2]  # x (R, C, h, w)
        x, y = shifted_norm(x, None, module.norm, self.kernels, act=False)
        y = rearrange(y, "r c h w -> r (h w) c")  # T = h w tokens
        y = linear(y, module.proj_in.weight, module.proj_in.bias)
        out: Any = None
        for block in module.transformer_blocks:
            y, out = self._run(self._block, y, out, block, texts)
        y = linear(y + out, module.proj_out.weight, module.proj_out.bias)
        return rearrange(y, "r (h w) c -> r c h w", h=height) + x  # type: ignore[no-any-return]

    def _block(self, x: Tensor, out: Tensor | None, block: Any, texts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The stream and what is still to be added to it: the sum is left to the norm that comes next."""
        name, heads, kernels = self._names[id(block)], block.attn1.heads, self.kernels
        keys, values = texts[f"{name}.attn2.to_k"], texts[f"{name}.attn2.to_v"]  # (R, S, C)
        x, y = add_norm(x, out, block.norm1, kernels)  # (R, T, C), and so is all that follows
        q, k, v = self.groups(f"{name}.attn1.to_q", y)
        (out,) = self.groups(f"{name}.attn1.to_out.0", attend(q, k, v, heads, kernels))
        x, y = add_norm(x, out, block.norm2, kernels)
        (q,) = self.groups(f"{name}.attn2.to_q", y)
        (out,) = self.groups(f"{name}.attn2.to_out.0", attend(q, keys, values, heads, kernels))
        x, y = add_norm(x, out, block.norm3, kernels)
        return x, FrozenFeedForward.apply(y, block.ff.net[0].proj, block.ff.net[2], kernels, self.weights)


def _levels(unet: Any) -> list[Any]:
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]


def feed_forwards(unet: Any) -> list[tuple[nn.Linear, nn.Linear]]:
    """The two layers of every feed-forward, in the order of a pass."""
    transformers = [module for level in _levels(unet) for module in getattr(level, "attentions", ())]
    return [(block.ff.net[0].proj, block.ff.net[2]) for module in transformers for block in module.transformer_blocks]


def is_written_out(unet: Any) -> bool:
    """Whether this is the network that is written out here: SDXL's, of any width and depth."""
    config: Any = getattr(unet, "config", None)
    if config is None:
        return False
    blocks = {*config.down_block_types, *config.up_block_types, config.mid_block_type}
    return bool(
        blocks <= {"DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D"}
        and config.addition_embed_type == "text_time"
        and config.use_linear_projection
        and config.act_fn == "silu"
        and config.resnet_time_scale_shift == "default"
        and not config.only_cross_attention
        and config.class_embed_type is config.encoder_hid_dim_type is config.time_embedding_act_fn is None
    )
