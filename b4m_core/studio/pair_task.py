"""A task that paints one pair for the contact sheets: its two adapters are merged when it is painted, and nothing is
trained.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..compose import merge
from ..files import load_adapter
from ..painted import kept_or_painted, kept_picture
from ..runs import content_key
from ..set_words import fill_prompt, words_of
from . import library, stopping
from .place import Place, Tell, worn
from .plan_file import Entry, Sheets

if TYPE_CHECKING:
    from ..diffusers_folder import DiffusersFolder


@dataclass(frozen=True)
class PairWork:
    """``content`` in ``style``: every prompt and seed of the ``sheets``, pictures of ``side`` pixels."""

    content: Entry
    style: Entry
    sheets: Sheets
    side: int

    def do(self, base: DiffusersFolder, place: Place, tell: Tell) -> str:
        """Paint what is not kept of these very adapters; what was done, in words."""
        content, style = (load_adapter(library.path_of(place.output, each.role, each.name)) for each in (self.content, self.style))
        words, about = words_of(self.content.concept, self.style.concept), {
            "pair": [content.digest(), style.digest()],
            "base": base.fingerprint,
            "side": self.side,
            "arithmetic": [base.device.type, str(base.dtype)],
        }
        wanted = []
        for number, prompt, seed in _each(self.sheets):
            line = fill_prompt(prompt, words, "the prompts")
            key = content_key({**about, "prompt": line, "seed": seed})
            file = picture_file(place.output, self.content, self.style, number, seed)
            if kept_picture(file, key, self.side) is None:
                wanted.append((file, key, line, seed))
        if not wanted:
            return "painted before"
        with worn(base, merge(content, style)):
            for file, key, line, seed in wanted:
                stopping.check(place.session)
                kept_or_painted(file, key, self.side, functools.partial(self._paint, base, line, seed))
        return f"{len(wanted)} painted"

    def _paint(self, base: DiffusersFolder, line: str, seed: int) -> Tensor:
        return base.sample(line, width=self.side, height=self.side, seed=seed)


def picture_file(output: Path, content: Entry, style: Entry, number: int, seed: int) -> Path:
    """Where a pair's picture of prompt ``number``, counted from 1, lies."""
    return output / "pairs" / content.name / f"{style.name}_{number}_{seed}.png"


def _each(sheets: Sheets) -> Iterator[tuple[int, str, int]]:
    """(number of the prompt, prompt, seed)."""
    for number, prompt in enumerate(sheets.prompts, start=1):
        for seed in sheets.seeds:
            yield number, prompt, seed


