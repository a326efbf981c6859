"""The ways in which an SDXL network is stored, each made from plain weights: the tensors and the header of a file, or a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = Mapping[str, Tensor]
FP8 = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}
NEVER = ("time_embed", "label_emb", "to_k", "to_v")  # small, or read for their shape by the host when it looks what a file is


@dataclass(frozen=True)
class File:
    """What goes into a safetensors file."""

    tensors: dict[str, Tensor]
    header: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, path, self.header or None)


def is_linear(name: str, weight: Tensor) -> bool:
    """Whether a weight is one of those that a quantiser takes: of a Linear, and not of the embeddings."""
    return weight.ndim == 2 and name.endswith(".weight") and not any(part in name for part in NEVER)


def plain(dtype: torch.dtype) -> Callable[[Weights], File]:
    """All weights in one dtype."""
    return lambda weights: File({name: weight.to(dtype) for name, weight in weights.items()})


def _scaled(weights: Weights, dtype: torch.dtype, scale_name: str) -> tuple[dict[str, Tensor], list[str]]:
    """fp8 with a scale for each Linear, the rest in float16; and the layers with a scale."""
    tensors, layers = {}, []
    for name, weight in weights.items():
        if is_linear(name, weight):
            scale = weight.abs().max() / torch.finfo(dtype).max
            layers.append(name.removesuffix(".weight"))
            tensors[name], tensors[f"{layers[-1]}.{scale_name}"] = (weight / scale).to(dtype), scale.float()
        else:
            tensors[name] = weight.half()
    return tensors, layers


def scaled_fp8_of_old(weights: Weights) -> File:
    """A mark for the file and `scale_weight` beside each weight. All Linears are fp8."""
    tensors, _ = _scaled(weights, torch.float8_e4m3fn, "scale_weight")
    for name, weight in weights.items():
        if weight.ndim == 2 and f"{name.removesuffix('weight')}scale_weight" not in tensors:
            tensors[name] = weight.to(torch.float8_e4m3fn)
    return File(tensors | {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)})


def scaled_fp8_by_header(dtype: torch.dtype) -> Callable[[Weights], File]:
    """`weight_scale` beside each weight, and the layers in the header."""

    def make(weights: Weights) -> File:
        tensors, layers = _scaled(weights, dtype, "weight_scale")
        written = {"format_version": "1.0", "layers": {layer: {"format": FP8[dtype]} for layer in layers}}
        return File(tensors, {"_quantization_metadata": json.dumps(written)})

    return make


def marked(written: Mapping[str, object]) -> Tensor:
    """The mark `comfy_quant` of a layer."""
    return torch.tensor(list(json.dumps(written).encode()), dtype=torch.uint8)


def scaled_fp8_by_layer(weights: Weights) -> File:
    """`weight_scale` and `comfy_quant` beside each weight."""
    tensors, layers = _scaled(weights, torch.float8_e4m3fn, "weight_scale")
    return File(tensors | {f"{layer}.comfy_quant": marked({"format": "float8_e4m3fn"}) for layer in layers})


def by_host(layout: str, written: Mapping[str, object], **options: object) -> Callable[[Weights], File]:
    """What the host's own quantiser of a layout makes of each Linear."""

    def make(weights: Weights) -> File:
        from comfy.quant_ops import QuantizedTensor

        tensors: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if is_linear(name, weight):
                tensors |= QuantizedTensor.from_float(weight.float(), layout, **options).state_dict(name)
                tensors[f"{name.removesuffix('weight')}comfy_quant"] = marked(written)
            else:
                tensors[name] = weight.half()
        return File(tensors)

    return make


def smoothed(weights: Weights) -> File:
    """nvfp4 whose inputs are scaled too: the layer multiplies by more than its weight."""
    file = by_host("TensorCoreNVFP4Layout", {"format": "nvfp4"}, scale="recalculate")(weights)
    for name, weight in weights.items():
        if is_linear(name, weight):
            file.tensors[f"{name.removesuffix('weight')}pre_quant_scale"] = torch.full((weight.shape[1],), 0.5)
    return file


def gguf(kind: str) -> Callable[[Weights, Path], None]:
    """A GGUF file with the Linears in `kind`, the other matrices in float16 and the rest in float32, as the converters make it."""

    def write(weights: Weights, path: Path) -> None:
        from gguf import GGMLQuantizationType, GGUFWriter, quants

        writer = GGUFWriter(path, "sdxl")
        for name, weight in weights.items():
            if weight.ndim < 2:
                stored = GGMLQuantizationType.F32
            elif weight.ndim == 2 and weight.shape[1] % 32 == 0 and not any(part in name for part in ("time_embed", "label_emb")):
                stored = GGMLQuantizationType[kind]
            else:
                stored = GGMLQuantizationType.F16
            writer.add_tensor(name, quants.quantize(weight.float().numpy(), stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


FILES: dict[str, Callable[[Weights], File]] = {
    "fp32": plain(torch.float32),
    "fp16": plain(torch.float16),
    "bf16": plain(torch.bfloat16),
    "fp8 e4m3fn": plain(torch.float8_e4m3fn),
    "fp8 e5m2": plain(torch.float8_e5m2),
    "scaled fp8, scale_weight": scaled_fp8_of_old,
    "scaled fp8, header": scaled_fp8_by_header(torch.float8_e4m3fn),
    "scaled fp8 e5m2, header": scaled_fp8_by_header(torch.float8_e5m2),
    "scaled fp8, comfy_quant": scaled_fp8_by_layer,
    "mxfp8": by_host("TensorCoreMXFP8Layout", {"format": "mxfp8"}),
    "int8": by_host("TensorWiseINT8Layout", {"format": "int8_tensorwise"}, per_channel=True),
    "int8, rotated": by_host(
        "TensorWiseINT8Layout",
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64},
        per_channel=True,
        convrot=True,
        convrot_groupsize=64,
    ),
    "nvfp4": by_host("TensorCoreNVFP4Layout", {"format": "nvfp4"}, scale="recalculate"),
    "nvfp4, smoothed": smoothed,
}
LOADED_AS = {"fp16 loaded as fp8_e4m3fn": "fp8_e4m3fn", "fp16 loaded as fp8_e5m2": "fp8_e5m2"}
"""What the weight_dtype of the host's loader node says, where it is not the default."""
FILES |= dict.fromkeys(LOADED_AS, plain(torch.float16))
GGUF = {f"GGUF {kind}": gguf(kind) for kind in ("Q8_0", "Q5_1", "Q4_0")}
