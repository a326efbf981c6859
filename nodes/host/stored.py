"""How the weights of a MODEL, CLIP or VAE are stored, and the numbers that they stand for.

What is read is every layer's own parameters, not a state dict: with quantised layers that has entries that are no attributes, shapes of the
storage instead of the layer, or nothing in it at all. Three ways of storing are opened beside plain numbers, by what a layer or a tensor
itself offers and not by its name: a layer that converts (`convert_weight`: the host's scaled fp8, int8, nvfp4 ...), a layer that unpacks
(`get_weight` with a tensor that knows its `tensor_shape`: GGUF), and a tensor that dequantises itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...b4m_core import B4MError
from .asking import ask


@dataclass(frozen=True)
class Stored:
    """A weight without patches, where it lies. `key`: its name in the model. `name`: its name in `layer`."""

    key: str
    layer: torch.nn.Module
    name: str
    tensor: Tensor
    in_force: torch.dtype | None = None  # what a host that keeps the file's own numbers makes of them on their way to the device

    @property
    def shape(self) -> tuple[int, ...]:
        """The layer's shape, whatever shape the storage has."""
        features = ask(self.layer, "out_features"), ask(self.layer, "in_features")
        if self.name == "weight" and all(isinstance(count, int) for count in features):
            return features
        return tuple(self.tensor.shape)

    @property
    def convert(self) -> Callable[..., Tensor] | None:
        """The layer's way from what is stored to numbers."""
        return ask(self.layer, f"convert_{self.name}")

    @property
    def is_packed(self) -> bool:
        """Whether only the layer can unpack it (GGUF)."""
        shape = ask(self.tensor, "tensor_shape")
        return shape is not None and (not self.tensor.is_floating_point() or _size(self.tensor) != tuple(shape))

    @property
    def is_plain(self) -> bool:
        """Whether what is stored are the numbers themselves."""
        return not (self.is_packed or self.convert is not None or _dequantises(self.tensor))


def stored_weights(patcher: Any, prefix: str = "") -> list[Stored]:
    """Every parameter and saved buffer of a ModelPatcher below `prefix`, without patches and in the model's order.

    It does not matter what is loaded and patched now: the host keeps the base weights, and submodules that a clone has replaced count
    for that clone alone.
    """
    kept: dict[str, Tensor] = {key: backup.weight for key, backup in patcher.backup.items()}
    kept |= ask(patcher, "backup_buffers", {})
    kept |= {key: weight for key, (weight, _) in patcher.hook_backup.items()}
    dynamic = ask(patcher, "is_dynamic") is not None and patcher.is_dynamic()
    with patcher.use_ejected():
        return [
            Stored(key, layer, name, _existing(kept.get(key, tensor)), ask(layer, f"{name}_comfy_model_dtype") if dynamic else None)
            for path, layer in _layers(patcher)
            for name, tensor in _own_tensors(layer)
            if (key := f"{path}.{name}" if path else name).startswith(prefix)
        ]


def _layers(patcher: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """(path, module) of all modules as this patcher has them: its own object patches in, those of other clones out."""
    replaced = {**patcher.object_patches_backup, **patcher.object_patches}
    waiting = [("", patcher.model)]
    while waiting:
        path, module = waiting.pop()
        module = module._modules.get("_orig_mod", module)  # compiled: the module itself is inside
        yield path, module
        below = [(f"{path}.{name}" if path else name, child) for name, child in module._modules.items()]
        children = [(name, replaced.get(name, child)) for name, child in below]
        waiting += [(name, child) for name, child in reversed(children) if isinstance(child, torch.nn.Module)]


def _own_tensors(layer: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, tensor) for name, tensor in layer._parameters.items() if tensor is not None)
    unsaved = layer._non_persistent_buffers_set
    yield from ((name, tensor) for name, tensor in layer._buffers.items() if tensor is not None and name not in unsaved)


def _existing(tensor: Tensor) -> Tensor:
    """The host fills what a file lacks with zeros when it first needs it."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor


def opened(stored: Stored, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers as a fresh tensor on `device` in `dtype`."""
    if stored.is_packed:
        bare = alias(stored.tensor).to(device=device, copy=True)  # without the patches that a loaded clone has hung onto it
        marks: Any = bare
        marks.tensor_shape, marks.tensor_type = stored.tensor.tensor_shape, stored.tensor.tensor_type  # type: ignore[attr-defined]
        unpack: Any = stored.layer.get_weight
        numbers = unpack(bare, dtype)
    else:
        numbers = numbers_of(stored, plain(stored).to(device=device, dtype=dtype, copy=True))
    return numbers.clone() if numbers.is_inference() else numbers


def numbers_of(stored: Stored, tensor: Tensor) -> Tensor:
    """`tensor`, which is stored as `stored` is, as numbers; it is spent."""
    if stored.convert is not None:
        tensor = stored.convert(tensor, inplace=True)
    return tensor.dequantize() if _dequantises(tensor) else tensor


def plain(stored: Stored) -> Tensor:
    """What is stored, without history, in the dtype that is in force."""
    if not stored.is_plain:
        return stored.tensor.detach()
    tensor = alias(stored.tensor)
    return tensor.to(stored.in_force) if stored.in_force is not None and tensor.is_floating_point() else tensor


def alias(tensor: Tensor) -> Tensor:
    """The same memory as a plain tensor that autograd can go through: one made in inference mode cannot be a factor in a product."""
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return made.set_(tensor.untyped_storage(), tensor.storage_offset(), _size(tensor), tensor.stride())


def _size(tensor: Tensor) -> tuple[int, ...]:
    """The size of what is stored: some classes tell the layer's shape instead."""
    with torch._C.DisableTorchFunctionSubclass():
        return tuple(torch.Tensor.size(tensor))


def _dequantises(tensor: Tensor) -> bool:
    return ask(type(tensor), "dequantize") is not torch.Tensor.dequantize


def require_readable(stored: Stored) -> None:
    """Raise B4MError, naming the way of storing, for a weight whose numbers cannot be had or are not all that the layer multiplies by."""
    smoothed = stored.layer._parameters.get("pre_quant_scale") is not None
    shaped = stored.is_packed or tuple(stored.tensor.shape) == stored.shape
    numbers = stored.is_packed or not stored.is_plain or stored.tensor.is_floating_point()
    if smoothed or not (shaped and numbers):
        raise B4MError(
            f"B4M cannot read weights that are stored as {_kind(stored)}{' with smoothed inputs' if smoothed else ''} (here {stored.key}): "
            "connect the same SDXL model in float16, bfloat16, fp8 or GGUF."
        )


def _kind(stored: Stored) -> str:
    """What people would call the way of storing: "nvfp4", "Params4bit (uint8)" ..."""
    written = ask(stored.layer, "quant_format")
    return str(written or f"{type(stored.tensor).__name__} ({str(stored.tensor.dtype).removeprefix('torch.')})")
