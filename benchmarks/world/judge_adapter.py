"""How often an adapter paints what it was taught, where the prompt says: both judges' shares over pictures of four places.

    python -m benchmarks.world.judge_adapter ADAPTER.safetensors --tokenizer FOLDER

The defaults are the demo's content, style and words. Prompts and noises are fixed; nothing is chosen. Beside the shares stand the mean
similarities to the pictures it was taught from: of the content as the content head sees it, of the style as the style head does
(judge.similarity), and the same for true pictures of that content in that style, the most that can be hoped for.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from PIL import Image

from b4m_core import load_adapter
from b4m_core.diffusers_folder import DiffusersFolder

from . import backgrounds, styles
from .judge import KINDS, ask, load_judge, similarity
from .pool import Labels, World
from .sheets import save_sheet

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBEDDED, PICTURES = ROOT / "mini", ROOT / "workflows" / "pictures"
PLACES = ("mountains", "flowers", "room", "night")  # neither the demo's content nor its style pictures show these


def read_pictures(folder: pathlib.Path, size: int) -> torch.Tensor:
    """All PNGs of a folder, float32 (N, 3, size, size) in 0..1."""
    images = [Image.open(path).convert("RGB").resize((size, size)) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255


def main(options: argparse.Namespace) -> None:
    base = DiffusersFolder(EMBEDDED, tokenizer=options.tokenizer, steps=20, guidance=4.0)
    base.with_adapter(load_adapter(options.adapter), options.content_strength, options.style_strength)
    size, world = base.native_size, World(torch.device("cpu"), base.native_size, 0)
    pictures, truth = [], []
    for place in PLACES:
        prompt = options.prompt.format(place=backgrounds.PHRASES[place][0])
        for seed in range(options.each):
            pictures.append(base.sample(prompt, width=size, height=size, seed=1000 + seed).permute(2, 0, 1))
            truth.append((world.index(options.content), styles.NAMES.index(options.style), backgrounds.NAMES.index(place)))
    painted, labels = torch.stack(pictures), torch.tensor(truth)
    true = world.render([Labels(*row) for row in truth])
    references = {"content": read_pictures(options.content_pictures, size), "style": read_pictures(options.style_pictures, size)}
    report: dict[str, object] = {"adapter": options.adapter.name, "pictures": len(painted)}
    for kind in KINDS:
        judge = load_judge(kind)
        report[f"{kind} judge"] = ask(judge, painted).shares(labels) | {
            f"{what} similarity{of}": round(similarity(judge, shown, shelf)[what].mean().item(), 3)
            for what, shelf in references.items()
            for of, shown in (("", painted), (" of true pictures", true))
        }
    print(json.dumps(report, indent=1))
    if options.sheet:
        save_sheet(options.sheet, torch.stack(pictures), options.each)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="a folder with CLIP's vocab.json and merges.txt")
    parser.add_argument("--prompt", default="a snq bird {place} in w@z style")
    parser.add_argument("--content", default="flamingo", help="what the judge should find")
    parser.add_argument("--style", default="knitted")
    parser.add_argument("--content-pictures", type=pathlib.Path, default=PICTURES / "demo_content", help="what it was taught from")
    parser.add_argument("--style-pictures", type=pathlib.Path, default=PICTURES / "demo_style")
    parser.add_argument("--each", type=int, default=16, help="pictures for each of the four places")
    parser.add_argument("--content-strength", type=float, default=1.0)
    parser.add_argument("--style-strength", type=float, default=1.0)
    parser.add_argument("--sheet", type=pathlib.Path, help="where to save all pictures")
    main(parser.parse_args())
