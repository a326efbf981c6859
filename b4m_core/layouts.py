"""The names that an adapter's tensors go by in other layouts than kohya's, and the folders that these are read from.

diffusers' ``load_lora_weights`` and PEFT's ``PeftModel.from_pretrained`` both know a layer by its module path and its
factors as ``lora_A`` (k, n), our down, and ``lora_B`` (m, k), our up, those of convolutions with their kernels behind;
without an alpha the scale is 1, as ours is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import B4MError
from .models.family import Family

UP, DOWN, ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"
_A, _B = ".lora_A.weight", ".lora_B.weight"
KOHYA = "kohya"


@dataclass(frozen=True)
class FolderLayout:
    """``file``: the name of the weights in their folder; ``prefix``: what stands before a module path; ``with_layouts``:
    the layouts whose files make up the folder.
    """

    file: str
    prefix: str
    with_layouts: tuple[str, ...]

    def named(self, tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
        """kohya's tensors under this layout's names."""
        found = {}
        for key in (key.removesuffix(UP) for key in tensors if key.endswith(UP)):
            path = self.prefix + family.module_path(key)
            found[path + _A], found[path + _B] = tensors[key + DOWN], tensors[key + UP]
        return found

    def kohya(self, tensors: Mapping[str, Tensor], family: Family, shown: str) -> dict[str, Tensor]:
        """The inverse of :meth:`named`. Raises :class:`B4MError` for a name that is not of this layout."""
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            part = {_A: DOWN, _B: UP}.get(name[-len(_A) :])
            if part is None or not name.startswith(self.prefix):
                raise B4MError(f"{shown} is damaged: it holds {name[:80]}, which is no part of an adapter; make it again.")
            key = family.lora_key(name[len(self.prefix) : -len(_A)])
            found[key + part] = tensor
            found[key + ALPHA] = torch.tensor(float(tensor.shape[0 if part == DOWN else 1]))
        return found

    def side_files(self, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
        """What has to lie beside the weights, by its name."""
        return {}


class _PEFT(FolderLayout):
    def side_files(self, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
        """PEFT's configuration: the modules, and a rank and alpha that make the scale 1."""
        ranks = {name[len(self.prefix) : -len(_A)]: len(tensor) for name, tensor in tensors.items() if name.endswith(_A)}
        rank = max(ranks.values())
        others = {path: k for path, k in ranks.items() if k != rank}
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": None,
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": sorted(ranks),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        }
        return {"adapter_config.json": json.dumps(config, indent=2).encode()}


FOLDER_LAYOUTS: dict[str, FolderLayout] = {
    "diffusers": FolderLayout("pytorch_lora_weights.safetensors", "unet.", ("diffusers",)),
    "peft": _PEFT("adapter_model.safetensors", "base_model.model.", ("diffusers", "peft")),
}
"""By the name that the facts of a file give (:attr:`~b4m_core.metadata.Facts.file_format`).

A folder for PEFT holds diffusers' file too: diffusers' pipelines would take PEFT's own for theirs, find no layer in it
and paint without it.
"""


def weights_file(path: Path) -> Path:
    """The file with the weights: ``path`` itself, or what lies in it where it is a folder of one of these layouts."""
    inside = [path / layout.file for layout in FOLDER_LAYOUTS.values()] if path.is_dir() else []
    return next((file for file in inside if file.is_file()), path)
