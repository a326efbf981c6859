"""Make, with training: AdamW on Riemannian-preconditioned gradients.

For a low-rank product U V the preconditioned gradients are (Zhang and Pilanci, arXiv 2402.02347, equation 2)

    G_U <- G_U (V V' + d I)^-1        G_V <- (U' U + d I)^-1 G_V

which makes the step of U V independent of how the product is split between U and V. AdamW's moments are then taken of
these.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

_LEAST_GRAM = 1e-12


def gram_inverse(gram: Tensor, damping: float) -> Tensor:
    """(gram + d I)^-1 for gram (..., r, r), d = ``damping`` times the mean of its diagonal, by one batched Cholesky.

    Relative damping keeps a zero or rank-deficient factor invertible without knowing its scale. A graphics card is not
    waited for.
    """
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=_LEAST_GRAM)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    lower, _ = torch.linalg.cholesky_ex(gram + (damping * scale)[..., None, None] * identity)
    if not gram.is_cuda:
        return torch.cholesky_inverse(lower)
    root = torch.linalg.solve_triangular(
        lower, identity.expand_as(lower), upper=False
    )  # there cholesky_inverse takes one matrix at a time
    return torch.matmul(root.mT, root)


def _gram(factor: Tensor, side: int, rest: Tensor | None = None) -> Tensor:
    """U' U of an up factor (``side`` 0) or V V' of a down factor (1), (..., r, r), plus ``rest``."""
    left, right = (factor, factor.mT) if side else (factor.mT, factor)
    if rest is not None and factor.ndim == 3:  # the shape of a training, in one launch
        return torch.baddbmm(rest, left, right)
    return left @ right if rest is None else left @ right + rest


class RiemannianAdamW(Optimizer):
    """AdamW whose gradients are preconditioned by the other factor of their low-rank product.

    ``pairs`` are (up, down): leaf tensors (..., m, r) and (..., r, n); leading dimensions are layers of one shape,
    stepped together. ``frozen`` gives, pair by pair, the part of each factor that is not learned, (A, C) as (..., m',
    r) and (..., r, n'), or None: it counts in the Grams and never moves. ``damping`` is relative (see
    :func:`gram_inverse`). Weight decay is decoupled and reaches only what is learned. A factor without a gradient stays
    as it is. ``found_inf`` is that of torch's fused optimisers: while this number on the device is 1, a step leaves
    everything as it is. Groups are ``capturable`` in torch's sense. Raises ValueError for settings out of range.
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
            raise ValueError(
                "RiemannianAdamW needs lr >= 0, eps > 0, weight_decay >= 0, damping > 0 and betas in [0, 1)"
            )
        pairs = list(pairs)
        rests = list(frozen) if frozen is not None else [None] * len(pairs)
        if len(rests) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs but {len(rests)} frozen parts")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "damping": damping,
            "capturable": True,
        }
        super().__init__([{"params": list(pair)} for pair in pairs], defaults)
        self.found_inf: Tensor | None = None
        self._frozen_grams = [
            None if rest is None else tuple(_gram(part, side) for side, part in enumerate(rest)) for rest in rests
        ]

    @torch.no_grad()
    def preconditioned(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        """The preconditioned gradients of pair ``index``, before Adam's moments."""
        return self._preconditioned(index, self._inverses([index]))

    def _inverses(self, indices: Sequence[int]) -> dict[tuple[int, int], Tensor]:
        """What the gradients of several pairs are multiplied with, by (index, side): all Grams of one size and damping
        inverted at once.
        """
        wanted: dict[tuple[int, float], list[tuple[int, int, Tensor]]] = defaultdict(list)
        for index in indices:
            group = self.param_groups[index]
            up, down = group["params"]
            rest = self._frozen_grams[index]
            for side, (factor, other) in enumerate(((up, down), (down, up))):
                if factor.grad is not None:
                    gram = _gram(other, 1 - side, None if rest is None else rest[1 - side])
                    wanted[gram.shape[-1], group["damping"]].append((index, side, gram))
        found: dict[tuple[int, int], Tensor] = {}
        for (size, damping), grams in wanted.items():
            inverses = gram_inverse(torch.cat([gram.reshape(-1, size, size) for *_, gram in grams]), damping)
            parts = torch.split(inverses, [gram.numel() // size**2 for *_, gram in grams])
            found |= {
                (index, side): inverse.view(gram.shape)
                for (index, side, gram), inverse in zip(grams, parts, strict=True)
            }
        return found

    def _preconditioned(
        self, index: int, inverses: Mapping[tuple[int, int], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        up, down = self.param_groups[index]["params"]
        return (
            None if up.grad is None else up.grad @ inverses[index, 0],
            None if down.grad is None else inverses[index, 1] @ down.grad,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. All Grams are inverted before any factor moves. Returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        inverses = self._inverses(range(len(self.param_groups)))
        for index, group in enumerate(self.param_groups):
            pair = self._preconditioned(
                index, inverses
            )  # of one pair at a time: together they are as large as all that is learned
            moving = [
                (factor, gradient)
                for factor, gradient in zip(group["params"], pair, strict=True)
                if gradient is not None
            ]
            for factor, _ in moving:
                if not self.state[factor]:
                    counter = torch.zeros((), device=factor.device if factor.is_cuda else "cpu")
                    self.state[factor] = {
                        "step": counter,
                        "exp_avg": torch.zeros_like(factor),
                        "exp_avg_sq": torch.zeros_like(factor),
                    }
            if moving and (moving[0][0].is_cuda or self.found_inf is not None):
                self._fused(moving, group)
            else:
                for factor, gradient in moving:
                    self._adamw(factor, gradient, group)
        return loss

    def _fused(self, moving: Sequence[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """The sums of :meth:`_adamw` in one launch, without waiting for the card."""
        factors = [factor for factor, _ in moving]
        first, second, counts = (
            [self.state[factor][name] for factor in factors] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        beta1, beta2 = group["betas"]
        adamw(
            factors, [_laid_out_as(factor, gradient) for factor, gradient in moving], first, second, [], counts,
            fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False, found_inf=self.found_inf,
        )  # fmt: skip

    def _adamw(self, factor: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) on a factor, in place."""
        (beta1, beta2), lr = group["betas"], group["lr"]
        state = self.state[factor]
        state["step"] += 1
        count = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        factor.mul_(1 - lr * group["weight_decay"])
        denominator = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
        factor.addcdiv_(state["exp_avg"], denominator, value=-lr / (1 - beta1**count))


def _laid_out_as(factor: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the strides of its factor, as a fused step wants it."""
    return gradient if gradient.stride() == factor.stride() else torch.empty_like(factor).copy_(gradient)
