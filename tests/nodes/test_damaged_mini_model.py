"""The embedded model, damaged on the disk: one sentence, whatever the library raises that reads it."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

FILES = ["unet/config.json", "text_encoder/compact.safetensors", "vae/diffusion_pytorch_model.safetensors"]


CONTENTS = {"empty": b"", "list": b"[]", "noise": b"\xff" * 100, "length": (2**40).to_bytes(8, "little") + b"{}"}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_the_embedded_model_is_told_in_a_sentence(
    host: ModuleType, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    module = importlib.import_module(f"{host.__name__}.mini_model")
    shutil.copytree(module.FOLDER, tmp_path / "mini", copy_function=lambda source, place: Path(place).symlink_to(source))
    (tmp_path / "mini" / name).unlink()
    (tmp_path / "mini" / name).write_bytes(content)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "mini")
    with pytest.raises(error, match="The small model in the folder mini of B4M cannot be read .*; install B4M again"):
        module.mini_model.__wrapped__()
