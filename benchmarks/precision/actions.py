"""What an artist does with a model, by the pack's own nodes, and how far each result is from what the host computes itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import small_sdxl
import torch
from safetensors.torch import save_file
from torch import Tensor

import nodes

SIDE, STEPS, SEED, GUIDANCE = 64, 2, 1, 4.0
TRAINING = {
    "steps": 2, "learning_rate": 1e-2, "resolution": SIDE, "seed": SEED, "sample_every": 2, "sample_prompt": "a snq bird", "run": "retrain",
    "sample_steps": STEPS, "sample_cfg": GUIDANCE, "batch": 1, "gradient_accumulation_steps": 1, "weight_decay": 0.0, "flip": False,
    "file_dtype": "float32", "auxiliary_learning_rate": 1e-5, "rank": 4, "basis_seed": 0, "start": "zero_start",
}  # fmt: skip
"""The widgets of a training; the others have defaults."""


@dataclass(frozen=True)
class Trio:
    """MODEL, CLIP and VAE of one graph, with the pack's nodes."""

    pack: Any
    model: Any
    clip: Any
    vae: Any


def load_pack() -> Any:
    """The pack's nodes, as if called without a graph."""
    pack = importlib.import_module("b4m_pack.nodes")
    for node in pack.NODES:
        node.hidden = SimpleNamespace(unique_id=None, prompt=None)
    return pack


def with_lora(model: Any) -> Any:
    """MODEL behind the host's own LoRA loader."""
    host = importlib.import_module("b4m_pack.nodes.host")
    save_file(small_sdxl.random_lora(model, strength=0.1), host.loras_folder() / "upstream.safetensors")
    host.refresh_lora_list()
    with torch.inference_mode():
        return nodes.LoraLoaderModelOnly().load_lora_model_only(model, "upstream.safetensors", 0.7)[0]


def pictures(word: str) -> Any:
    """Two pictures of noise."""
    rng = np.random.default_rng([*word.encode()])
    make = importlib.import_module("b4m_pack.b4m_core.pictures").from_arrays
    return make([rng.random((SIDE, SIDE, 3)) for _ in range(2)], trigger=word, class_word="bird", pattern="a {trigger} {class}")


def network_difference(trio: Trio, model: Any = None, adapter: Any = None, *, rounded: bool = True) -> float:
    """The training network of `trio`, an `adapter` attached or not, beside the host's network of `model` (`trio`'s) on the same input.

    `rounded`: the host's layers may round their inputs too, as they like.
    """
    config, model = trio.model.model.model_config.unet_config, model or trio.model
    rows = small_sdxl.inputs(text_width=config["context_dim"], pooled=config["adm_in_channels"] - 6 * 256)
    unet = importlib.import_module("b4m_pack.nodes.host").training_network(trio.model)
    if adapter is not None:
        adapter.clone().attach(unet)
    ours = small_sdxl.network_output(unet, rows)
    layers = [layer for layer in model.model.modules() if not rounded and "quant_format" in vars(layer)]
    before = [layer.weight_function for layer in layers]

    def open_weights() -> None:
        for layer in layers:
            layer.weight_function = [*layer.weight_function, torch.clone]  # with any function the host multiplies by numbers

    try:
        return small_sdxl.relative_difference(ours, small_sdxl.host_output(model, rows, open_weights))
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.weight_function = was


def train(trio: Trio, role: str) -> tuple[Any, Tensor]:
    """The adapter after two steps, and its last sample."""
    node = {"content": trio.pack.B4MTrainContent, "style": trio.pack.B4MTrainStyle}[role]
    with torch.inference_mode():
        adapter, sample = node.execute(trio.model, trio.clip, trio.vae, pictures("snq"), (pictures("other"),), **TRAINING).result
    if not all(np.isfinite(loss) for row in adapter.facts.losses for loss in row):
        raise ArithmeticError("a loss is not a number")
    return adapter, sample[0]


def applied(trio: Trio, adapter: Any) -> Trio:
    """The MODEL behind B4M Apply LoRA."""
    with torch.inference_mode():
        return Trio(trio.pack, trio.pack.B4MApplyAdapter.execute(trio.model, adapter, 1.0, 1.0).result[0], trio.clip, trio.vae)


def painted(trio: Trio, prompt: str, side: int) -> Tensor:
    """The host's picture by its own nodes, ``side`` pixels wide and high."""
    with torch.inference_mode():
        (positive,), (negative,) = (nodes.CLIPTextEncode().encode(trio.clip, text) for text in (prompt, ""))
        (latent,) = nodes.EmptyLatentImage().generate(side, side, 1)
        (samples,) = nodes.KSampler().sample(trio.model, SEED, STEPS, GUIDANCE, "euler", "normal", positive, negative, latent)
        return nodes.VAEDecode().decode(trio.vae, samples)[0][0].clone()


def sheet(trio: Trio, adapter: Any) -> Tensor:
    """B4M Contact Sheet."""
    words = {"prompts": "a snq bird", "size": SIDE, "seed": SEED, "steps": STEPS, "cfg": GUIDANCE}
    with torch.inference_mode():
        made = trio.pack.B4MContactSheet.execute(trio.model, trio.clip, trio.vae, adapter, pictures("snq"), pictures("w@z"), **words)
    return made.result[0]  # type: ignore[no-any-return]


def readings(trio: Trio, note: Callable[[str, float | str], None]) -> None:
    """Do everything once and note what was found under the table's headings."""
    note("network", network_difference(trio))
    note("weights alone", network_difference(trio, rounded=False))
    content, sample = train(trio, "content")
    note("train", "yes")
    style, _ = train(trio, "style")
    behind = applied(trio, content)
    note("sample", float((sample - painted(behind, TRAINING["sample_prompt"], len(sample))).abs().max()))
    with torch.inference_mode():
        merged = trio.pack.B4MMergeAdapters.execute(content, style).result[0]
    note("merge", "yes")
    behind = applied(trio, merged)
    note("applied", network_difference(behind))
    note("attached", network_difference(trio, behind.model, merged))
    note("sheet", "yes" if torch.isfinite(sheet(trio, merged)).all() else "not numbers")
