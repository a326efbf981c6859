"""How fast a training step is, and beside whom: python b4m.py bench speed [FOLDER]

Writes FOLDER/speed.json after every part, speed.md, speed.png, scaling.png and, on a card, kernels.txt. On a card the network has SDXL's
real size, on a processor that of the embedded model unless ``--real`` is given. Parts for which too few seconds are left are skipped and
named.
"""

import argparse
import dataclasses
import json
import logging
import os
import platform
import time
import traceback
from pathlib import Path

import torch

from .clock import tidy
from .network import EMBEDDED, SDXL, TINY, new_adapter, random_network
from .parts import PARTS, Bench, NotGiven
from .report import chart, scaling_chart, table


def main(options: argparse.Namespace) -> None:
    ends = time.monotonic() + options.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    real = options.real or cuda and not options.tiny
    dtype = torch.bfloat16 if cuda else torch.float32
    options.folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("b4m").setLevel(logging.ERROR)  # to try every way is no news here
    config, sizes, rank = (SDXL, (512, 1024), 64) if real else (TINY, (64, 128), 8) if options.tiny else (EMBEDDED, (128, 192), 16)
    unet = random_network(config, device, dtype)
    started = time.monotonic()
    bench = Bench(unet, new_adapter(unet, rank), device, dtype, tuple(options.sizes or sizes), 2.0 if cuda else 10.0, real, rank)
    bench.folders = {name: folder for name in ("comfyui", "published") if (folder := getattr(options, name))}
    bench.facts |= {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "real": real,
        "seconds to make an adapter": time.monotonic() - started,
        "skipped": {},
    }
    for name, (part, needs) in PARTS.items():
        if options.only and name not in options.only:
            continue
        left = ends - time.monotonic()
        if cuda and left < needs:
            bench.facts["skipped"][name] = f"{left:.0f} s were left"
            continue
        print(f"-- {name} ({left:.0f} s left)", flush=True)
        try:
            part(bench)
        except NotGiven as error:
            bench.facts["skipped"][name] = str(error)
        except Exception as error:  # a peer that is not installed or does not fit must not cost the others
            bench.facts["skipped"][name] = f"{type(error).__name__}: {error}"[:300]
            traceback.print_exc(limit=8)
        tidy()
        _write(bench, options.folder)
    print(table(bench.readings, bench.facts))
    for name, why in bench.facts["skipped"].items():
        print(f"skipped {name}: {why}")


def _write(bench: Bench, folder: Path) -> None:
    """All that is known so far."""
    kernels = {name: lines for name, lines in bench.facts.items() if name.startswith("kernels")}
    facts = {name: value for name, value in bench.facts.items() if name not in kernels}
    found = {"facts": facts, "readings": [dataclasses.asdict(reading) for reading in bench.readings]}
    (folder / "speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "speed.md").write_text(table(bench.readings, facts), encoding="utf-8")
    if bench.readings:
        chart(bench.readings, facts, folder / "speed.png")
    if facts.get("scaling"):
        scaling_chart(facts["scaling"], facts["device"], folder / "scaling.png")
    if kernels:
        text = "\n\n".join("\n".join([f"== {name}", *lines]) for name, lines in kernels.items())
        (folder / "kernels.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("b4m_speed"), help="where the results go (b4m_speed)")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--sizes", type=int, nargs="*", help="sides in pixels, smallest first")
    parser.add_argument("--real", action="store_true", help="SDXL's real size on a processor too")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to try the benchmark itself")
    parser.add_argument("--only", action="append", default=[], choices=list(PARTS), help="a part by name; may repeat")
    comfyui = os.environ.get("B4M_COMFYUI")
    parser.add_argument("--comfyui", type=Path, metavar="FOLDER", default=comfyui, help="ComfyUI's sources, for its TrainLoraNode")
    parser.add_argument("--published", type=Path, metavar="FOLDER", help="a checkout of the authors' program")
    main(parser.parse_args())
