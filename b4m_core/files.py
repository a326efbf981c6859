"""Adapters on disk: an ordinary SDXL LoRA that any loader reads, with the B4M facts in its header.

A compact adapter (``facts.compact``) is written as its taught halves alone (compact_format.py), for B4M's own loader.
The LoRA: Tensors: kohya's key names, ``lora_up.weight`` (m, k), ``lora_down.weight`` (k, n), ``alpha`` = k, so that
every loader's scale is 1. Header: ``b4m`` (the facts as JSON), ``b4m.sha256`` (over those facts and the tensor data;
safetensors itself has no checksum) and the ``modelspec.*``, ``ss_*`` and ``sshs_*`` keys that other tools show. No
dates: equal adapters give equal bytes.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .adapter import Adapter, basis_fingerprint, fresh_layer
from .bounds import bytes_held, require_possible
from .compact_format import layers_of, taught_halves
from .container import read_container, read_text, write_container
from .errors import B4MError
from .finite import first_not_finite, numbers, require_finite
from .metadata import Concept, Facts
from .models import family_named
from .projection import PartlyLearnableProjection

UP, DOWN, ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"


@dataclass(frozen=True)
class FileFormat:
    """One way to lay an adapter down as tensors, and back: another one is one more row of :data:`FORMATS`.

    ``tensors`` gives what is written, CPU, in the adapter's file dtype; ``layers`` (tensors, facts, the file's name for
    people) the projections. ``kind``, ``module`` and ``hint`` are what other tools show.
    """

    tensors: Callable[[Adapter], dict[str, Tensor]]
    layers: Callable[[dict[str, Tensor], Facts, str], dict[str, PartlyLearnableProjection]]
    kind: str
    module: str
    hint: str


def lora_state_dict(adapter: Adapter, content: float = 1.0, style: float = 1.0) -> dict[str, Tensor]:
    """The adapter as the tensors of a kohya LoRA, CPU, in the adapter's file dtype, with the two strengths worked
    in.
    """
    dtype, family = getattr(torch, adapter.facts.file_dtype), family_named(adapter.facts.family)
    tensors: dict[str, Tensor] = {}
    alone = adapter.alone()
    with torch.inference_mode(False), torch.no_grad():
        for some, parts in adapter.alike():
            factors = some[0].lora_factors(content, style, alone=alone, parts=parts)  # (L, m, k) and (L, k, n)
            for layer, up, down in zip(some, *(factor.to(dtype).cpu() for factor in factors), strict=True):
                key = family.lora_key(layer.name)
                tensors[key + UP], tensors[key + DOWN] = up, down
                tensors[key + ALPHA] = torch.tensor(float(up.shape[1]))  # float32: bfloat16 would round a large rank
    return tensors


def save_adapter(adapter: Adapter, path: str | Path, *, over: bool = True) -> Path:
    """Write ``adapter`` to ``path`` and read it back before it counts. Raises :class:`B4MError`; an older file then
    stays as it was. With ``over`` False an older file is never replaced, also one that comes at the same moment
    (:class:`~b4m_core.atomic.NameTaken`).
    """
    path = Path(path)
    tensors = format_of(adapter.facts).tensors(adapter)
    bad = first_not_finite(tensors)
    if bad is not None:
        raise B4MError(
            f"{path.name} was not saved: its layer {bad} holds values that are not numbers; train again with a lower learning rate."
        )
    rank = adapter.facts.factor_rank(adapter.alone())
    write_container(
        path,
        tensors,
        adapter.facts.to_json(),
        lambda data_sha256: _other_tools(adapter.facts, rank, path.stem, data_sha256),
        over=over,
    )
    return path


def load_adapter(path: str | Path) -> Adapter:
    """Read an adapter back. Raises :class:`B4MError` for a file that is missing, damaged, foreign, or made on another
    basis.
    """
    path = Path(path)
    text, tensors = read_container(path)
    facts = Facts.from_json(text)
    require_finite(tensors, path.name)
    with torch.inference_mode(False):
        layers = format_of(facts).layers(tensors, facts, path.name)
    if basis_fingerprint(layers) != facts.basis:
        raise B4MError(f"{path.name} was made on another basis than this version of B4M draws: train it again.")
    return Adapter(layers, facts).clone()


def read_facts(path: str | Path) -> Facts:
    """The facts of a file, without its tensors (the checksum is not tested)."""
    return Facts.from_json(read_text(Path(path)))


def format_of(facts: Facts) -> FileFormat:
    """The row that a file with these facts is written and read by. Raises :class:`B4MError` for an unknown one."""
    if facts.form not in FORMATS:
        raise B4MError(
            f"This adapter's file has the form {facts.form!r}, and this B4M knows {', '.join(FORMATS)}: update B4M."
        )
    return FORMATS[facts.form]


def _layers_of_lora(tensors: dict[str, Tensor], facts: Facts, shown: str) -> dict[str, PartlyLearnableProjection]:
    family = family_named(facts.family)
    keys = {family.module_path(key): key for key in (key.removesuffix(UP) for key in tensors if key.endswith(UP))}
    sizes = {name: _size(tensors, key, shown) for name, key in keys.items()}
    require_possible(sizes, facts.rank, family.largest, bytes_held(tensors), shown)

    def projection(name: str) -> PartlyLearnableProjection:
        up, down = (numbers(tensors, keys[name] + factor, shown) for factor in (UP, DOWN))
        return _projection(name, up, down, facts)

    with ThreadPoolExecutor() as pool:  # each draws a basis of its own
        return dict(zip(keys, pool.map(projection, keys), strict=True))


def _size(tensors: dict[str, Tensor], key: str, shown: str) -> tuple[int, int]:
    """(m, n) of a layer, by its two factors."""
    up, down = (numbers(tensors, key + factor, shown) for factor in (UP, DOWN))
    if up.ndim != 2 or down.ndim != 2:
        raise B4MError(f"{shown} is damaged: {key[:80]} is no pair of matrices; download or train it again.")
    return up.shape[0], down.shape[1]


def _projection(name: str, up: Tensor, down: Tensor, facts: Facts) -> PartlyLearnableProjection:
    alone = _alone(up, facts)
    rank = facts.factor_rank(alone)
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != rank or down.shape[0] != rank:
        raise B4MError(
            f"Layer {name} has factors of shape {tuple(up.shape)} and {tuple(down.shape)}, which do not fit rank {facts.rank}."
        )
    projection = fresh_layer(facts, name, len(up), down.shape[1])
    projection.load_lora_factors(up, down, alone)
    return projection


def _alone(up: Tensor, facts: Facts) -> str:
    """Whether the factors are those of one concept alone (Adapter.alone), told by their rank: its name, else
    nothing.
    """
    row = facts.split_row
    one = (
        facts.role in ("content", "style")
        and not row.frozen
        and not row.cut
        and up.ndim == 2
        and up.shape[1] == facts.rank
    )
    return facts.role if one else ""


def _other_tools(facts: Facts, rank: int, title: str, data_hash: str) -> dict[str, str]:
    """The header keys that ComfyUI's, A1111's and the LoRA managers' model cards show."""
    concepts = [concept for concept in (facts.content, facts.style) if concept is not None]
    words = [concept.words() for concept in concepts]
    resolution = str(facts.settings.get("resolution", ""))
    form = format_of(facts)
    entries = {
        "modelspec.sai_model_spec": "1.0.1",
        **family_named(facts.family).header(form.kind),
        "modelspec.title": title,
        "modelspec.description": f"B4M {facts.role} adapter, trained on {facts.base_name or family_named(facts.family).title}",
        "modelspec.usage_hint": f"Use the trigger words. {form.hint}",
        "modelspec.trigger_phrase": ", ".join(filter(None, words)),
        "modelspec.tags": f"b4m, {facts.role}",
        "modelspec.prediction_type": "v" if facts.prediction == "v_prediction" else "epsilon",
        "modelspec.hash_sha256": "0x" + data_hash,
        "ss_output_name": title,
        "ss_network_module": form.module,
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
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
        entries |= {
            "modelspec.resolution": f"{resolution}x{resolution}",
            "ss_resolution": f"({resolution}, {resolution})",
        }
    return entries


def _tag_frequency(concepts: list[Concept]) -> dict[str, dict[str, int]]:
    return {
        concept.words() or "pictures": {prompt: concept.prompts.count(prompt) for prompt in concept.prompts}
        for concept in concepts
    }


FORMATS = {
    "lora": FileFormat(
        lora_state_dict, _layers_of_lora, "lora", "networks.lora", "In ComfyUI, B4M's own loader has two sliders."
    ),
    "compact": FileFormat(
        taught_halves, layers_of, "b4m-compact", "b4m-compact", "It holds only what was taught: load it with B4M."
    ),
}
"""By the name that the facts give (:attr:`Facts.form`)."""
