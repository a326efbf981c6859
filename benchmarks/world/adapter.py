"""A plain low-rank adapter on every attention projection of a denoiser, for measuring what the base bears; not one that the pack makes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def attention_projections(unet: nn.Module) -> list[nn.Linear]:
    return [module for name, module in unet.named_modules() if isinstance(module, nn.Linear) and name.endswith(PROJECTIONS)]


class Adapter(nn.Module):
    """Adds strength * up(down(x)) to each projection, from the moment it is made until `remove`."""

    def __init__(self, unet: nn.Module, rank: int) -> None:
        super().__init__()
        projections, where = attention_projections(unet), next(unet.parameters())
        self.strength = 1.0
        self.downs = nn.ModuleList(nn.Linear(each.in_features, rank, bias=False) for each in projections)
        self.ups = nn.ModuleList(nn.Linear(rank, each.out_features, bias=False) for each in projections)
        for weight in self.ups.parameters():
            nn.init.zeros_(weight)
        self.to(where.device)
        self.hooks = [each.register_forward_hook(self.addition(k)) for k, each in enumerate(projections)]

    def addition(self, place: int) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            return output + self.strength * self.ups[place](self.downs[place](inputs[0]))

        return hook

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def share_of_base(self, unet: nn.Module) -> float:
        """Norm of what the adapter adds at strength one, as a share of the weights it is added to."""
        weights = zip(attention_projections(unet), self.downs.parameters(), self.ups.parameters(), strict=True)
        with torch.no_grad():
            norms = torch.tensor([[(up @ down).float().norm(), base.weight.float().norm()] for base, down, up in weights])
        added, there = norms.square().sum(0).sqrt().tolist()
        return added / there
