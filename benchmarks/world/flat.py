"""All weights of some modules in one flat buffer: one fused optimizer step, one moving average, half the memory traffic.

The modules work on views of a buffer in their compute dtype (bfloat16 on a GPU); the float32 masters, the gradients, Adam's moments and the
moving average lie beside it in the same order. Everything is plain tensor arithmetic, so that a whole training step fits one CUDA graph.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # elements, so that every view starts at an address the fast kernels accept
BETAS, EPSILON = (0.9, 0.99), 1e-8
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # Jordan's quintic: five rounds bring singular values to within .3 of 1
LIKE_ADAM = 0.2  # the root mean square of AdamW's steps, which Muon's are scaled to (Liu et al., arXiv 2502.16982)


class FlatWeights:
    def __init__(
        self,
        modules: dict[str, nn.Module],
        dtype: torch.dtype,
        is_matrix: Callable[[str], bool] | None = None,
        matrix_rate: float = 1.0,
    ) -> None:
        """Takes the modules over: their parameters become views. `rate` and the average's `share` are tensors to fill from outside.

        Parameters whose name `is_matrix` picks step by Muon, at `matrix_rate` times the rate, the others by AdamW.
        """
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
        self.matrix_rate = matrix_rate
        self.matrices: dict[torch.Size, list[str]] = defaultdict(list)  # by shape, to step as one batch
        for key, (_, shape) in self.homes.items():
            if is_matrix is not None and is_matrix(key):
                self.matrices[shape].append(key)

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
        """AdamW (Loshchilov 2019) or Muon (Jordan 2024) on the masters, gradients clipped to norm `clip`; then the average and the working
        copy."""
        gradient = self.gradient.float()
        gradient *= (clip / (gradient.norm() + 1e-6)).clamp(max=1)
        self.count += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        ahead = gradient.lerp(self.first, BETAS[0]) if self.matrices else gradient  # Nesterov's momentum
        self.second.lerp_(gradient.square_(), 1 - BETAS[1])
        scale = (self.second / (1 - BETAS[1] ** self.count)).sqrt_().add_(EPSILON)
        step = self.first / scale * (self.rate / (1 - BETAS[0] ** self.count))
        for shape, keys in self.matrices.items():
            orthogonal = orthogonalised(torch.stack([self.view(ahead, key) for key in keys]))
            orthogonal *= LIKE_ADAM * max(shape) ** 0.5 * self.matrix_rate * self.rate
            for key, each in zip(keys, orthogonal, strict=True):
                self.view(step, key).copy_(each)
        self.master.mul_(1 - self.rate * decay)
        self.master.sub_(step)
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


def orthogonalised(matrices: Tensor) -> Tensor:
    """U V' of every matrix U S V', nearly: five Newton-Schulz rounds. (N, m, n) float32; the products in bfloat16 on a GPU."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.bfloat16() if x.is_cuda else x
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()
