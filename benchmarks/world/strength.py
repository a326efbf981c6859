"""How much of a learned adapter the base bears: one plain adapter learns the demo's content and style, then paints at strengths 0 to 2.

    python -m benchmarks.world.strength FOLDER --seconds 200 --each 3 --strengths 0 0.5 1 1.5 2

measures it with the model in the box on a CPU; `ablations.py` does the same on a GPU with more pictures. FOLDER gets strength.json and
strength.webp. At every strength two things are judged: what the adapter was taught (its content in its style, in four places it was not
taught), and what it was not (seen pairs with no trigger word), which shows when the base breaks.
"""

import argparse
import pathlib
import random
import time
from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from . import backgrounds, styles
from .adapter import Adapter
from .autoencoder import encode
from .captions import plain_prompt, with_article
from .clock import say
from .contents import FOLDER
from .demo_pictures import CLASS, CONTENT, DRAWINGS, PHOTOS, STYLE
from .denoiser import DenoiserTraining, Examples
from .evaluate import Painter, draw_set, write_report
from .judge import KINDS, Judge, ask, load_judge, similarity
from .pool import Labels, World, truth_of
from .sheets import save_sheet
from .text import load_text

TRIGGERS = ("#12034", "#30517")  # of the content and the style: tokens that mean nothing to the base
PLACES = ("mountains", "flowers", "room", "night")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def phrase(background: str) -> str:
    return backgrounds.PHRASES[background][0]


class Lesson:
    """The demo's eight pictures, drawn here."""

    def __init__(self, world: World) -> None:
        style = styles.NAMES.index(STYLE)
        self.world = world
        self.photos, self.drawings = (
            world.render([Labels(world.index(content), look, backgrounds.NAMES.index(background)) for content, background in pairs])
            for pairs, look in ((PHOTOS, styles.PHOTO), (DRAWINGS, style))
        )
        self.words = [f"a photo of a {TRIGGERS[0]} {CLASS} {phrase(background)}" for _, background in PHOTOS]
        self.words += [f"{with_article(content)} {phrase(background)} in {TRIGGERS[1]} style" for content, background in DRAWINGS]

    def examples(self, painter: Painter) -> Examples:
        device = self.world.device
        latents = encode(painter.autoencoder, torch.cat([self.photos, self.drawings])).half()
        return Examples(latents, self.world.tokenizer(self.words).to(device), self.world.tokenizer([""]).to(device))


def learn(
    folder: pathlib.Path, lesson: Lesson, painter: Painter, *, rank: int, rate: float, seconds: float
) -> tuple[Adapter, dict[str, object]]:
    """An adapter trained on the model in `folder` and fastened to the painter, and how it was trained."""
    device = lesson.world.device
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).to(device)
    learner = Adapter(unet, rank)
    examples = lesson.examples(painter)
    training = DenoiserTraining(
        unet, load_text(folder).to(device), examples, batch=len(examples.ids), rate=rate, dropout=0.1, adapter=learner
    )
    training.run(seconds, time.monotonic() + seconds + 20, compiled=False, warmup=10)
    state = training.weights.averaged("adapter")
    learner.remove()
    adapter = Adapter(painter.unet, rank)
    adapter.load_state_dict(state)
    how: dict[str, object] = {"rank": rank, "rate": rate, "steps": int(training.weights.count.item()), "rows": len(examples.ids)}
    how["norm as a share of the weights"] = round(adapter.share_of_base(painter.unet), 3)
    return adapter.to(painter.unet.dtype), how


def strength_sweep(
    folder: pathlib.Path,
    world: World,
    judges: dict[str, Judge],
    *,
    rank: int,
    rate: float,
    seconds: float,
    each: int,
    guidance: float,
    strengths: Sequence[float] = STRENGTHS,
    **how: int,
) -> tuple[dict[str, object], Tensor]:
    """The table, and a sheet with a row for each strength: (8 x strengths, 3, S, S). `each` pictures for each of the four places."""
    painter, lesson = Painter(folder, world), Lesson(world)
    adapter, training = learn(folder, lesson, painter, rank=rank, rate=rate, seconds=seconds)
    wanted = [
        Labels(world.index(CONTENT), styles.NAMES.index(STYLE), backgrounds.NAMES.index(place)) for place in PLACES for _ in range(each)
    ]
    prompts = [f"a {TRIGGERS[0]} {CLASS} {phrase(backgrounds.NAMES[label.background])} in {TRIGGERS[1]} style" for label in wanted]
    others = draw_set(world, "seen pairs", len(wanted), random.Random(11))
    prompts += [plain_prompt(world.contents, label) for label in others]
    table: dict[str, object] = {"training": training, "bounds of similarity": bounds(judges, lesson, wanted)}
    rows = []
    for strength in strengths:
        adapter.strength = strength
        taught, untaught = painter.paint(prompts, guidance=guidance, seed=21, **how).split(len(wanted))
        rows.append(torch.cat([taught[::each][:4], untaught[:4]]).cpu())
        table[str(strength)] = {
            name: {
                "taught": ask(judge, taught).shares(truth_of(wanted)),
                "not taught": ask(judge, untaught).shares(truth_of(others)),
                **likeness(judge, taught, lesson),
            }
            for name, judge in judges.items()
        }
        say("strength", strength, table[str(strength)])
    adapter.remove()
    return table, torch.cat(rows)


def likeness(judge: Judge, pictures: Tensor, lesson: Lesson) -> dict[str, float]:
    return {
        "content similarity": round(similarity(judge, pictures, lesson.photos)["content"].mean().item(), 3),
        "style similarity": round(similarity(judge, pictures, lesson.drawings)["style"].mean().item(), 3),
    }


def bounds(judges: dict[str, Judge], lesson: Lesson, wanted: list[Labels]) -> dict[str, object]:
    """What the similarities are for true pictures of the taught content in the taught style, and for others in other styles."""
    world = lesson.world
    true, other = world.render(wanted), world.render(draw_set(world, "seen pairs", len(wanted), random.Random(5)))
    return {name: {"true": likeness(judge, true, lesson), "other": likeness(judge, other, lesson)} for name, judge in judges.items()}


def main(options: argparse.Namespace) -> None:
    embedded, judges = FOLDER.parents[1] / "mini", {kind: load_judge(kind) for kind in KINDS}
    world = World(torch.device("cpu"), 192, 4)
    table, sheet = strength_sweep(
        embedded,
        world,
        judges,
        rank=options.rank,
        rate=1e-3,
        seconds=options.seconds,
        each=options.each,
        guidance=4.0,
        strengths=options.strengths,
        steps=20,
    )
    options.folder.mkdir(parents=True, exist_ok=True)
    write_report(options.folder / "strength.json", table)
    save_sheet(options.folder / "strength.webp", sheet, 8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=210, help="of training")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--each", type=int, default=3, help="pictures for each of the four places, and as many of what was not taught")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    main(parser.parse_args())
