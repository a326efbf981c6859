"""Every precision that an SDXL comes in, through the pack's nodes: python b4m.py bench precision [FOLDER]

Writes FOLDER/precision.json and precision.md: for each way of storing what was done and the relative difference of the trained network's
output from the host's on the same input. The model is the embedded one, stored anew and loaded by the host's own loader nodes.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import in_a_host

LORA = " + LoRA"
HEADS = ("network", "weights alone", "train", "sample", "merge", "applied", "attached", "sheet")
ABOUT = """`network`: norm of the difference of the training network's output from the host's own on the same input, over the norm of the
host's. `weights alone`: the same with the host's layers told not to round their inputs. `sample`: the largest difference of a pixel
(0 to 1) between the training node's sample and KSampler behind B4M Apply LoRA. `applied`: as `network`, both with the merged adapter
patched in. `attached`: the training network with the adapter attached, as it learns, beside the host's with it patched in and stored anew.
"""
Readings = dict[str, dict[str, float | str]]


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
    in_a_host.start(options.comfyui)
    import comfyui_version
    import torch

    from .kinds import FILES, GGUF

    found = measure(options.only or [*FILES, *GGUF], options.gguf)
    facts = {"comfyui": comfyui_version.__version__, "torch": torch.__version__}
    in_a_host.write(options.folder, "precision", facts, found, table(found, facts), ABOUT)


def parsed() -> argparse.Namespace:
    parser = in_a_host.parser("precision", __doc__)
    parser.add_argument("--gguf", type=Path, help="the folder of city96's GGUF node pack; its package gguf must be installed")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="only these ways of storing")
    return in_a_host.parsed(parser)


if __name__ == "__main__":
    main(parsed())
