"""What benchmarks on the host's own code share: the host in this process, the options that name it, the files that they leave."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def start(folder: Path) -> None:
    """Make the host of `folder` and the pack importable, in a temporary base folder, exactly as the tests do."""
    os.environ["B4M_COMFYUI"] = str(folder)
    sys.path.append(str(REPOSITORY / "tests" / "nodes"))
    importlib.import_module("conftest")


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """The options of `b4m.py bench NAME`: where the results go, and which ComfyUI it is about."""
    brought = os.environ.get("B4M_TOKENIZER")
    options = argparse.ArgumentParser(
        prog=f"b4m.py bench {name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(f"b4m_{name}")
    options.add_argument("folder", nargs="?", type=Path, default=default, help=f"where the results go ({default})")
    options.add_argument(
        "--comfyui", type=Path, default=brought and Path(brought).parents[1], help="another ComfyUI, whose Python this is"
    )
    return options


def parsed(options: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for; ends with a sentence where no ComfyUI is known."""
    chosen = options.parse_args()
    if chosen.comfyui is None:
        options.error("say where a ComfyUI is: --comfyui PATH")
    return chosen


def write(folder: Path, name: str, facts: Mapping[str, Any], readings: Mapping[str, Any], table: str, about: str) -> None:
    """Write `NAME.json` (facts and readings) and `NAME.md` (the table and what its columns are) into `folder`; print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"facts": facts, "readings": readings}, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(f"{table}\n{about}", encoding="utf-8")
    print(table)
