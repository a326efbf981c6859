"""Adapters on disk: an ordinary SDXL LoRA that any loader reads, with the B4M facts in its header.

Tensors: kohya's key names, ``lora_up.weight`` (m, k), ``lora_down.weight`` (k, n), ``alpha`` = k, so that every loader's scale is 1.
Header: ``b4m`` (the facts as JSON), ``b4m.sha256`` (over those facts and the tensor data; safetensors itself has no checksum) and the
``modelspec.*``, ``ss_*`` and ``sshs_*`` keys that other tools show. No dates: equal adapters give equal bytes.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from .adapter import Adapter, basis_fingerprint
from .container import read_container, read_text, write_container
from .errors import B4MError
from .facts import Concept, Facts
from .names import kohya_key, module_path
from .projection import PartlyLearnableProjection

UP, DOWN, ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"


def lora_state_dict(adapter: Adapter, content: float = 1.0, style: float = 1.0) -> dict[str, Tensor]:
    """The adapter as the tensors of a kohya LoRA, CPU, in the adapter's file dtype, with the two strengths worked in."""
    dtype = getattr(torch, adapter.facts.file_dtype)
    tensors: dict[str, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for name, projection in adapter.layers.items():
            up, down = projection.lora_factors(content, style)
            key = kohya_key(name)
            tensors[key + UP] = up.detach().cpu().to(dtype).contiguous()
            tensors[key + DOWN] = down.detach().cpu().to(dtype).contiguous()
            tensors[key + ALPHA] = torch.tensor(float(up.shape[1]))  # float32: bfloat16 would round a large rank
    return tensors


def save_adapter(adapter: Adapter, path: str | Path) -> Path:
    """Write ``adapter`` to ``path`` and read it back before it counts. Raises :class:`B4MError`; an older file then stays as it was."""
    path = Path(path)
    tensors = lora_state_dict(adapter)
    bad = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        raise B4MError(
            f"{path.name} was not saved: its layer {bad} holds values that are not numbers; train again with a lower learning rate."
        )
    write_container(path, tensors, adapter.facts.to_json(), lambda data_sha256: _other_tools(adapter.facts, path.stem, data_sha256))
    return path


def load_adapter(path: str | Path) -> Adapter:
    """Read an adapter back. Raises :class:`B4MError` for a file that is missing, damaged, foreign, or made on another basis."""
    path = Path(path)
    text, tensors = read_container(path)
    facts = Facts.from_json(text)
    layers: dict[str, PartlyLearnableProjection] = {}
    with torch.inference_mode(False):
        for key in (key.removesuffix(UP) for key in tensors if key.endswith(UP)):
            name = module_path(key)
            layers[name] = _projection(name, _factor(tensors, key + UP, path.name), _factor(tensors, key + DOWN, path.name), facts)
    if basis_fingerprint(layers) != facts.basis:
        raise B4MError(f"{path.name} was made on another basis than this version of B4M draws: train it again.")
    return Adapter(layers, facts)


def read_facts(path: str | Path) -> Facts:
    """The facts of a file, without its tensors (the checksum is not tested)."""
    return Facts.from_json(read_text(Path(path)))


def _factor(tensors: dict[str, Tensor], key: str, shown: str) -> Tensor:
    factor = tensors.get(key)
    if factor is None or not factor.is_floating_point() or not torch.isfinite(factor).all():
        raise B4MError(f"{shown} is damaged: its {key} is missing or holds values that are not numbers; download or train it again.")
    return factor


def _projection(name: str, up: Tensor, down: Tensor, facts: Facts) -> PartlyLearnableProjection:
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != facts.factor_rank or down.shape[0] != facts.factor_rank:
        raise B4MError(f"Layer {name} has factors of shape {tuple(up.shape)} and {tuple(down.shape)}, which do not fit rank {facts.rank}.")
    projection = PartlyLearnableProjection(len(up), down.shape[1], facts.rank, name=name, seed=facts.basis_seed, start=facts.start)
    with torch.no_grad():
        projection.B.copy_(up[len(projection.A) :, -facts.rank :])
        projection.D.copy_(down[: facts.rank, projection.C.shape[1] :])
    return projection


def _other_tools(facts: Facts, title: str, data_hash: str) -> dict[str, str]:
    """The header keys that ComfyUI's, A1111's and the LoRA managers' model cards show."""
    concepts = [concept for concept in (facts.content, facts.style) if concept is not None]
    words = [concept.words() for concept in concepts]
    resolution = str(facts.settings.get("resolution", ""))
    entries = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.description": f"B4M {facts.role} adapter, trained on {facts.base_name or 'SDXL'}",
        "modelspec.usage_hint": "Use the trigger words; in ComfyUI, B4M's own loader has a content and a style slider.",
        "modelspec.trigger_phrase": ", ".join(filter(None, words)),
        "modelspec.tags": f"b4m, {facts.role}",
        "modelspec.prediction_type": "v" if facts.prediction == "v_prediction" else "epsilon",
        "modelspec.hash_sha256": "0x" + data_hash,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "ss_output_name": title,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(facts.factor_rank),
        "ss_network_alpha": str(float(facts.factor_rank)),
        "ss_sd_model_name": facts.base_name,
        "ss_steps": str(facts.steps),
        "ss_seed": str(facts.settings.get("seed", "")),
        "ss_learning_rate": str(facts.settings.get("learning_rate", "")),
        "ss_optimizer": "b4m_core.RiemannianAdamW" if facts.role == "together" else "torch.optim.AdamW",
        "ss_num_train_images": str(sum(len(concept.prompts) for concept in concepts)),
        "ss_tag_frequency": json.dumps(_tag_frequency(concepts), ensure_ascii=False, sort_keys=True),
        "sshs_model_hash": data_hash,
    }
    if resolution:
        entries |= {"modelspec.resolution": f"{resolution}x{resolution}", "ss_resolution": f"({resolution}, {resolution})"}
    return entries


def _tag_frequency(concepts: list[Concept]) -> dict[str, dict[str, int]]:
    return {concept.words() or "pictures": {prompt: concept.prompts.count(prompt) for prompt in concept.prompts} for concept in concepts}
