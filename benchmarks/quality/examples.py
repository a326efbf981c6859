"""The eight contents and eight styles that come with the pack: trained by the pack itself, painted, judged.

    python -m benchmarks.quality.examples FOLDER --cpu 2
    python -m benchmarks.quality.examples ADAPTERS --judge

FOLDER gets content/*.safetensors and style/*.safetensors (what the pack has in adapters/), the table of all pairs as examples.webp,
and as examples.json what the judges say of two prompts of every pair, one noise each. What is done already is not done again.
``--judge`` paints the same pictures with the files of ADAPTERS, such as an older version's, and says the same of them.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from b4m_core import load_adapter, load_model, merge, paint, save_adapter
from b4m_core.commandline import main as command
from b4m_core.painting import as_image
from b4m_core.studio import library
from benchmarks.studio.sets import plan_of
from benchmarks.world.judge import load_judge

from . import concepts
from .example_sheet import EMBEDDED, EXAMPLES, file_of, save_table
from .painting import marks, questions, shares
from .references import Studio, phrase

SETTINGS = {"rank": 4, "layers": "attention_and_convolutions", "textual_inversion": True}
BASE_NAME = "the B4M mini model"  # what the nodes call it
NOISE = 11
PROMPTS = concepts.PROMPTS[:2]  # mountains and flowers, which no reference picture shows
ROLES = (("content", EXAMPLES.contents), ("style", EXAMPLES.styles))
PAIRS = [(content, style) for content in EXAMPLES.contents for style in EXAMPLES.styles]


def make(folder: Path, where: list[str]) -> None:
    """Train and paint by a plan, write the files, draw the table and judge."""
    plan = plan_of(
        folder / "sets", EXAMPLES.contents, EXAMPLES.styles, preset="thorough", store=folder / "store", output=folder / "library",
        settings=SETTINGS, prompts=[_prompt(*each) for each in PROMPTS], seeds=[NOISE],
    )  # fmt: skip
    if command(["studio", str(plan), *where]):
        raise SystemExit("Not all of the plan was done: start it again.")
    for role, names in ROLES:
        for name in names:
            adapter = load_adapter(library.path_of(folder / "library", role, name))
            save_adapter(adapter.with_facts(base_name=BASE_NAME).shown_by(""), file_of(folder, role, name))
    studio = Studio(EMBEDDED, torch.device("cpu"))
    painted = [[_painted(folder, *pair, number) for number in range(1, len(PROMPTS) + 1)] for pair in PAIRS]
    save_table(folder / "examples.webp", studio, EXAMPLES, (pictures[0] for pictures in painted))
    report = _judged(studio, torch.stack([torch.stack([_tensor(one) for one in pictures]) for pictures in painted]))
    (folder / "examples.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _print(report)


def judge(adapters: Path) -> None:
    """Paint the same pictures with the files of a folder, and say what the judges say of them."""
    base, pictures = load_model(EMBEDDED, device="cpu"), []
    for content, style in PAIRS:
        both = merge(load_adapter(file_of(adapters, "content", content)), load_adapter(file_of(adapters, "style", style)))
        each = [as_image(paint(base, _prompt(*prompt), both, seed=NOISE)) for prompt in PROMPTS]
        pictures.append(torch.stack([_tensor(picture) for picture in each]))
    _print(_judged(Studio(EMBEDDED, torch.device("cpu")), torch.stack(pictures)))


def _print(report: Mapping[str, Any]) -> None:
    print({name: round(report[name]["all three"], 3) for name in ("first", "second")})


def _prompt(place: str, wording: str) -> str:
    """A prompt of the contest as a plan has it, whose {style} says *style* itself."""
    return wording.replace("{style} style", "{style}").format(thing="a {content}", place=phrase(place), style="{style}").replace(" ,", ",")


def _painted(folder: Path, content: str, style: str, number: int) -> Image.Image:
    return Image.open(folder / "library" / "pairs" / content / f"{style}_{number}_{NOISE}.png").convert("RGB")


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)  # (3, S, S) uint8


def _judged(studio: Studio, pictures: Tensor) -> dict[str, Any]:
    """What both judges say of pictures (pairs, prompts, 3, S, S)."""
    concepts.NOISES, concepts.PROMPTS = (NOISE,), PROMPTS
    asked = [questions(studio, *pair) for pair in PAIRS]
    report: dict[str, Any] = {"settings": SETTINGS, "contents": EXAMPLES.contents, "styles": EXAMPLES.styles}
    for name in ("first", "second"):
        right = marks(load_judge(name), pictures, asked)
        by_pair = right.float().prod(-1).mean(1).view(len(EXAMPLES.contents), -1)
        report[name] = shares(right)
        report[f"{name}: all three by pair"] = [[round(share, 3) for share in row] for row in by_pair.tolist()]
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", help="as of studio: so many workers")
    parser.add_argument("--cards", help="as of studio, such as 0,1")
    parser.add_argument("--judge", action="store_true", help="train nothing: the folder has the adapters")
    chosen = vars(parser.parse_args())
    if chosen["judge"]:
        judge(chosen["folder"].resolve())
        sys.exit()
    where = [word for name in ("cpu", "cards") if chosen[name] for word in (f"--{name}", chosen[name])]
    make(chosen["folder"].resolve(), where)
