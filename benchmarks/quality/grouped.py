"""Many adapters in one forward pass: a batch of G groups of R rows, where group g wears adapter g.

This is what makes a contest affordable: thirty small trainings, or all pictures of twenty-four pairs, are one batch. A row's update is
that of an ordinary LoRA, so every method of the contest is expressed in factors, and no method has an engine of its own.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bases import Base


@dataclass
class Factors:
    """The update of every layer for every group, or for every part of a group's rows, where there are a multiple of the groups.

    One entry for each layer shape: ``up`` (L, G, m, k) and ``down`` (L, G, k, n), the update being up @ down. ``gates`` (steps, L, G, k),
    if there, scale the rank components by sampling step.
    """

    up: list[Tensor]
    down: list[Tensor]
    gates: list[Tensor] | None = None

    def to(self, dtype: torch.dtype) -> "Factors":
        return Factors([each.to(dtype) for each in self.up], [each.to(dtype) for each in self.down], self.gates)

    def take(self, groups: Sequence[int]) -> "Factors":
        """The adapters of ``groups``, which may repeat."""
        rows = torch.as_tensor(list(groups), device=self.up[0].device)
        gates = None if self.gates is None else [each[:, :, rows] for each in self.gates]
        return Factors([each[:, rows] for each in self.up], [each[:, rows] for each in self.down], gates)


@dataclass
class Segment:
    """Rows ``first`` to ``last`` of every group and the factors that they wear; two segments may differ in what autograd sees."""

    first: int
    last: int
    factors: Factors


@dataclass
class Wardrobe:
    """What the groups wear now; no segments: the base model. ``step`` () int64 on the device picks the row of the gates. ``spy`` is shown
    every layer's inputs: shape index, place, x (G, rows, tokens, n).
    """

    groups: int = 1
    segments: list[Segment] = field(default_factory=list)
    step: Tensor | None = None
    spy: Callable[[int, int, Tensor], None] | None = None


class Grouped(nn.Module):
    """A layer of the base model and, beside it, the updates of all groups."""

    def __init__(self, layer: nn.Module, wardrobe: Wardrobe, shape: int, place: int) -> None:
        super().__init__()
        self.layer, self.wardrobe, self.shape, self.place = layer, wardrobe, shape, place

    def updates(self, x: Tensor) -> Tensor:
        """x (N, tokens, n) -> (N, tokens, m)."""
        groups, tokens = self.wardrobe.groups, x.shape[1]
        grouped = x.unflatten(0, (groups, -1))
        if self.wardrobe.spy is not None:
            self.wardrobe.spy(self.shape, self.place, grouped)
        parts = [self._update(grouped[:, each.first : each.last], each.factors) for each in self.wardrobe.segments]
        update = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return update.reshape(len(x), tokens, -1)

    def _update(self, x: Tensor, factors: Factors) -> Tensor:
        """x (G, rows, tokens, n) -> (G, rows, tokens, m)."""
        down, up = factors.down[self.shape][self.place], factors.up[self.shape][self.place]
        hidden = torch.bmm(x.reshape(len(down), -1, x.shape[-1]), down.mT)
        if factors.gates is not None:
            gate = factors.gates[self.shape][:, self.place].index_select(0, self.wardrobe.step.view(1))[0]
            hidden = hidden * gate[:, None].to(hidden.dtype)
        return torch.bmm(hidden, up.mT).reshape(*x.shape[:-1], -1)


class GroupedLinear(Grouped):
    layer: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y + self.updates(x) if self.wardrobe.segments else y


class GroupedConv(Grouped):
    """Every place of a convolution is a token of what its kernel sees, so the update is that of a Linear."""

    layer: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if not self.wardrobe.segments:
            return y
        return y + self.updates(seen_by(self.layer, x)).mT.unflatten(-1, y.shape[-2:])


def seen_by(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What the kernel of ``layer`` sees at each of its places of x (N, c, h, w), (N, places, c * kernel).

    One copy of a view: F.unfold launches a kernel for every picture on a GPU, which took more time than all else.
    """
    (up, left), kernel, stride = layer.padding, layer.kernel_size, layer.stride
    windows = F.pad(x, (left, left, up, up)).unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def _convolutions(unet: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """All but the first and the last."""
    return [(name, layer) for name, layer in unet.named_modules() if isinstance(layer, nn.Conv2d) and "block" in name]


class GroupedNetwork:
    """A base model's network with a wardrobe. ``names[i]`` are the layers of shape ``shapes[i]``, in the order of the stacks.

    ``everywhere``: not the attention projections alone, which the product adapts, but every Linear of the transformer blocks;
    ``convolutions``: those too, without which nothing is adapted at the full resolution, where the network has no attention.
    """

    def __init__(
        self, base: Base, folder: Path, device: torch.device, dtype: torch.dtype, *, everywhere: bool = False, convolutions: bool = False
    ) -> None:
        self.family, self.everywhere, self.convolutions = base.family, everywhere, convolutions
        self.network = base.load(folder, dtype).to(device).eval().requires_grad_(False)
        self.text_width: int = getattr(self.network, "config", {}).get("cross_attention_dim", 0)  # of a family whose words can be learned
        self.device, self.dtype, self.wardrobe = device, dtype, Wardrobe(step=torch.zeros((), dtype=torch.long, device=device))
        self._sizes: dict[tuple[int, torch.dtype], Tensor] = {}
        is_adapted = base.is_in_transformer if everywhere else base.family.is_adapted
        linears = {name: layer for name, layer in self.network.named_modules() if isinstance(layer, nn.Linear) and is_adapted(name)}
        by_shape: dict[tuple[int, int], list[str]] = defaultdict(list)
        layers: dict[str, nn.Module] = {**linears, **(dict(_convolutions(self.network)) if convolutions else {})}
        for name, layer in layers.items():
            by_shape[len(layer.weight), layer.weight[0].numel()].append(name)
        self.shapes = sorted(by_shape)
        self.names = [by_shape[shape] for shape in self.shapes]
        self.weights = [torch.stack([layers[name].weight.detach().float().flatten(1) for name in names]) for names in self.names]
        for index, names in enumerate(self.names):
            for place, name in enumerate(names):
                parent, _, attribute = name.rpartition(".")
                kind = GroupedLinear if isinstance(layers[name], nn.Linear) else GroupedConv
                self.network.get_submodule(parent).register_module(attribute, kind(layers[name], self.wardrobe, index, place))

    def wear(self, groups: int, segments: list[Segment]) -> None:
        self.wardrobe.groups, self.wardrobe.segments = groups, segments

    def __call__(self, noisy: Tensor, timesteps: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """The network's answer, float32; noisy (rows, 4, h, w), timesteps (rows,), context (rows, 77, c), pooled (rows, p)."""
        sizes = self._size_ids(8 * noisy.shape[-1], noisy.dtype).expand(len(noisy), 6)
        given = {"noisy": noisy, "timesteps": timesteps, "context": context, "pooled": pooled, "size_ids": sizes}
        return self.family.predict(self.network, given, self.dtype).float()

    def _size_ids(self, side: int, dtype: torch.dtype) -> Tensor:
        """SDXL's, for whom it may concern. Made once: a CUDA graph must not build tensors from Python numbers."""
        if (side, dtype) not in self._sizes:
            self._sizes[side, dtype] = torch.tensor([side, side, 0, 0, side, side], dtype=dtype, device=self.device)
        return self._sizes[side, dtype]
