"""Eight contents and eight styles trained at a small rank, written as the adapters that come with the pack.

    mkdir FOLDER; cp benchmarks/quality/results/chosen.json FOLDER; python -m benchmarks.quality examples FOLDER

FOLDER gets content/*.safetensors and style/*.safetensors (what the pack has in adapters/), and, from these files, the table of all pairs
(example_sheet.py) as examples.webp and what the judges say of six prompts and four noises of every pair as examples.json.
"""

import dataclasses
import json
from pathlib import Path

from b4m_core import Adapter, save_adapter
from b4m_core.adapter import fresh_layer
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.metadata import Concept, Facts
from b4m_core.settings import TrainingSettings

from . import concepts
from .choose import OURS, at
from .example_sheet import EMBEDDED, factors_of_pairs, file_of, save_table
from .families import Adapters
from .methods import Apart, Contest
from .painting import shares
from .references import SIZE, content_set, style_set

RANK = 4
WORDS = {concepts.CONTENT_TRIGGER: "snq", concepts.STYLE_TRIGGER: "w@z"}  # what people write for those tokens
BASE_NAME = "the B4M mini model"  # what the nodes call it


def make_examples(contest: Contest, folder: Path, rate: float) -> None:
    """Train, write the files, and paint and judge all pairs with what the files say."""
    apart = at(dataclasses.replace(OURS, rank=RANK), rate)
    contest.prepare([apart])
    write_files(contest, apart, folder)
    factors = factors_of_pairs(folder, contest.split, contest.studio.learner)
    save_table(folder / "examples.webp", contest.studio, contest.split, factors)
    judged = contest.judged(contest.pictures(factors))
    report: dict[str, object] = {judge: shares(right) for judge, right in judged.items()}
    print("examples", json.dumps(report), flush=True)
    for judge, right in judged.items():
        by_pair = right.float().prod(-1).mean(1).view(len(contest.split.contents), -1)
        report[f"{judge}: all three by pair"] = [[round(share, 3) for share in row] for row in by_pair.tolist()]
    report |= {"rate": rate, "rank": RANK, "contents": contest.split.contents, "styles": contest.split.styles}
    (folder / "examples.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def write_files(contest: Contest, apart: Apart, folder: Path) -> None:
    """One file for every finished training of the contest's first seed: free, and alone, so an ordinary LoRA of what was learned."""
    steps = apart.steps if contest.most_steps is None else min(apart.steps, contest.most_steps)
    settings = TrainingSettings(
        steps=steps,
        rank=apart.rank,
        learning_rate=apart.content_rate,
        batch_size=apart.rows[0],
        gradient_accumulation_steps=1,
        resolution=SIZE,
        seed=contest.seeds[0],
        split="free",
        correspondence="output_preservation",
        file_dtype="float16",
    )
    common = Facts(
        role="content",
        rank=apart.rank,
        base=DiffusersFolder(EMBEDDED).network_fingerprint,
        base_name=BASE_NAME,
        prediction="epsilon",
        steps=steps,
        settings=settings.as_dict(),
        file_dtype=settings.file_dtype,
        split=settings.split,
    )
    names, studio = contest.studio.learner.names, contest.studio
    for number, name in enumerate(contest.split.contents):
        concept = Concept("snq", concepts.class_word(name), _readable(content_set(studio, name)[1]))
        adapter = adapter_of(contest.done[apart, "content"], names, number, dataclasses.replace(common, content=concept))
        save_adapter(adapter, file_of(folder, "content", name))
    for number, name in enumerate(contest.split.styles):
        facts = dataclasses.replace(common, role="style", style=Concept("w@z", "", _readable(style_set(studio, name)[1])))
        save_adapter(adapter_of(contest.done[apart, "style"], names, number, facts), file_of(folder, "style", name))


def adapter_of(adapters: Adapters, names: list[list[str]], number: int, facts: Facts) -> Adapter:
    """Training ``number`` of the contest's free family as the product's adapter: the same start, the same product, other letters."""
    layers = {}
    for stack, paths in zip(adapters.learned, names, strict=True):
        for place, path in enumerate(paths):
            up, down = (stack[f"{facts.role}_{factor}"][place, number].detach().float().cpu() for factor in ("up", "down"))
            layers[path] = fresh_layer(facts, path, len(up), down.shape[1])
            layers[path].load_lora_factors(up, down, facts.role)
    return Adapter(layers, facts)


def _readable(captions: list[str]) -> tuple[str, ...]:
    """The captions with words for the triggers' tokens."""
    for tokens, word in WORDS.items():
        captions = [caption.replace(tokens, word) for caption in captions]
    return tuple(captions)
