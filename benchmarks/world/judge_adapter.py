"""How often an adapter paints what it was taught, where the prompt says: the first judge's shares over pictures of four places.

    python -m benchmarks.world.judge_adapter ADAPTER.safetensors --tokenizer FOLDER

The defaults are the demo's content, style and words. Prompts and noises are fixed; nothing is chosen.
"""

import argparse
import json
import pathlib

import torch

from b4m_core import load_adapter
from b4m_core.diffusers_folder import DiffusersFolder

from . import backgrounds, styles
from .judge import ask, load_judge
from .pool import World
from .sheets import save_sheet

EMBEDDED = pathlib.Path(__file__).resolve().parents[2] / "mini"
PLACES = ("mountains", "flowers", "room", "night")  # neither the demo's content nor its style pictures show these


def main(options: argparse.Namespace) -> None:
    base = DiffusersFolder(EMBEDDED, tokenizer=options.tokenizer, steps=20, guidance=4.0)
    base.with_adapter(load_adapter(options.adapter), options.content_strength, options.style_strength)
    size, world = base.native_size, World(torch.device("cpu"), base.native_size, 0)
    pictures, truth = [], []
    for place in PLACES:
        prompt = options.prompt.format(place=backgrounds.PHRASES[place][0])
        for seed in range(options.each):
            pictures.append(base.paint(prompt, width=size, height=size, seed=1000 + seed).permute(2, 0, 1))
            truth.append((world.index(options.content), styles.NAMES.index(options.style), backgrounds.NAMES.index(place)))
    shares = ask(load_judge("first"), torch.stack(pictures)).shares(torch.tensor(truth))
    print(json.dumps({"adapter": options.adapter.name, "pictures": len(pictures), **shares}, indent=1))
    if options.sheet:
        save_sheet(options.sheet, torch.stack(pictures), options.each)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="a folder with CLIP's vocab.json and merges.txt")
    parser.add_argument("--prompt", default="a snq bird {place} in w@z style")
    parser.add_argument("--content", default="penguin", help="what the judge should find")
    parser.add_argument("--style", default="blueprint")
    parser.add_argument("--each", type=int, default=16, help="pictures for each of the four places")
    parser.add_argument("--content-strength", type=float, default=1.0)
    parser.add_argument("--style-strength", type=float, default=1.0)
    parser.add_argument("--sheet", type=pathlib.Path, help="where to save all pictures")
    main(parser.parse_args())
