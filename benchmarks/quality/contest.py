"""Runs rows of the contest and keeps what the judges said: one file for each row, so that a run that stops goes on where it was."""

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.world import backgrounds, styles
from benchmarks.world.autoencoder import decode
from benchmarks.world.captions import with_article
from benchmarks.world.judge import ask
from benchmarks.world.sheets import save_sheet

from . import concepts
from .families import Adapters
from .grouped import Factors
from .methods import Contest
from .painting import NOTHING, Question, marks, paint, shares
from .references import phrase
from .rows import Row, Worn

FRONTIER = ((0.6, 1.2), (0.8, 1.1), (0.9, 1.1), (1.0, 1.0), (1.1, 1.0), (1.1, 0.8), (1.2, 0.6))
EXAMINED = (
    "sum of LoRAs, half the rows",
    "sum of LoRAs",
    "ours: B4M, free, kept",
    "ours + joint, Riemannian",
    "ours + joint, Riemannian, kept",
    "one LoRA on both, rank 32",
    "sum + joint, AdamW (the control)",
    "ours",
    "ours, fitted",
    "two LoRAs, kept",
    "NP-LoRA, kept",
    "ours + joint",
    "ours, fitted + joint",
    "two LoRAs, kept + joint",
    "one LoRA on both, rank 32, kept",
    "ours, words, convolutions and mirror",
)


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


class Running:
    """The held-out half of the contest, row by row, into FOLDER/rows."""

    def __init__(
        self, contest: Contest, folder: Path, table: Mapping[str, Row], seconds: float, examined: Sequence[str] | None = None
    ) -> None:
        """``examined``: the rows that are asked for leaks and drift, and swept along the strengths; None: EXAMINED."""
        self.contest, self.folder, self.started = contest, folder / "rows", time.monotonic()
        self.stop, self.table = self.started + seconds, table
        self.examined = EXAMINED if examined is None else examined
        self.folder.mkdir(parents=True, exist_ok=True)
        autoencoder = contest.studio.autoencoder
        self.references = [
            [_small((decode(autoencoder, latents) * 255).cpu()) for latents in table.latents]
            for table in (contest.contents, contest.styles)
        ]

    def run(self, names: Sequence[str]) -> None:
        for name in names or self.table:
            file = self.folder / f"{slug(name)}.safetensors"
            if file.exists() or time.monotonic() > self.stop:
                print("left out:" if not file.exists() else "there:", name, flush=True)
                continue
            try:
                self._row(name, self.table[name], file)
            except Exception:  # noqa: BLE001  one row that fails must not cost the others
                traceback.print_exc()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _row(self, name: str, row: Row, file: Path) -> None:
        began = time.monotonic()
        worn = row.make()
        made = time.monotonic()
        pictures = worn if isinstance(worn, Tensor) else self.contest.pictures(worn)
        judged = self.contest.judged(pictures)
        about = {
            "name": name,
            "league": row.league,
            "seconds to make": made - began,
            "seconds to paint": time.monotonic() - made,
            "numbers for a pair": _numbers(worn),
            "likeness to a reference": self._likeness(pictures),
        }
        if name in self.examined and isinstance(worn, Adapters):
            about["detectors"] = self._detectors(worn)
            about["frontier"] = self._frontier(worn)
        tensors = {judge: right.byte() for judge, right in judged.items()}
        save_file(tensors, file, {"about": json.dumps(about)})
        first_of_each = pictures.unflatten(1, (len(concepts.PROMPTS), -1))[: len(self.contest.split.pairs), 0, 0]
        save_sheet(file.with_suffix(".webp"), first_of_each.float() / 255, len(self.contest.split.styles))
        said = "  ".join(f"{judge} " + " ".join(f"{value:.3f}" for value in shares(right).values()) for judge, right in judged.items())
        print(f"{time.monotonic() - self.started:6.1f} s  {name:36s} {said}", flush=True)

    def _likeness(self, pictures: Tensor) -> float:
        """The mean, over pictures, of the largest correlation with one of the pair's references, at 24 x 24 and in grey."""
        found = []
        for group, (_, content, style) in zip(pictures, self.contest.pairs, strict=True):
            references = torch.cat([self.references[0][content], self.references[1][style]])
            found.append((_small(group) @ references.T).amax(1).mean())
        return float(torch.stack(found).mean())

    def _detectors(self, worn: Adapters) -> dict[str, float]:
        """Leaks and drift on the pairs of the first training seed, by the second judge."""
        contest, split = self.contest, self.contest.split
        looked_at = self._looked_at()
        pairs = [contest.pairs[pair][1:] for pair in looked_at]
        adapters = worn.take(looked_at)
        judge = contest.judges["second"]
        world = contest.studio.world
        house = world.index("house")
        places = [place for place, _ in concepts.PROMPTS[:4]]

        def asked(prompt: str, content: int, style: int) -> list[list[Question]]:
            return [
                [
                    Question(
                        prompt.format(
                            thing=concepts.subject(split.contents[c]), place=phrase(place), style=concepts.STYLE_TRIGGER, other=other
                        ),
                        content if content != NOTHING else world.index(split.contents[c]),
                        style if style != NOTHING else styles.NAMES.index(split.styles[s]),
                        backgrounds.NAMES.index(place),
                    )
                    for place in places
                ]
                for c, s in pairs
            ]

        found: dict[str, float] = {}
        other = with_article("house")
        for name, prompt, content, style in (
            ("another thing in the style", "{other} {place} in {style} style", house, NOTHING),
            ("the content as a photo", "a photo of {thing} {place}", NOTHING, styles.PHOTO),
            ("another thing in another style", "{other} {place} in watercolor style", house, styles.NAMES.index("watercolor")),
        ):
            questions = asked(prompt.replace("{other}", other), content, style)
            pictures = paint(contest.studio, adapters, questions)
            for key, value in shares(marks(judge, pictures, questions)).items():
                found[f"{name}: {key}"] = round(value, 4)
            said = ask(judge, pictures.flatten(0, 1))
            each = pictures.shape[1]
            own = torch.tensor([world.index(split.contents[c]) for c, _ in pairs]).repeat_interleave(each)
            look = torch.tensor([styles.NAMES.index(split.styles[s]) for _, s in pairs]).repeat_interleave(each)
            found[f"{name}: shows the content"] = round(float((said.content == own).float().mean()), 4)
            found[f"{name}: shows the style"] = round(float((said.style == look).float().mean()), 4)
        return found

    def _looked_at(self) -> list[int]:
        """The pairs of the first training seed that are test pairs."""
        split, few = self.contest.split, concepts.TEST
        first = range(len(split.pairs))
        if not set(few.contents) <= set(split.contents):
            return list(first)
        names = [(split.contents[content], split.styles[style]) for _, content, style in self.contest.pairs]
        return [pair for pair in first if names[pair][0] in few.contents and names[pair][1] in few.styles]

    def _frontier(self, worn: Adapters) -> list[list[float]]:
        """(content strength, style strength, then the shares) on the pairs of the first seed, by the second judge."""
        looked_at = self._looked_at()
        adapters, asked = worn.take(looked_at), [self.contest.asked[pair] for pair in looked_at]
        found = []
        for content, style in FRONTIER:
            pictures = paint(self.contest.studio, adapters.scaled(content, style), asked)
            right = marks(self.contest.judges["second"], pictures, asked)
            found.append([content, style, *(round(value, 4) for value in shares(right).values())])
        return found


def _small(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) as unit vectors without mean, (N, 576)."""
    grey = F.interpolate(pictures.float().mean(1, keepdim=True), size=24, mode="area").flatten(1)
    return F.normalize(grey - grey.mean(1, keepdim=True), dim=1)


def _numbers(worn: Worn) -> int:
    """Learned numbers that a pair needs."""
    if isinstance(worn, Adapters):
        return sum(tensor[:, 0].numel() for stack in worn.learned for tensor in stack.values())
    if isinstance(worn, Factors):
        return sum(up[:, 0].numel() + down[:, 0].numel() for up, down in zip(worn.up, worn.down, strict=True))
    return 0
