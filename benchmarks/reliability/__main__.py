"""What ordinary accidents and hostile files cost: python b4m.py bench reliability [FOLDER] [--quick]

Every module here with `rows(quick)` gives lines of one table: what was tried how often, how much was lost (work, files, the program, a raw
error), the worst that was seen, and what a peer did in the same trial. Writes FOLDER/reliability.json and reliability.md after each part.
"""

import argparse
import importlib
import json
import logging
import os
import pkgutil
import platform
import time
from dataclasses import asdict
from pathlib import Path

from . import __path__ as places
from .row import Row, table


def parts() -> dict[str, object]:
    """The modules that give lines, by name."""
    names = [info.name for info in pkgutil.iter_modules(places) if not info.name.startswith(("_", "test_"))]
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "rows")}


def main(options: argparse.Namespace) -> None:
    logging.disable(logging.WARNING)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.comfyui is not None:
        os.environ["B4M_COMFYUI"] = str(options.comfyui)
    found: list[Row] = []
    seconds: dict[str, float] = {}
    for name, module in parts().items():
        if options.only and name not in options.only:
            continue
        print(f"-- {name}", flush=True)
        began = time.monotonic()
        found += [row if isinstance(row, Row) else Row(*row) for row in module.rows(options.quick)]  # type: ignore[attr-defined]
        seconds[name] = round(time.monotonic() - began)
        facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "python": platform.python_version(), "seconds": seconds}
        readings = {"facts": facts, "rows": [asdict(row) for row in found]}
        (options.folder / "reliability.json").write_text(json.dumps(readings, indent=1) + "\n", encoding="utf-8")
        (options.folder / "reliability.md").write_text(table(found), encoding="utf-8")
    print(table(found))


def parsed() -> argparse.Namespace:
    brought = os.environ.get("B4M_TOKENIZER")
    parser = argparse.ArgumentParser(
        prog="b4m.py bench reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("b4m_reliability"), help="where the results go (b4m_reliability)")
    parser.add_argument("--quick", action="store_true", help="a few of each, in minutes")
    parser.add_argument("--only", nargs="+", metavar="PART", help=f"only these of {', '.join(sorted(parts()))}")
    host = brought and Path(brought).parents[1]
    parser.add_argument("--comfyui", type=Path, default=host, help="the ComfyUI that servers are started from")
    return parser.parse_args()


if __name__ == "__main__":
    main(parsed())
