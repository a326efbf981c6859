"""Eight contents and eight styles for the pack's examples, trained at a small rank, and all sixty-four pairs painted."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.world.sheets import save_sheet

from . import concepts
from .choose import OURS, at
from .concepts import Split
from .methods import Contest
from .painting import marks, paint, questions, shares

CONTENTS = ("penguin", "fox", "flamingo", "teddy bear", "rocket", "tractor", "doughnut", "guitar")
LOOKS = ("blueprint", "stained glass", "woodcut", "knitted", "crayon", "lego", "thermal", "patchwork")
RANK = 4


def make_examples(contest: Contest, folder: Path, rate: float) -> None:
    """FOLDER gets examples.safetensors (fp16 tensors by role, concept, tensor and layer), examples.webp and examples.json."""
    apart = at(dataclasses.replace(OURS, rank=RANK), rate)
    adapters = contest.merge(apart)
    tensors = {}
    for role, names in (("content", contest.split.contents), ("style", contest.split.styles)):
        done = contest.done[apart, role]
        for stack, layers in zip(done.learned, contest.studio.learner.names, strict=True):
            for place, layer in enumerate(layers):
                for which, name in enumerate(names):
                    for kind in ("down", "up"):
                        tensors[f"{role}|{name}|{layer}|{kind}"] = stack[f"{role}_{kind}"][place, which].half().cpu().contiguous()
    save_file(tensors, folder / "examples.safetensors")
    keep, concepts.PROMPTS = concepts.PROMPTS, concepts.PROMPTS[:1]
    asked = [questions(contest.studio, contest.split.contents[c], contest.split.styles[s]) for c, s in contest.split.pairs]
    concepts.PROMPTS = keep
    pictures = paint(contest.studio, adapters.factors(frozenset(), contest.studio.painter.dtype), asked)
    save_sheet(folder / "examples.webp", pictures[:, 0].float() / 255, len(LOOKS))
    found = {judge: shares(marks(each, pictures, asked)) for judge, each in contest.judges.items()}
    by_pair = marks(contest.judges["second"], pictures, asked).float().prod(-1).mean(1).view(len(CONTENTS), len(LOOKS))
    report = {"rate": rate, "rank": RANK, "shares": found, "all three by pair": by_pair.tolist(), "contents": CONTENTS, "styles": LOOKS}
    (folder / "examples.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("examples", json.dumps(found), flush=True)


EXAMPLES = Split(CONTENTS, LOOKS)
