"""Every precision that an SDXL comes in, through the pack's nodes: python b4m.py bench precision [FOLDER]

Writes FOLDER/precision.json and precision.md: for each way of storing what was done and the relative difference of the trained network's
output from the host's on the same input. The model is the embedded one, stored anew and loaded by the host's own loader nodes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LORA = " + LoRA"
HEADS = ("network", "weights alone", "train", "sample", "merge", "applied", "attached", "sheet")
ABOUT = """`network`: norm of the difference of the training network's output from the host's own on the same input, over the norm of the
host's. `weights alone`: the same with the host's layers told not to round their inputs. `sample`: the largest difference of a pixel
(0 to 1) between the training node's sample and KSampler behind B4M Apply LoRA. `applied`: as `network`, both with the merged adapter
patched in. `attached`: the training network with the adapter attached, as it learns, beside the host's with it patched in and stored anew.
"""
Readings = dict[str, dict[str, float | str]]


def start_host(folder: Path) -> None:
    """Make the host of `folder` and the pack importable, in a temporary base folder, exactly as the tests do."""
    os.environ["B4M_COMFYUI"] = str(folder)
    sys.path.append(str(REPOSITORY / "tests" / "nodes"))
    importlib.import_module("conftest")


def measure(kinds: list[str], gguf: Path | None) -> Readings:
    """Kind, with " + LoRA" behind one upstream, to what was found."""
    from . import actions, loading
    from . import kinds as made

    host = importlib.import_module("b4m_pack.nodes.host")
    pack, (mini, clip, vae) = actions.load_pack(), host.mini_model()
    loading.let_the_host_recognise(mini)
    if gguf is not None:
        loading.load_gguf_pack(gguf)
    weights = loading.weights_of(mini)
    found: Readings = {}
    for kind in kinds:
        if kind in made.GGUF and gguf is None:
            continue
        for name in (kind, kind + LORA):
            row = found.setdefault(name, {})
            try:
                model = loading.load(loading.write(kind, weights), made.LOADED_AS.get(kind, "default"))
            except Exception as error:
                row["host"] = f"cannot load it ({type(error).__name__})"
                continue
            try:
                actions.readings(actions.Trio(pack, actions.with_lora(model) if name != kind else model, clip, vae), row.__setitem__)
            except Exception as error:
                row["stopped"] = f"{type(error).__name__}: {error}"
            print(name, row, flush=True)
    return found


def table(found: Readings, facts: Mapping[str, Any]) -> str:
    """Markdown, one line for each way of storing: what was found without a LoRA upstream, and with one where that is something else."""
    lines = [
        f"ComfyUI {facts['comfyui']}, torch {facts['torch']}, on the processor.",
        "",
        f"| | {' | '.join(HEADS)} |",
        "|---" * (len(HEADS) + 1) + "|",
    ]
    for name, row in found.items():
        if not name.endswith(LORA):
            behind = found.get(name + LORA, {})
            cells = [" / ".join(dict.fromkeys(_cell(one, head) for one in (row, behind) if one)) for head in HEADS]
            lines.append(f"| {name} | {row.get('host') or row.get('stopped') or ' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, float | str], head: str) -> str:
    value = row.get(head, "not run")
    return f"{value:.0e}" if isinstance(value, float) else value


def main(options: argparse.Namespace) -> None:
    logging.disable(logging.WARNING)
    start_host(options.comfyui)
    import comfyui_version
    import torch

    from .kinds import FILES, GGUF

    found = measure(options.only or [*FILES, *GGUF], options.gguf)
    facts = {"comfyui": comfyui_version.__version__, "torch": torch.__version__}
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "precision.json").write_text(json.dumps({"facts": facts, "readings": found}, indent=1) + "\n", encoding="utf-8")
    text = table(found, facts)
    (options.folder / "precision.md").write_text(f"{text}\n{ABOUT}", encoding="utf-8")
    print(text)


def parsed() -> argparse.Namespace:
    brought = os.environ.get("B4M_TOKENIZER")
    parser = argparse.ArgumentParser(
        prog="b4m.py bench precision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("b4m_precision"), help="where the results go (b4m_precision)")
    parser.add_argument("--comfyui", type=Path, default=brought and Path(brought).parents[1], help="another ComfyUI, whose Python this is")
    parser.add_argument("--gguf", type=Path, help="the folder of city96's GGUF node pack; its package gguf must be installed")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="only these ways of storing")
    options = parser.parse_args()
    if options.comfyui is None:
        parser.error("say where a ComfyUI is: --comfyui PATH")
    return options


if __name__ == "__main__":
    main(parsed())
