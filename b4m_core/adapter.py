"""An adapter: one partly learnable projection for every attention projection of a UNet, and its facts."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from .errors import B4MError
from .facts import Facts
from .names import kohya_key
from .projection import PartlyLearnableProjection
from .row_split import ALL_ROWS, Rows

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")


def is_adapted(path: str) -> bool:
    """Whether the layer at ``path`` is a q, k, v or output projection of an attention."""
    return path.endswith(ADAPTED) and ".attn" in path


def attention_projections(unet: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """(module path, Linear) of every q, k, v and output projection of every attention: 560 of them in SDXL."""
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and is_adapted(name):
            yield name, module


class _AdaptedLinear(nn.Module):
    """A Linear with its projection beside it: y = linear(x) + projection(x)."""

    def __init__(self, linear: nn.Linear, projection: PartlyLearnableProjection, adapter: "Adapter") -> None:
        super().__init__()
        self.linear, self.projection = linear, projection
        self._adapter = [adapter]  # in a list, so that the adapter is not taken for a submodule's state

    def forward(self, x: Tensor) -> Tensor:
        adapter = self._adapter[0]
        y = self.linear(x)
        return y if adapter.rests else y + self.projection(x, adapter.rows)  # type: ignore[no-any-return]


class Adapter:
    """The projections of a whole UNet, by module path, and the facts about them.

    ``rows`` says which rows of the batch move which half (row_split.py); it is set before every training step.
    """

    def __init__(self, layers: Mapping[str, PartlyLearnableProjection], facts: Facts) -> None:
        if not layers:
            raise B4MError("This adapter has no layers: the network has no attention projections, so it is not an SDXL UNet.")
        for name in layers:
            kohya_key(name)  # a network that no LoRA file can name is refused before it is trained
        self.layers = dict(sorted(layers.items()))
        self.facts = dataclasses.replace(facts, basis=facts.basis or basis_fingerprint(self.layers))
        self.rows: Rows = ALL_ROWS
        self.rests = False
        self._attached: list[tuple[nn.Module, str, nn.Linear]] = []

    @classmethod
    def for_unet(cls, unet: nn.Module, facts: Facts) -> "Adapter":
        """A fresh adapter for all attention projections of ``unet`` (meta device too); rank, basis seed, split and start from ``facts``."""
        return cls.fresh({name: (linear.out_features, linear.in_features) for name, linear in attention_projections(unet)}, facts)

    @classmethod
    def fresh(cls, shapes: Mapping[str, tuple[int, int]], facts: Facts) -> "Adapter":
        """The same for layers of these ``shapes``, (m, n) by module path."""

        def projection(name: str) -> PartlyLearnableProjection:
            return facts.kind(*shapes[name], facts.rank, name=name, seed=facts.basis_seed, start=facts.start)

        with ThreadPoolExecutor() as pool:  # each draws a basis of its own
            layers = dict(zip(shapes, pool.map(projection, shapes), strict=True))
        return cls(layers, facts)

    def targets(self, unet: nn.Module) -> dict[str, nn.Linear]:
        """The Linears of ``unet`` that this adapter is for. Raises :class:`B4MError` where they do not fit."""
        targets = dict(attention_projections(unet))
        if set(targets) != set(self.layers):
            raise B4MError(
                f"This adapter has {len(self.layers)} layers and the model has {len(targets)} that could take one: "
                "it was trained on a model of another kind."
            )
        for name, linear in targets.items():
            if (linear.out_features, linear.in_features) != self.layers[name].shape:
                raise B4MError(
                    f"Layer {name} of this adapter has another size than the model's: it was trained on a model of another kind."
                )
        return targets

    def attach(self, unet: nn.Module) -> None:
        """Put every projection beside its Linear in ``unet``. Raises :class:`B4MError` where they do not fit."""
        for name, linear in self.targets(unet).items():
            parent_name, _, attribute = name.rpartition(".")
            parent = unet.get_submodule(parent_name)
            parent.register_module(attribute, _AdaptedLinear(linear, self.layers[name], self))
            self._attached.append((parent, attribute, linear))

    def detach(self) -> None:
        """Take all projections out again: the UNet is as it was, object for object."""
        for parent, attribute, linear in self._attached:
            parent.register_module(attribute, linear)
        self._attached.clear()

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """The UNet answers as if nothing were attached to it."""
        self.rests = True
        try:
            yield
        finally:
            self.rests = False

    def clone(self) -> "Adapter":
        """An independent copy on the CPU, free of autograd and of inference mode."""
        return Adapter({name: projection.clone() for name, projection in self.layers.items()}, self.facts)

    def with_facts(self, **changes: object) -> "Adapter":
        """The same layers under changed facts."""
        return Adapter(self.layers, dataclasses.replace(self.facts, **changes))  # type: ignore[arg-type]

    def rounded(self) -> "Adapter":
        """A copy whose learned parts are what the file will say, so that what is in memory and what is on disk never differ."""
        dtype = getattr(torch, self.facts.file_dtype)
        copy = self.clone()
        with torch.no_grad():
            for value in (getattr(projection, part) for part in self.parts() for projection in copy.layers.values()):
                value.copy_(value.to(dtype))
        return copy

    def compacted(self) -> "Adapter":
        """A copy that holds only what it was taught, for a compact file; a half that was there to help it train becomes 0."""
        copy = self.clone().with_facts(compact=True)
        with torch.no_grad():
            for projection in copy.layers.values():
                for half in {self.facts.kind.content[0], self.facts.kind.style[0]} - set(self.facts.taught):
                    getattr(projection, half).zero_()
        return copy

    def alone(self) -> str:
        """``content`` or ``style`` where the adapter is an ordinary LoRA of that one: free, and the other's product is 0; else nothing."""
        other = {"content": "B", "style": "A"}.get(self.facts.role)
        if other is None or self.facts.kind.frozen():
            return ""
        return "" if any(getattr(projection, other).any() for projection in self.layers.values()) else self.facts.role

    def parts(self) -> tuple[str, ...]:
        """The learned parts that the adapter consists of: all, or its own where it stands :meth:`alone`."""
        return self.facts.taught if self.alone() else self.facts.kind.learned()

    def digest(self) -> str:
        """sha256 over the basis and the learned parts."""
        digest, parts = hashlib.sha256(f"{self.facts.basis}|{self.facts.start}|".encode()), self.parts()
        for projection in self.layers.values():
            for part in parts:
                digest.update(getattr(projection, part).detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out features, in features) of every layer."""
        return {name: projection.shape for name, projection in self.layers.items()}

    def learned_numbers(self) -> int:
        """How many numbers are learned."""
        return self._numbers(self.facts.kind.learned())

    def frozen_numbers(self) -> int:
        """How many numbers are frozen."""
        return self._numbers(self.facts.kind.frozen())

    def _numbers(self, parts: Iterable[str]) -> int:
        return sum(getattr(projection, part).numel() for part in parts for projection in self.layers.values())


def basis_fingerprint(layers: Mapping[str, PartlyLearnableProjection]) -> str:
    """sha256 over the basis of all layers, by name: two adapters fit together exactly when these are equal."""
    digest = hashlib.sha256()
    for name, projection in sorted(layers.items()):
        digest.update(f"{name}|{tuple(projection.A.shape)}|{tuple(projection.C.shape)}|".encode())
        for part in projection.basis():
            digest.update(part)
    return digest.hexdigest()
