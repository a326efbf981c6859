"""LoRA files of every layout, read by B4M and by the loaders of those who make them: python b4m.py bench formats [FOLDER]

Writes FOLDER/formats.json and formats.md: for each layout the relative difference of what is added to the embedded model's weights. Rows by
LyCORIS need its package (and toml), which nothing else here needs: `pip install lycoris-lora toml`.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

from benchmarks import in_a_host

HEADS = ("weights", "against the maker's loader", "node against command line", "node against LoraLoader")
ABOUT = """Two values: a file of float32, of float16. `against the maker's loader`: what the command line adds against what the named
loader adds, norm of the difference over the norm of the loader's, over all weights of network and text encoders. `node against
LoraLoader`: what B4M Apply LoRA adds, at 1 and 1, against ComfyUI's LoraLoader; "reads n of m" where that leaves weights out.
"""
MAKERS = {
    "kohya, attention": "diffusers",
    "kohya, feed-forward and text encoders": "diffusers",
    "kohya, LoCon": "diffusers",
    "diffusers": "diffusers",
    "B-LoRA": "diffusers",
    "PEFT": "PEFT",
    "LyCORIS": "LyCORIS",
}
"""Whose own loader reads a layout: by its name, or by the first word of it."""
Row = dict[str, list[str]]


def measure(only: list[str]) -> dict[str, Row]:
    """Layout to what was found, one value a dtype."""
    import torch

    from . import loaders
    from .in_comfyui import Host
    from .layouts import WRITERS

    base, host, found = loaders.Base(in_a_host.REPOSITORY / "mini"), Host(), {}
    for name, write in WRITERS.items():
        if (only and name not in only) or ("LyCORIS" in name and importlib.util.find_spec("lycoris") is None):
            continue
        row: Row = {head: [] for head in HEADS}
        for dtype in (torch.float32, torch.float16):
            with tempfile.TemporaryDirectory() as folder:
                file = write(base.network.float() if "LyCORIS" in name else base.network, base.encoders, Path(folder), dtype)
                base.network.double()
                use_as = "both" if name in ("B-LoRA", "the paper's code") else "content"
                mine, node, loader = (
                    loaders.ours(base, file, use_as),
                    host.by_node(file, use_as),
                    host.by_lora_loader(file),
                )
                row[HEADS[0]] = [str(len(mine))]
                row[HEADS[1]].append(_against(base, name, file, mine))
                row[HEADS[2]].append(f"{loaders.relative(node, mine):.0e}")
                whole = len(loader) == len(mine)
                row[HEADS[3]].append(f"{loaders.relative(node, loader):.0e}" if whole else f"reads {len(loader)} of {len(mine)}")
        found[name] = row
        print(name, row, flush=True)
    return found


def _against(base: object, name: str, file: Path, mine: dict[str, object]) -> str:
    from . import loaders

    maker = MAKERS.get(name) or MAKERS.get(name.partition(",")[0])
    if maker is None:
        return "-"
    try:
        theirs = loaders.LOADERS[maker](base, file)  # type: ignore[arg-type]
    except Exception as error:
        return f"{maker} stops ({type(error).__name__})"
    return f"{maker} {loaders.relative(mine, theirs):.0e}" if theirs else f"{maker} reads none"  # type: ignore[arg-type]


def table(found: dict[str, Row], facts: dict[str, str]) -> str:
    """Markdown, one line a layout."""
    lines = [", ".join(f"{name} {version}" for name, version in facts.items()) + ", on the processor.", ""]
    lines += [f"| | {' | '.join(HEADS)} |", "|---" * (len(HEADS) + 1) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | {' | '.join(' / '.join(dict.fromkeys(row[head])) for head in HEADS)} |")
    return "\n".join(lines) + "\n"


def main(options: argparse.Namespace) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    in_a_host.start(options.comfyui)
    from importlib.metadata import PackageNotFoundError, version

    import comfyui_version

    facts = {"ComfyUI": comfyui_version.__version__}
    for package in ("torch", "diffusers", "peft", "lycoris-lora"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    found = measure(options.only or [])
    in_a_host.write(options.folder, "formats", facts, found, table(found, facts), ABOUT)


def parsed() -> argparse.Namespace:
    parser = in_a_host.parser("formats", __doc__)
    parser.add_argument("--only", nargs="+", metavar="LAYOUT", help="only these layouts")
    return in_a_host.parsed(parser)


if __name__ == "__main__":
    main(parsed())
