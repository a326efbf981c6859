"""The eight contents and eight styles that come with the pack: trained by the pack itself, painted, judged.

    python -m benchmarks.quality.examples FOLDER --cpu 2

FOLDER gets content/*.safetensors and style/*.safetensors (what the pack has in adapters/), the table of all pairs as examples.webp,
and as examples.json what the judges say of two prompts of every pair, one noise each. What is done already is not done again.
"""

import argparse
import json
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from b4m_core import load_adapter, save_adapter
from b4m_core.commandline import main as command
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
    pairs = [(content, style) for content in EXAMPLES.contents for style in EXAMPLES.styles]
    painted = [[_painted(folder, *pair, number) for number in range(1, len(PROMPTS) + 1)] for pair in pairs]
    save_table(folder / "examples.webp", studio, EXAMPLES, (pictures[0] for pictures in painted))
    report = _judged(studio, pairs, torch.stack([torch.stack([_tensor(one) for one in pictures]) for pictures in painted]))
    (folder / "examples.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print({judge: round(report[judge]["all three"], 3) for judge in ("first", "second")})


def _prompt(place: str, wording: str) -> str:
    """A prompt of the contest as a plan has it, whose {style} says *style* itself."""
    return wording.replace("{style} style", "{style}").format(thing="a {content}", place=phrase(place), style="{style}").replace(" ,", ",")


def _painted(folder: Path, content: str, style: str, number: int) -> Image.Image:
    return Image.open(folder / "library" / "pairs" / content / f"{style}_{number}_{NOISE}.png").convert("RGB")


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)  # (3, S, S) uint8


def _judged(studio: Studio, pairs: list[tuple[str, str]], pictures: Tensor) -> dict[str, object]:
    """What both judges say of pictures (pairs, prompts, 3, S, S)."""
    concepts.NOISES, concepts.PROMPTS = (NOISE,), PROMPTS
    asked = [questions(studio, *pair) for pair in pairs]
    report: dict[str, object] = {"settings": SETTINGS, "contents": EXAMPLES.contents, "styles": EXAMPLES.styles}
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
    chosen = vars(parser.parse_args())
    where = [word for name in ("cpu", "cards") if chosen[name] for word in (f"--{name}", chosen[name])]
    make(chosen["folder"].resolve(), where)
