"""An adapter's projections in groups, beside the weights of the network that they belong to."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..row_split import ALL_ROWS, Rows
from ..stacks import Stack
from .fused_projection import FusedProjection
from .products import GroupProducts, without_update
from .projection_groups import FOR_ATTENTION, Shape
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
        self.families: list[FusedProjection] = []
        self._place: dict[str, tuple[FusedProjection, int]] = {}
        self._texts: list[tuple[FusedProjection, list[str]]] = []
        silent, dtype = silent_concepts(stacks), next(unet.parameters()).dtype
        for stack, ((kind, _), groups) in zip(stacks, of_kind.items(), strict=True):
            linears: Any = [[unet.get_submodule(path) for path in group] for group in groups]
            family = FusedProjection(
                layers[groups[0][0]].computed(silent),
                stack,
                linears,
                dtype,
                kept=kind in FOR_ATTENTION,
                kernels=kernels,
            )
            self.families.append(family)
            if kind == "text":
                self._texts.append((family, groups[0]))
            else:
                self._place |= {group[0]: (family, index) for index, group in enumerate(groups)}
        self.anchor = torch.zeros((), device=self.families[0].wide.device, requires_grad=True)
        self._aside = SideStream(self.anchor.device)
        self._disabled = False

    def __call__(self, first: str, x: Tensor) -> tuple[Tensor, ...]:
        """The projections of the group whose first member is ``first`` of ``x`` (R, T, n): each (R, T, m)."""
        return self._products(x, *self._place[first])

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
