"""Small adapter files to save, to damage and to forge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from torch import Tensor

from b4m_core import Adapter, B4MError, Concept, load_adapter, save_adapter
from b4m_core import container as container_module

CONCEPT = Concept("snq", "bear", ("a photo of a snq bear", "ein Bär im Schnee"))


FACTS: dict[str, Any] = {
    "base": "a" * 64, "base_name": "mini", "prediction": "epsilon", "content": CONCEPT, "steps": 12,
    "settings": {"resolution": 128, "seed": 3, "learning_rate": 1e-4}, "losses": ((1.0, 0.5, 0.25), (12.0, 0.125, 0.5)),
    "parents": ("x", "y"),
}  # fmt: skip


def saved(path: Path, **changes: Any) -> tuple[Adapter, bytes]:
    adapter = tiny.small_adapter(**{**FACTS, **changes})
    save_adapter(adapter, path / "bear.safetensors")
    return adapter, (path / "bear.safetensors").read_bytes()


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def assemble(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def forged(path: Path, tensors: dict[str, Tensor], text: str) -> Path:
    """A file with a right checksum over whatever a forger likes."""
    container_module.write_container(path, tensors, text)
    return path


def refused(path: Path, raw: bytes, words: str = r"broken\.safetensors") -> str:
    file = path / "broken.safetensors"
    file.write_bytes(raw)
    with pytest.raises(B4MError, match=words) as caught:
        load_adapter(file)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 600
    return sentence
