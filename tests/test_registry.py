"""What the registry asks of the pack: its metadata, its pictures, the weight of its archive, and what it imports at the start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from launcher import archive, registry_pictures

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FACTS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"diffusers", "transformers", "peft", "accelerate"}
ONLY_ON_THE_COMMAND_LINE = {"diffusers_folder.py", "diffusers_parts.py", "checkpoint_file.py"}


def test_the_metadata_are_what_the_registry_takes() -> None:
    project, comfy = FACTS["project"], FACTS["tool"]["comfy"]
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|[-_.](?=[a-z0-9])){0,98}", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file() and project["description"] and project["requires-python"]
    assert project["urls"]["Repository"].startswith("https://") and comfy["DisplayName"] and comfy["requires-comfyui"]
    asked = [each.split(";")[0] for each in project["dependencies"]]  # behind it stands for whom
    assert [each for each in asked if re.search(r"==|<|~=|^torch", each)] == []


@pytest.mark.parametrize("field", ["Icon", "Banner"])
def test_a_picture_of_the_registry_is_there_and_has_its_form(field: str) -> None:
    address = FACTS["tool"]["comfy"][field]
    file = ROOT / address.split("/main/", 1)[1]
    width, height = Image.open(file).size
    assert address.startswith("https://") and file.suffix == ".png"
    assert (width == height <= 400) if field == "Icon" else abs(width / height - 21 / 9) < 0.01
    built = {"Icon": registry_pictures.icon, "Banner": registry_pictures.banner}[field]()
    assert built.size == (width, height), "build it: python -m launcher.registry_pictures"


def test_the_archive_weighs_less_than_sixty_megabytes() -> None:
    try:
        names = archive.files()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only a git checkout knows its files")
    assert "nodes/__init__.py" in names and not any(name.startswith(("tests/", "docs/", "launcher/")) for name in names)
    assert archive.packed_bytes(names) < 60e6


def at_the_start(file: Path) -> set[str]:
    """The packages that importing a file imports at once: not in functions, not for types alone."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_nothing_heavy_is_imported_while_comfyui_starts() -> None:
    files = [file for folder in ("nodes", "b4m_core") for file in (ROOT / folder).rglob("*.py")]
    heavy = {file.name: found for file in files if (found := at_the_start(file) & HEAVY)}
    assert set(heavy) == ONLY_ON_THE_COMMAND_LINE
    for file in files:
        if file.name not in ONLY_ON_THE_COMMAND_LINE | {"__main__.py"}:
            heavy_files = "|".join(sorted(name.removesuffix(".py") for name in ONLY_ON_THE_COMMAND_LINE))
            assert not re.search(rf"^from \.*(b4m_core\.)?({heavy_files})\b", file.read_text(encoding="utf-8"), re.MULTILINE)
