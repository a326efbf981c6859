"""What the loader of another tool adds to the embedded model's weights, and what ours does: by name, float64.

A loader gives {name of a weight: what it added}, or None where it does not read the layout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from b4m_core import load_adapter
from b4m_core.carried import sum_added
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.models.sdxl.modules import layer_key

Added = dict[str, Tensor]
FULL = {"content": 1.0, "style": 1.0, "detail": 1.0}


class Base:
    """The embedded model, float64, and its text encoders."""

    def __init__(self, folder: Path, tokenizer: Path | None = None) -> None:
        self.folder = DiffusersFolder(folder, dtype=torch.float64, tokenizer=tokenizer)
        self.network: nn.Module = self.folder.unet
        self.encoders: list[nn.Module] = self.folder._text_encoders

    def parts(self) -> dict[str, nn.Module]:
        return {"unet": self.network, "text_encoder": self.encoders[0], "text_encoder_2": self.encoders[1]}


def weights_of(parts: dict[str, nn.Module]) -> Added:
    """All weights and biases by the names of carried.py."""
    found = {}
    for prefix, module in parts.items():
        for name, weight in module.named_parameters():
            path, _, kind = name.replace(".base_layer", "").rpartition(".")
            key = layer_key(f"{prefix}.{path}")
            if key is not None and "lora" not in kind:
                found[f"{key}.{kind}"] = weight.detach()
    return found


def difference(before: Added, after: Added) -> Added:
    """What was added, where anything was."""
    return {name: after[name].double() - before[name].double() for name in before if not torch.equal(after[name], before[name])}


def ours(base: Base, file: Path, use_as: str = "both") -> Added:
    """By b4m_core's own arithmetic, as the command line adds it."""
    adapter = load_adapter(file, use_as)
    weights, added = weights_of(base.parts()), {}
    by_key: dict[str, list[Any]] = {}
    for piece in adapter.carried:
        by_key.setdefault(f"{piece.key}.{'bias' if piece.kind == 'diff_b' else 'weight'}", []).append(piece)
    for key, pieces in by_key.items():
        added[key] = sum_added(pieces, weights[key], FULL)
    for path, layer in adapter.layers.items():
        key = f"{layer_key(f'unet.{path}')}.weight"
        update = layer.double().delta_weight().detach()
        added[key] = added[key] + update if key in added else update
    return added


def diffusers(base: Base, file: Path) -> Added | None:
    """`load_lora_weights` and `fuse_lora` of diffusers."""
    from diffusers import StableDiffusionXLPipeline

    state = load_file(file)
    parts = {name: copy.deepcopy(module) for name, module in base.parts().items()}
    pipe: Any = StableDiffusionXLPipeline.__new__(StableDiffusionXLPipeline)
    from diffusers import AutoencoderTiny, EulerDiscreteScheduler

    pipe.__init__(
        vae=AutoencoderTiny(), unet=parts["unet"], text_encoder=parts["text_encoder"], text_encoder_2=parts["text_encoder_2"],
        tokenizer=None, tokenizer_2=None, scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in weights_of(parts).items()}
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    pipe.fuse_lora(components=[name for name in parts if name == "unet" or any(key.startswith(("lora_te", "text_")) for key in state)])
    pipe.unload_lora_weights()
    return difference(before, weights_of(parts))


def peft(base: Base, file: Path) -> Added | None:
    """`PeftModel.from_pretrained` and `merge_and_unload`."""
    from peft import PeftModel

    network = copy.deepcopy(base.network)
    before = {name: weight.clone() for name, weight in weights_of({"unet": network}).items()}
    merged = PeftModel.from_pretrained(network, str(file.parent)).merge_and_unload()  # type: ignore[arg-type]
    return difference(before, weights_of({"unet": merged}))


def lycoris(base: Base, file: Path) -> Added | None:
    """`create_lycoris_from_weights` and `merge_to`."""
    from lycoris import create_lycoris_from_weights

    network = copy.deepcopy(base.network)
    before = {name: weight.clone() for name, weight in weights_of({"unet": network}).items()}
    state = load_file(file)
    if any("oft_blocks" in name for name in state):  # its rotations are float32 alone
        network.float()
    else:
        state = {name: tensor.double() for name, tensor in state.items()}
    made, _ = create_lycoris_from_weights(1.0, str(file), network, weights_sd=state)
    made.merge_to(1.0)
    return difference(before, weights_of({"unet": network}))


LOADERS: dict[str, Callable[[Base, Path], Added | None]] = {"diffusers": diffusers, "PEFT": peft, "LyCORIS": lycoris}


def relative(mine: Added, theirs: Added) -> float:
    """Norm of the difference over the norm of theirs, over all weights; a weight that one of them leaves alone counts."""
    names = mine.keys() | theirs.keys()
    zero = torch.zeros(())
    off = sum(float((mine.get(name, zero) - theirs.get(name, zero)).double().square().sum()) for name in names)
    return (off / sum(float(tensor.double().square().sum()) for tensor in theirs.values())) ** 0.5
