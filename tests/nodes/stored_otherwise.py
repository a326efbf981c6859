"""Layers that store their weights as node packs and newer hosts do, by doubles of our own: packed, converted, and not to be read at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.lora
import comfy.ops
import torch
from torch import Tensor

STEP = 0.01


class PackedTensor(torch.Tensor):
    """int8 steps, two rows in one: it tells the layer's shape and is its own copy, as a GGUF tensor does. `patches`: of a loaded clone."""

    tensor_shape: torch.Size
    tensor_type: str
    patches: list[Any]

    @staticmethod
    def of(weight: Tensor) -> PackedTensor:
        steps = (weight / STEP).round().clamp(-127, 127).to(torch.int8)
        packed = steps.reshape(weight.shape[0] // 2, -1).as_subclass(PackedTensor)
        packed.tensor_shape, packed.tensor_type, packed.patches = weight.shape, "steps", []
        return packed

    @property
    def shape(self) -> Any:
        return vars(self).get("tensor_shape", self.size())

    def detach(self) -> PackedTensor:  # type: ignore[override]
        return self

    clone = detach  # type: ignore[assignment]


class PackedLinear(comfy.ops.manual_cast.Linear):
    """Unpacks at every call, and patches what it has unpacked. Its state dict holds nothing but a shape."""

    def get_weight(self, tensor: Any, dtype: torch.dtype) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            steps = torch.empty(0, dtype=torch.int8).set_(tensor.untyped_storage()).to(dtype)
        weight = steps.view(tensor.tensor_shape) * STEP
        for patches, key in vars(tensor).get("patches", []):
            weight = comfy.lora.calculate_weight(patches, weight, key)
        return weight

    def forward(self, input: Tensor) -> Tensor:
        return torch.nn.functional.linear(input, self.get_weight(self.weight, input.dtype), self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = torch.empty(0, device="meta")
        destination[f"{prefix}temp.weight"] = torch.empty(0, device="meta")


class NibbleTensor(torch.Tensor):
    """Two 4-bit numbers in a byte behind the layer's shape, as the newest hosts' nvfp4: every operation but a few dequantises."""

    packed: Tensor

    @staticmethod
    def __new__(cls: type[NibbleTensor], packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> NibbleTensor:
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=packed.device, requires_grad=False)

    def __init__(self, packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.packed = packed

    @staticmethod
    def of(weight: Tensor, dtype: torch.dtype) -> NibbleTensor:
        steps = (weight.float() / STEP / 4).round().clamp(-8, 7).to(torch.int8) + 8
        flat = steps.reshape(-1).to(torch.uint8)
        return NibbleTensor(flat[::2] * 16 + flat[1::2], tuple(weight.shape), dtype)

    def dequantize(self) -> Tensor:
        flat = torch.stack([self.packed // 16, self.packed % 16], dim=-1).reshape(-1)
        return ((flat.to(self.dtype) - 8) * 4 * STEP).reshape(self.shape)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.ops.aten.detach.default, torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            one = args[0]
            return NibbleTensor(one.packed.clone(), tuple(one.shape), kwargs.get("dtype") or one.dtype)
        plain = [arg.dequantize() if isinstance(arg, NibbleTensor) else arg for arg in args]
        return function(*plain, **kwargs)


class NibbleLinear(comfy.ops.manual_cast.Linear):
    """Converts, and stores anew what was patched. Its state dict has entries that are no attributes, and the storage's shape."""

    quant_format = "nibbles"

    def convert_weight(self, weight: Any, inplace: bool = False, **_: Any) -> Tensor:
        return weight.dequantize() if isinstance(weight, NibbleTensor) else weight

    def set_weight(self, weight: Tensor, inplace_update: bool = False, seed: Any = None, return_weight: bool = False, **_: Any) -> Any:
        stored = NibbleTensor.of(weight, self.weight.dtype)
        if return_weight:
            return stored
        self.weight = torch.nn.Parameter(stored, requires_grad=False)
        return None

    def forward(self, input: Tensor) -> Tensor:
        weight: Any = self.weight
        return torch.nn.functional.linear(input, weight.dequantize(), self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        weight: Any = self.weight
        destination[f"{prefix}weight"] = weight.packed
        destination[f"{prefix}comfy_quant"] = torch.zeros(3, dtype=torch.uint8)


def store_linears(network: Any, kind: type[torch.nn.Module], store: Callable[[Tensor], Tensor], of: str = ".transformer_blocks.") -> None:
    """Turn the Linears of a network's blocks into layers of `kind`, in inference mode as a loader does."""
    with torch.inference_mode():
        for name, module in list(network.named_modules()):
            if of in name and isinstance(module, torch.nn.Linear):
                module.__class__ = kind
                stored = store(module.weight.detach().clone())
                module._parameters["weight"] = torch.nn.Parameter(stored, requires_grad=False)


def packed(model: Any) -> None:
    """As a GGUF loader."""
    store_linears(model.model.diffusion_model, PackedLinear, PackedTensor.of)


def nibbles(model: Any) -> None:
    """As a loader of the newest hosts."""
    store_linears(model.model.diffusion_model, NibbleLinear, lambda weight: NibbleTensor.of(weight, torch.float32))
