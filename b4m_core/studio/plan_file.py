"""A plan: which contents and styles are trained, on which model, and what the contact sheets show.

    output = "ComfyUI/models/loras/studio"
    preset = "normal"
    [content.cat]
    folder = "pictures/cat"
    trigger = "snq"
    class = "cat"
    [style.ink]
    folder = "pictures/ink"
    trigger = "w@z"

Paths count from the plan's folder. What is wrong with it is said before anything is trained (docs/studio.md).
"""

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import file_names, presets
from ..caption_notes import require_pattern
from ..captions import PATTERNS
from ..concepts import same_trigger_note
from ..embedded import embedded_model
from ..errors import B4MError
from ..metadata import Concept
from ..picture_kinds import holds_pictures, picture_folders, shown
from ..set_words import DEFAULT, fill_prompt, words_of
from ..settings import TrainingSettings
from ..toml_files import Table, read_toml

ROLES = ("content", "style")
DTYPES = ("float32", "bfloat16")
MOST_PAIRS = 20_000
"""Pairs that are painted for the sheets: a folder of as many pictures, and hours of a card."""
_MOST_PROMPTS = 64


@dataclass(frozen=True)
class Entry:
    """One content or style: its ``name``, which is its file's, its folder of pictures, its words, its ``preset`` and what
    its ``settings`` change. ``auxiliary``: a folder of own auxiliary pictures, or None for painted ones.
    """

    role: str
    name: str
    folder: Path
    trigger: str
    class_word: str
    caption: str
    preset: str
    settings: dict[str, Any]
    auxiliary: Path | None

    @property
    def concept(self) -> Concept:
        """Its words."""
        return Concept(self.trigger, self.class_word)


@dataclass(frozen=True)
class Sheets:
    """What is painted of each pair: ``prompts`` with ``seeds``, pictures of ``size`` pixels a side (0: the model's own).

    ``contents`` and ``styles`` are the names of those that are shown.
    """

    prompts: tuple[str, ...] = (DEFAULT,)
    seeds: tuple[int, ...] = (0,)
    size: int = 0
    contents: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudioPlan:
    """The whole file. ``auxiliary_sets`` and ``auxiliary_pictures`` are None where the preset decides."""

    file: Path
    model: Path
    tokenizer: Path | None
    output: Path
    store: Path
    dtype: str
    entries: tuple[Entry, ...]
    auxiliary_sets: int | None
    auxiliary_pictures: int | None
    sheets: Sheets
    notes: list[str] = field(default_factory=list)

    def of(self, role: str) -> list[Entry]:
        """The contents, or the styles."""
        return [entry for entry in self.entries if entry.role == role]

    def pairs(self) -> list[tuple[Entry, Entry]]:
        """Every content with every style that the sheets show, content by content."""
        contents = [entry for entry in self.of("content") if entry.name in self.sheets.contents]
        styles = [entry for entry in self.of("style") if entry.name in self.sheets.styles]
        return [(content, style) for content in contents for style in styles]


def read_plan(file: Path) -> StudioPlan:
    """The plan in a TOML file. Raises :class:`B4MError` for whatever is wrong with it, in one sentence."""
    table = read_toml(file)
    preset, settings = table.choice("preset", presets.NAMES, presets.DEFAULT), _settings(table.table("settings"))
    entries = [each for role in ROLES for each in _entries(table.table(role), role, preset, settings)]
    if not entries:
        raise table.complaint("it names no content and no style: write [content.NAME] or [style.NAME] with a folder below it.")
    sheets = table.table("sheets")
    plan = StudioPlan(
        file=file,
        model=_place(table, "model", embedded_model()),
        tokenizer=_tokenizer(table),
        output=_written_to(table, "output", table.path("output")),
        store=_written_to(table, "store", table.path("store", file.resolve().parent / ".b4m/store")),
        dtype=table.choice("dtype", DTYPES, ""),
        entries=tuple(entries),
        auxiliary_sets=table.whole("auxiliary_sets", 0, 1000, None),
        auxiliary_pictures=table.whole("auxiliary_pictures", 0, 1000, None),
        sheets=_sheets(sheets, entries),
    )
    table.end()
    return dataclasses.replace(plan, notes=_checked_pairs(plan, sheets))


def _entries(table: Table, role: str, preset: str, settings: dict[str, Any]) -> list[Entry]:
    """All contents or all styles. Raises :class:`B4MError` for names that would be one file."""
    found: dict[str, str] = {}
    entries = []
    for name in table.values:
        if not (file_names.is_plain(name) and file_names.is_legal(name)):
            raise table.complaint(
                f"{shown(name) or 'an empty name'} cannot be a file name on every system: choose a plain one without < > : \" / \\ | ? * "
                "and without a dot or a space at its ends."
            )
        same = found.setdefault(file_names.same_file_name(name), name)
        if same is not name:
            raise table.complaint(f"{shown(same)} and {shown(name)} would be one file on some systems: give one of them another name.")
        entries.append(_entry(table.table(name), role, name, preset, settings))
    return entries


def _entry(table: Table, role: str, name: str, preset: str, settings: dict[str, Any]) -> Entry:
    auxiliary = table.path("auxiliary", None)
    entry = Entry(
        role=role,
        name=name,
        folder=_folder(table, "folder", table.path("folder")),
        trigger=table.text("trigger", "").strip(),
        class_word=table.text("class", "").strip(),
        caption=table.text("caption", PATTERNS[role]),
        preset=table.choice("preset", presets.NAMES, preset),
        settings={**settings, **_settings(table.table("settings"))},
        auxiliary=None if auxiliary is None else _folder(table, "auxiliary", auxiliary, sets=True),
    )
    table.end()
    try:
        require_pattern(entry.caption)
    except B4MError as error:
        raise table.complaint(str(error)) from error
    if not entry.trigger and not entry.class_word:
        raise table.complaint("it has neither a trigger nor a class word: write trigger = with a new word of your own.")
    return entry


def _settings(table: Table) -> dict[str, Any]:
    """Settings of a training by their names, as far as they are there; what they allow is checked with the model."""
    known = {each.name: table.text if isinstance(each.default, str) else table.untouched for each in dataclasses.fields(TrainingSettings)}
    asked = {name: value for name, read in known.items() if (value := read(name, None)) is not None}
    table.end()
    try:
        settings = TrainingSettings(**asked)
    except B4MError as error:
        raise table.complaint(str(error)) from error
    return {name: getattr(settings, name) for name in asked}


def _sheets(table: Table, entries: Iterable[Entry]) -> Sheets:
    names = {role: [entry.name for entry in entries if entry.role == role] for role in ROLES}
    prompts = table.texts("prompts", [DEFAULT])
    if len(prompts) > _MOST_PROMPTS:
        raise table.complaint(f"there are {len(prompts)} prompts, and each is a picture of every pair: write at most {_MOST_PROMPTS}.")
    size = table.whole("size", 0, 4096, 0)
    if size % 32:
        raise table.complaint(f"size is {size}: choose a multiple of 32, or 0 for the model's own.")
    shown_names = {}
    for role in ROLES:
        key = f"{role}s"
        chosen = table.texts(key, names[role])
        if missing := [name for name in chosen if name not in names[role]]:
            raise table.complaint(f"{key} names {shown(missing[0])}, and the plan has no {role} of that name.")
        shown_names[key] = tuple(chosen)
    seeds = table.wholes("seeds", -(2**63), 2**63 - 1, [0])
    return Sheets(tuple(prompts), tuple(seeds), size, **shown_names)


def _checked_pairs(plan: StudioPlan, table: Table) -> list[str]:
    """Notes on the pairs. Raises :class:`B4MError` for too many and for prompts that their words do not fill."""
    pairs = plan.pairs()
    if len(pairs) > MOST_PAIRS:
        raise table.complaint(
            f"the sheets would show {len(pairs)} pairs, and {MOST_PAIRS} are the most: name some of them in contents and styles."
        )
    notes: list[str] = []
    if not pairs:
        notes.append("The plan has no pair of a content and a style to show, so there are no contact sheets.")
    for content, style in pairs:
        words = words_of(content.concept, style.concept)
        for prompt in plan.sheets.prompts:
            try:
                fill_prompt(prompt, words, "the prompts")
            except B4MError as error:
                raise table.complaint(str(error)) from error
        notes += [
            f"{content.name} and {style.name}: {note}" for note in same_trigger_note(content.concept, style.concept)
        ]
    return notes


def _tokenizer(table: Table) -> Path | None:
    told = os.environ.get("B4M_TOKENIZER")
    found: Path | None = _place(table, "tokenizer", Path(told) if told else None)
    return found


def _place(table: Table, key: str, default: Any) -> Any:
    """A file or folder that must be there."""
    if not table.text(key, ""):
        return default
    path = table.path(key)
    if not os.path.exists(path):  # Path's own method raises for a name that is too long
        raise table.complaint(f"{key} is {path}, which is not there: check the path; it counts from the plan's folder.")
    return path


def _written_to(table: Table, key: str, path: Path) -> Path:
    """A folder that is made when it is missing."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise table.complaint(f"{key} is {path}, which is no folder: name one, which is made when it is missing.")
    return path


def _folder(table: Table, key: str, path: Path, *, sets: bool = False) -> Path:
    """A folder with pictures; with ``sets`` they may lie in its subfolders."""
    if not os.path.isdir(path):
        raise table.complaint(f"{key} is {path}, which is no folder: check the path; it counts from the plan's folder.")
    if not holds_pictures(path) and not (sets and picture_folders(path)):
        raise table.complaint(f"{key} is {path}, which holds no picture: put some into it, or name another folder.")
    return path
