"""An adapter: one partly learnable projection for every adapted layer of a network, and its facts."""

import contextlib
import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from .carried import Carried, in_words
from .errors import B4MError
from .layers import ATTENTION, AdaptedLayer, matrix_shape, reading_of
from .metadata import Facts
from .models import family_named
from .models.family import adapted_layers, layers_of
from .projection import PartlyLearnableProjection
from .row_split import ALL_ROWS, Rows
from .splits import PARTS


class _Adapted(nn.Module):
    """A layer with its projection beside it: y = layer(x) + projection(x)."""

    def __init__(self, layer: AdaptedLayer, projection: PartlyLearnableProjection, adapter: "Adapter") -> None:
        super().__init__()
        self.layer, self.projection, self.reading = layer, projection, reading_of(layer)
        self._adapter = [adapter]  # in a list, so that the adapter is not taken for a submodule's state

    def forward(self, x: Tensor) -> Tensor:
        adapter = self._adapter[0]
        y = self.layer(x)
        return y if not adapter.enabled else y + self.projection(x, adapter.rows, self.reading)  # type: ignore[no-any-return]


class Adapter:
    """The projections of a whole network, by module path, and the facts about them.

    ``rows`` says which rows of the batch move content's parts and which style's (row_split.py); a step sets it.
    ``carried``: updates beside the split, of another tool's LoRA (carried.py); they are applied with the adapter and
    not trained. ``notes``: what was found when it was read, in sentences; no part of what it is. ``thumbnail`` is a
    small picture that shows it, a JPEG data URL for the header of its file, or nothing.
    """

    def __init__(
        self,
        layers: Mapping[str, PartlyLearnableProjection],
        facts: Facts,
        carried: Iterable[Carried] = (),
        notes: Iterable[str] = (),
        thumbnail: str = "",
    ) -> None:
        family = family_named(facts.family)
        self.carried, self.notes = tuple(carried), tuple(notes)
        for name in layers:
            family.lora_key(name)  # a network that no LoRA file can name is refused before it is trained
        self.layers = dict(sorted(layers.items()))
        known = "" if facts.stored_basis else facts.basis
        kinds = layers_of(family, self.layers)
        self.facts = dataclasses.replace(facts, basis=known or basis_fingerprint(self.layers), layers=kinds)
        self.thumbnail = thumbnail
        self.rows: Rows = ALL_ROWS
        self.enabled = True
        self._attached: list[tuple[nn.Module, str, AdaptedLayer]] = []

    @classmethod
    def for_unet(cls, unet: nn.Module, facts: Facts) -> "Adapter":
        """A fresh adapter for all layers of ``unet`` (meta device too) that the family of ``facts`` adapts; which kinds
        of layers, rank, basis seed, split and start from ``facts``.
        """
        family = family_named(facts.family)
        layers = list(adapted_layers(family, unet, facts.layers))
        if not layers:
            raise B4MError(
                "This adapter has no layers: the network has no attention projections that B4M knows, "
                f"so it is not an {family.title} network."
            )
        if layers_of(family, (name for name, _ in layers)) != facts.layers:
            raise B4MError(f"{family.title} has no convolutions that B4M adapts: choose layers = {ATTENTION}.")
        return cls.fresh({name: matrix_shape(layer) for name, layer in layers}, facts)

    @classmethod
    def fresh(cls, shapes: Mapping[str, tuple[int, int]], facts: Facts) -> "Adapter":
        """The same for layers of these ``shapes``, (m, n) by module path."""

        def projection(name: str) -> PartlyLearnableProjection:
            return fresh_layer(facts, name, *shapes[name])

        with ThreadPoolExecutor() as pool:  # each draws a basis of its own
            layers = dict(zip(shapes, pool.map(projection, shapes), strict=True))
        return cls(layers, facts).clone()

    def targets(self, unet: nn.Module, *, whole: bool = True) -> dict[str, AdaptedLayer]:
        """The layers of ``unet`` that this adapter is for: all of its kinds that its family adapts, or, where it need not
        be ``whole``, some of them. Raises :class:`B4MError` where they do not fit.
        """
        targets = dict(adapted_layers(family_named(self.facts.family), unet, self.facts.layers))
        if not whole and set(self.layers) <= set(targets):
            targets = {name: targets[name] for name in self.layers}
        if set(targets) != set(self.layers):
            raise B4MError(
                f"This adapter has {len(self.layers)} layers and the model has {len(targets)} that could take one: "
                "it was trained on a model of another kind."
            )
        for name, layer in targets.items():
            if matrix_shape(layer) != self.layers[name].shape:
                raise B4MError(
                    f"Layer {name} of this adapter has another size than the model's: it was trained on a model of another kind."
                )
        return targets

    def attach(self, unet: nn.Module) -> None:
        """Put every projection beside its layer in ``unet``. Raises :class:`B4MError` where they do not fit."""
        for name, layer in self.targets(unet).items():
            parent_name, _, attribute = name.rpartition(".")
            parent = unet.get_submodule(parent_name)
            parent.register_module(attribute, _Adapted(layer, self.layers[name], self))
            self._attached.append((parent, attribute, layer))

    def detach(self) -> None:
        """Take all projections out again: the UNet is as it was, object for object."""
        for parent, attribute, layer in self._attached:
            parent.register_module(attribute, layer)
        self._attached.clear()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """The UNet answers as if nothing were attached to it."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def clone(self) -> "Adapter":
        """An independent copy on the CPU, free of autograd and of inference mode, in a few large tensors: what
        thousands of small ones took, a C library keeps when they are gone.
        """
        return self._mapped(lambda part, value: value)

    def alike(self) -> Iterator[tuple[list[PartlyLearnableProjection], dict[str, Tensor]]]:
        """The layers of one shape after the other, with their parts in one tensor each, (L, ...), where they are.

        What is done to all layers is done to a dozen tensors: 560 small operations wait for every core each time.
        """
        by_shape: dict[tuple[int, int], list[PartlyLearnableProjection]] = defaultdict(list)
        for projection in self.layers.values():
            by_shape[projection.shape].append(projection)
        for some in by_shape.values():
            yield some, {part: torch.stack([getattr(layer, part).detach() for layer in some]) for part in PARTS}

    def _mapped(self, change: Callable[[str, Tensor], Tensor]) -> "Adapter":
        """A copy on the CPU in which ``change`` (part, its values of L layers) has made every part anew."""
        layers: dict[str, PartlyLearnableProjection] = {}
        with torch.inference_mode(False), torch.no_grad():
            for some, parts in self.alike():
                changed = {part: change(part, value).cpu() for part, value in parts.items()}
                for index, layer in enumerate(some):
                    layers[layer.name] = layer.holding({part: value[index] for part, value in changed.items()})
        return self._with(layers=layers)

    def _with(self, **changes: Any) -> "Adapter":
        """The same adapter but for ``changes``, by the names of the constructor."""
        names = ("layers", "facts", "carried", "notes", "thumbnail")
        return Adapter(**{name: changes.get(name, getattr(self, name)) for name in names})

    def with_facts(self, **changes: object) -> "Adapter":
        """The same layers under changed facts."""
        return self._with(facts=dataclasses.replace(self.facts, **changes))  # type: ignore[arg-type]

    def carrying(self, carried: Iterable[Carried]) -> "Adapter":
        """The same layers with these updates beside them, in place of those that were there."""
        return self._with(carried=carried)

    def noted(self, *notes: str) -> "Adapter":
        """The same layers, with more to be said about them."""
        return self._with(notes=(*self.notes, *notes))

    def shown_by(self, thumbnail: str) -> "Adapter":
        """The same layers under another thumbnail."""
        return self._with(thumbnail=thumbnail)

    def rounded(self) -> "Adapter":
        """A copy whose parts are what the file will say, so that what is in memory, what is on disk and what other
        loaders read never differ.
        """
        dtype = getattr(torch, self.facts.file_dtype)
        written = PARTS if self.facts.stored_basis or self.facts.rounds_frozen else self.parts()
        return self._mapped(lambda part, value: value.to(dtype).float() if part in written else value)

    def rounding_carried(self) -> "Adapter":
        """The same layers, and what a training made beside them in the file's dtype, as it will be written."""
        return self.carrying(piece.to(getattr(torch, self.facts.file_dtype)) for piece in self.carried)

    def compacted(self) -> "Adapter":
        """A copy that holds only what it was taught, for a compact file; a part that was
        there to help it train becomes 0.
        """
        if self.carried or self.facts.stored_basis:
            what = in_words(self.carried) or "frozen parts of its own"
            raise B4MError(
                f"This adapter holds more than a compact file can ({what}): save it with compact switched off."
            )
        copy = self.clone().with_facts(compact=True)
        with torch.no_grad():
            for projection in copy.layers.values():
                for part in {self.facts.split_row.content[0], self.facts.split_row.style[0]} - set(self.facts.taught):
                    getattr(projection, part).zero_()
        return copy

    def alone(self) -> str:
        """``content`` or ``style`` where the adapter is an ordinary LoRA of that one: free, and the other's product is
        0; else nothing.
        """
        row = self.facts.split_row
        other = {"content": row.style[0], "style": row.content[0]}.get(self.facts.role)
        if other is None or row.frozen or row.cut:
            return ""
        return "" if any(getattr(projection, other).any() for projection in self.layers.values()) else self.facts.role

    def parts(self) -> tuple[str, ...]:
        """The learned parts that the adapter consists of: all, or its own where it stands :meth:`alone`."""
        return self.facts.taught if self.alone() else self.facts.split_row.learned

    def digest(self) -> str:
        """sha256 over the basis and the learned parts."""
        digest, parts = hashlib.sha256(f"{self.facts.basis}|{self.facts.start}|".encode()), self.parts()
        for projection in self.layers.values():
            for part in parts:
                digest.update(getattr(projection, part).detach().cpu().numpy().tobytes())
        for piece in sorted(piece.digest() for piece in self.carried):
            digest.update(piece)
        return digest.hexdigest()

    def summary(self) -> str:
        """The facts, and what is carried along, as a few lines for people."""
        beside = [f"carried along: {in_words(self.carried)}"] if self.carried else []
        return "\n".join([self.facts.summary(), *beside])

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(m, n) of every layer: out and in features, and of a convolution, as a matrix, layers.py's."""
        return {name: projection.shape for name, projection in self.layers.items()}

    def learned_numbers(self) -> int:
        """How many numbers are learned."""
        return self._numbers(self.facts.split_row.learned)

    def frozen_numbers(self) -> int:
        """How many numbers are frozen."""
        return self._numbers(self.facts.split_row.frozen)

    def _numbers(self, parts: Iterable[str]) -> int:
        return sum(getattr(projection, part).numel() for part in parts for projection in self.layers.values())


def fresh_layer(facts: Facts, name: str, out_features: int, in_features: int) -> PartlyLearnableProjection:
    """The layer ``name`` of an adapter with these facts, as it begins."""
    return PartlyLearnableProjection(
        out_features, in_features, facts.rank, name=name, seed=facts.basis_seed, start=facts.start, split=facts.split
    )


def basis_fingerprint(layers: Mapping[str, PartlyLearnableProjection]) -> str:
    """sha256 over the basis of all layers, by name: two adapters fit together exactly when these are equal."""
    digest = hashlib.sha256()
    for name, projection in sorted(layers.items()):
        digest.update(f"{name}|{tuple(projection.A.shape)}|{tuple(projection.C.shape)}|".encode())
        for part in projection.basis():
            digest.update(part)
    return digest.hexdigest()
