"""Make, with training: AdamW on Riemannian-preconditioned gradients.

For a low-rank product U V the preconditioned gradients are (Zhang and Pilanci, arXiv 2402.02347, equation 2)

    G_U <- G_U (V V' + d I)^-1        G_V <- (U' U + d I)^-1 G_V

which makes the step of U V independent of how the product is split between U and V. AdamW's moments are then taken of these.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_LEAST_GRAM = 1e-12


def gram_inverse(gram: Tensor, damping: float) -> Tensor:
    """(gram + d I)^-1 for gram (..., r, r), d = ``damping`` times the mean of its diagonal, by one batched Cholesky.

    Relative damping keeps a zero or rank-deficient factor invertible without knowing its scale.
    """
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=_LEAST_GRAM)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram + (damping * scale)[..., None, None] * identity))


class RiemannianAdamW(Optimizer):
    """AdamW whose gradients are preconditioned by the other factor of their low-rank product.

    ``pairs`` are (up, down): leaf tensors (..., m, r) and (..., r, n); leading dimensions are layers of one shape, stepped together.
    ``frozen`` gives, pair by pair, the part of each factor that is not learned, (A, C) as (..., m', r) and (..., r, n'), or None: it
    counts in the Grams and never moves. ``damping`` is relative (see :func:`gram_inverse`). Weight decay is decoupled and reaches only
    what is learned. A factor without a gradient stays as it is. Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Tensor, Tensor]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        damping: float = 1e-4,
        frozen: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    ) -> None:
        if lr < 0 or eps <= 0 or weight_decay < 0 or damping <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError("RiemannianAdamW needs lr >= 0, eps > 0, weight_decay >= 0, damping > 0 and betas in [0, 1)")
        pairs = list(pairs)
        rests = list(frozen) if frozen is not None else [None] * len(pairs)
        if len(rests) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs but {len(rests)} frozen parts")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "damping": damping}
        super().__init__([{"params": list(pair)} for pair in pairs], defaults)
        self._frozen_grams = [None if rest is None else (rest[0].mT @ rest[0], rest[1] @ rest[1].mT) for rest in rests]

    @torch.no_grad()
    def preconditioned(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        """The preconditioned gradients of pair ``index``, before Adam's moments."""
        up, down = self.param_groups[index]["params"]
        damping = self.param_groups[index]["damping"]
        up_gram, down_gram = up.mT @ up, down @ down.mT
        rest = self._frozen_grams[index]
        if rest is not None:
            up_gram, down_gram = up_gram + rest[0], down_gram + rest[1]
        up_gradient = None if up.grad is None else up.grad @ gram_inverse(down_gram, damping)
        down_gradient = None if down.grad is None else gram_inverse(up_gram, damping) @ down.grad
        return up_gradient, down_gradient

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. Both gradients of a pair are preconditioned before either factor moves. Returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            for factor, gradient in zip(group["params"], self.preconditioned(index), strict=True):
                if gradient is not None:
                    self._adamw(factor, gradient, group)
        return loss

    def _adamw(self, factor: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        state = self.state[factor]
        if not state:
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(factor), exp_avg_sq=torch.zeros_like(factor))
        state["step"] += 1
        count = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        factor.mul_(1 - lr * group["weight_decay"])
        denominator = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
        factor.addcdiv_(state["exp_avg"], denominator, value=-lr / (1 - beta1**count))
