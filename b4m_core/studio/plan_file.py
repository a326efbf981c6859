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

import contextlib
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
from .toml_table import Table, read_toml

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
    home = file.resolve().parent
    preset, settings = table.take("preset", str, presets.DEFAULT), _settings(table.table("settings"))
    _require_preset(table, preset)
    entries = [each for role in ROLES for each in _entries(table.table(role), role, home, preset, settings)]
    if not entries:
        raise table.complaint("it names no content and no style: write [content.NAME] or [style.NAME] with a folder below it.")
    sets, pictures = (
        table.whole(name, 0, 1000, 0) if table.has(name) else None for name in ("auxiliary_sets", "auxiliary_pictures")
    )
    sheets = table.table("sheets")
    plan = StudioPlan(
        file=file,
        model=_place(table, "model", home, embedded_model()),
        tokenizer=_tokenizer(table, home),
        output=_written_to(table, "output", home),
        store=_written_to(table, "store", home, ".b4m/store"),
        dtype=_dtype(table),
        entries=tuple(entries),
        auxiliary_sets=sets,
        auxiliary_pictures=pictures,
        sheets=_sheets(sheets, entries),
    )
    sheets.finish()
    table.finish()
    return dataclasses.replace(plan, notes=_checked_pairs(plan, sheets))


def _entries(table: Table, role: str, home: Path, preset: str, settings: dict[str, Any]) -> list[Entry]:
    """All contents or all styles. Raises :class:`B4MError` for names that would be one file."""
    found: dict[str, str] = {}
    entries = []
    for name in table.names():
        if not (file_names.is_plain(name) and file_names.is_legal(name)):
            raise table.complaint(
                f"{shown(name) or 'an empty name'} cannot be a file name on every system: choose a plain one without < > : \" / \\ | ? * "
                "and without a dot or a space at its ends."
            )
        same = found.setdefault(file_names.same_file_name(name), name)
        if same is not name:
            raise table.complaint(f"{shown(same)} and {shown(name)} would be one file on some systems: give one of them another name.")
        entries.append(_entry(table.table(name), role, name, home, preset, settings))
    return entries


def _entry(table: Table, role: str, name: str, home: Path, preset: str, settings: dict[str, Any]) -> Entry:
    own = table.take("preset", str, preset)
    _require_preset(table, own)
    entry = Entry(
        role=role,
        name=name,
        folder=_folder(table, "folder", home),
        trigger=table.take("trigger", str, "").strip(),
        class_word=table.take("class", str, "").strip(),
        caption=table.take("caption", str, PATTERNS[role]),
        preset=own,
        settings={**settings, **_settings(table.table("settings"))},
        auxiliary=_folder(table, "auxiliary", home, sets=True) if table.has("auxiliary") else None,
    )
    table.finish()
    try:
        require_pattern(entry.caption)
    except B4MError as error:
        raise table.complaint(str(error)) from error
    if not entry.trigger and not entry.class_word:
        raise table.complaint("it has neither a trigger nor a class word: write trigger = with a new word of your own.")
    return entry


def _settings(table: Table) -> dict[str, Any]:
    """Settings of a training by their names, each of the kind that it is; what they allow is checked with the model."""
    kinds: dict[str, type[Any]] = {each.name: type(each.default) for each in dataclasses.fields(TrainingSettings)}
    there = [name for name in kinds if table.has(name)]
    found = {name: table.take(name, kinds[name]) for name in there}
    table.finish()
    try:
        TrainingSettings(**found)
    except B4MError as error:
        raise table.complaint(str(error)) from error
    return found


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
        chosen = table.texts(key, names[role] or [""])
        if missing := [name for name in chosen if table.has(key) and name not in names[role]]:
            raise table.complaint(f"{key} names {shown(missing[0])}, and the plan has no {role} of that name.")
        shown_names[key] = tuple(name for name in chosen if name)
    seeds = table.wholes("seeds", [0])
    if any(not -(2**63) <= seed < 2**63 for seed in seeds):
        raise table.complaint("a seed is a whole number of at most 63 bits: write a smaller one.")
    return Sheets(prompts, seeds, size, **shown_names)


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


def _require_preset(table: Table, name: str) -> None:
    if name not in presets.NAMES:
        raise table.complaint(f"preset is {shown(name)!r}: choose one of {', '.join(presets.NAMES)}.")


def _dtype(table: Table) -> str:
    """What is computed in; "" for what suits the device."""
    value = table.take("dtype", str, "")
    if value and value not in DTYPES:
        raise table.complaint(f"dtype is {shown(value)!r}: choose one of {', '.join(DTYPES)}.")
    return value


def _tokenizer(table: Table, home: Path) -> Path | None:
    told = os.environ.get("B4M_TOKENIZER")
    found: Path | None = _place(table, "tokenizer", home, Path(told) if told else None)
    return found


def _place(table: Table, key: str, home: Path, default: Any) -> Any:
    """A file or folder that must be there."""
    text = table.take(key, str, "")
    path = _path(home, text) if text else default
    if text and not path.exists():
        raise table.complaint(f"{key} is {path}, which is not there: check the path; it counts from the plan's folder.")
    return path


def _written_to(table: Table, key: str, home: Path, default: str | None = None) -> Path:
    """A folder that is made when it is missing."""
    text = table.take(key, str, default).strip()
    path = _path(home, text)
    if not text or path.exists() and not path.is_dir():
        raise table.complaint(f"{key} is {shown(text)!r}, which is no folder: name one, which is made when it is missing.")
    return path


def _folder(table: Table, key: str, home: Path, *, sets: bool = False) -> Path:
    """A folder with pictures; with ``sets`` they may lie in its subfolders."""
    path = _path(home, table.take(key, str))
    if not path.is_dir():
        raise table.complaint(f"{key} is {path}, which is no folder: check the path; it counts from the plan's folder.")
    if not holds_pictures(path) and not (sets and picture_folders(path)):
        raise table.complaint(f"{key} is {path}, which holds no picture: put some into it, or name another folder.")
    return path


def _path(home: Path, text: str) -> Path:
    """A path as the plan says it; ``~`` is the home folder."""
    with contextlib.suppress(RuntimeError):  # there is no such user
        return Path(os.path.normpath(home / Path(text).expanduser()))
    return Path(os.path.normpath(home / text))
