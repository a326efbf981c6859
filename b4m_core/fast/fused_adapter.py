"""An adapter's layers in groups, beside the weights of the network that they belong to."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..row_split import ALL_ROWS, Rows
from ..stacks import Stack
from .convolutions import ConvolutionProducts, FusedConvolutions
from .frozen import convolve
from .fused_factors import FusedFactors
from .fused_projection import FusedProjection
from .products import GroupProducts, without_update
from .projection_groups import CONVOLUTION, FOR_ATTENTION, SHORTCUT, Shape
from .side_stream import SideStream


def silent_concepts(stacks: Sequence[Stack]) -> set[str]:
    """The concepts of a split that is not cut whose blocks are 0 and stay 0: nothing of them moves, and a factor is
    0.
    """
    split = stacks[0].split
    if split.cut:
        return set()

    def silent(block: tuple[str, str]) -> bool:
        still = all(stack.parts[part].grad is None for stack in stacks for part in "".join(block))
        return still and any(
            not any(bool(stack.parts[part].any()) for stack in stacks for part in side) for side in block
        )

    return {split.concept_of("".join(block)) for block in split.blocks["zero_start"] if silent(block)} - {""}


class FusedAdapter:
    """The families of a network under an adapter. ``rows`` says which rows of the batch move what."""

    def __init__(
        self,
        unet: nn.Module,
        layers: Mapping[str, Any],
        stacks: Sequence[Stack],
        of_kind: Mapping[tuple[str, Shape], list[list[str]]],
        kernels: Any = None,
    ) -> None:
        self.rows: Rows = ALL_ROWS
        self.families: list[FusedFactors] = []
        self._place: dict[str, tuple[FusedProjection, int]] = {}
        self._texts: list[tuple[FusedProjection, list[str]]] = []
        self._shortcuts: dict[int, tuple[FusedProjection, int]] = {}  # by the convolution's id
        self._convolutions: dict[int, tuple[FusedConvolutions, int]] = {}
        silent, dtype = silent_concepts(stacks), next(unet.parameters()).dtype
        for stack, ((kind, _), groups) in zip(stacks, of_kind.items(), strict=True):
            modules: Any = [[unet.get_submodule(path) for path in group] for group in groups]
            layout = layers[groups[0][0]].computed(silent)
            if kind == CONVOLUTION:
                convolutions = FusedConvolutions(layout, stack, [conv for (conv,) in modules], dtype)
                self.families.append(convolutions)
                self._convolutions |= {id(conv): (convolutions, index) for index, (conv,) in enumerate(modules)}
                continue
            family = FusedProjection(
                layout, stack, modules, dtype, kept=kind in FOR_ATTENTION, biased=kind != SHORTCUT, kernels=kernels
            )
            self.families.append(family)
            if kind == "text":
                self._texts.append((family, groups[0]))
            elif kind == SHORTCUT:
                self._shortcuts |= {id(conv): (family, index) for index, (conv,) in enumerate(modules)}
            else:
                self._place |= {group[0]: (family, index) for index, group in enumerate(groups)}
        self.anchor = torch.zeros((), device=self.families[0].up.device, requires_grad=True)
        self._aside = SideStream(self.anchor.device)
        self._disabled = False

    def __call__(self, first: str, x: Tensor) -> tuple[Tensor, ...]:
        """The projections of the group whose first member is ``first`` of ``x`` (R, T, n): each (R, T, m)."""
        return self._products(x, *self._place[first])

    def convolve(self, x: Tensor, conv: nn.Conv2d, *, biased: bool = True) -> Tensor:
        """The convolution of x (R, C, h, w), with its update where it has one and without its bias unless ``biased``."""
        bias = conv.bias if biased else None
        if id(conv) in self._shortcuts:
            y = self._shortcut(x, *self._shortcuts[id(conv)])
            return y if bias is None else y + bias[:, None, None]
        if self._disabled or id(conv) not in self._convolutions:
            return convolve(x, conv, biased=biased)
        family, index = self._convolutions[id(conv)]
        return ConvolutionProducts.apply(x, self.anchor, family, index, bias, self.rows, self._aside)  # type: ignore[no-any-return]

    def _shortcut(self, x: Tensor, family: FusedProjection, index: int) -> Tensor:
        """A convolution of single places is a product over the tokens of the picture."""
        tokens = x.permute(0, 2, 3, 1)  # (R, h, w, C)
        (y,) = self._products(tokens.flatten(1, 2), family, index)  # (R, h w, C')
        return y.view(*tokens.shape[:3], -1).permute(0, 3, 1, 2)  # (R, C', h, w)

    @property
    def adapts_convolutions(self) -> bool:
        """Whether any convolution has an update."""
        return bool(self._convolutions)

    def is_adapted(self, conv: nn.Conv2d) -> bool:
        """Whether a convolution has an update."""
        return id(conv) in self._shortcuts or id(conv) in self._convolutions

    def text(self, context: Tensor) -> dict[str, Tensor]:
        """The keys and values (R, S, m) of ``context`` (R, S, n), by module path."""
        found: dict[str, Tensor] = {}
        for family, paths in self._texts:
            found |= zip(paths, self._products(context, family, 0), strict=True)
        return found

    def _products(self, x: Tensor, family: FusedProjection, index: int) -> tuple[Tensor, ...]:
        if self._disabled:
            return without_update(x, family, index)
        return GroupProducts.apply(x, self.anchor, family, index, self.rows, self._aside)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Within: the base model, as if there were no adapter."""
        self._disabled = True
        try:
            yield
        finally:
            self._disabled = False

    def abandon(self) -> object:
        """The backward pass will not come to its end; what it held aside."""
        return self._aside.abandon()

    def learned(self) -> None:
        """The end of a backward pass: what was computed aside is there."""
        self._aside.join()

    def refresh(self) -> None:
        """Bring all factors up to date with the parts that move."""
        for family in self.families:
            family.refresh()

    def gather(self, rows: Rows, count: int) -> None:
        """Add what a backward pass over ``count`` rows found to the gradients of the parts that ``rows`` moves."""
        for family in self.families:
            family.gather(rows, count)
