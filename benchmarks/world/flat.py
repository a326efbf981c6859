"""All weights of some modules in one flat buffer: one fused optimizer step, one moving average, half the memory traffic.

The modules work on views of a buffer in their compute dtype (bfloat16 on a GPU); the float32 masters, the gradients, Adam's moments and the
moving average lie beside it in the same order. Everything is plain tensor arithmetic, so that a whole training step fits one CUDA graph.
"""

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # elements, so that every view starts at an address the fast kernels accept
BETAS, EPSILON = (0.9, 0.99), 1e-8


class FlatWeights:
    def __init__(self, modules: dict[str, nn.Module], dtype: torch.dtype) -> None:
        """Takes the modules over: their parameters become views. `rate` and the average's `share` are tensors to fill from outside."""
        self.homes: dict[str, tuple[slice, torch.Size]] = {}
        named = {f"{prefix}.{name}": (module, name) for prefix, module in modules.items() for name, _ in module.named_parameters()}
        end = 0
        for key, (module, name) in named.items():
            value = module.get_parameter(name)
            self.homes[key] = (slice(end, end + value.numel()), value.shape)
            end += -(-value.numel() // ALIGNMENT) * ALIGNMENT
        device = next(iter(modules.values())).parameters().__next__().device
        self.master, self.average, self.first, self.second = (torch.zeros(end, device=device) for _ in range(4))
        self.work, self.gradient = (torch.zeros(end, device=device, dtype=dtype) for _ in range(2))
        self.rate, self.share, self.count = (torch.zeros((), device=device) for _ in range(3))
        for key, (module, name) in named.items():
            self.take_over(key, module, name)
        self.average.copy_(self.master)

    def view(self, flat: Tensor, key: str) -> Tensor:
        """The parameter's place in a flat buffer, in its shape; convolutions lie channels last."""
        where, shape = self.homes[key]
        if len(shape) == 4:
            return flat[where].view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
        return flat[where].view(shape)

    @torch.no_grad()
    def take_over(self, key: str, module: nn.Module, name: str) -> None:
        old = module.get_parameter(name)
        self.view(self.master, key).copy_(old)
        self.view(self.work, key).copy_(old)
        owner, _, leaf = name.rpartition(".")
        parameter = nn.Parameter(self.view(self.work, key))
        parameter.grad = self.view(self.gradient, key)
        module.get_submodule(owner)._parameters[leaf] = parameter

    @torch.no_grad()
    def update(self, clip: float = 1.0, decay: float = 0.01) -> None:
        """AdamW (Loshchilov 2019) on the masters, gradients clipped to norm `clip`; then the average and the working copy."""
        gradient = self.gradient.float()
        gradient *= (clip / (gradient.norm() + 1e-6)).clamp(max=1)
        self.count += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.lerp_(gradient.square_(), 1 - BETAS[1])
        scale = (self.second / (1 - BETAS[1] ** self.count)).sqrt_().add_(EPSILON)
        self.master.mul_(1 - self.rate * decay)
        self.master.sub_(self.first / scale * (self.rate / (1 - BETAS[0] ** self.count)))
        self.average.lerp_(self.master, self.share)
        self.work.copy_(self.master)

    def clear_gradient(self) -> None:
        self.gradient.zero_()

    def averaged(self, prefix: str) -> dict[str, Tensor]:
        """The moving average as a state dict (float32, CPU) of the module called `prefix`."""
        keys = [key for key in self.homes if key.startswith(prefix + ".")]
        return {key.removeprefix(prefix + "."): self.view(self.average, key).contiguous().cpu() for key in keys}

    def state(self) -> dict[str, Tensor]:
        return {"master": self.master, "average": self.average, "first": self.first, "second": self.second, "count": self.count}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state().items():
            value.copy_(state[name])
        self.work.copy_(self.master)
