"""Captions of a folder's pictures, in every habit of other trainers.

Beside the picture or in a folder ``captions``: ``a.txt``, ``a.caption``, ``a.png.txt``, ``A.TXT``, ``a.json``. For many at
once: ``metadata.jsonl``, ``.json`` or ``.csv``, with a column for the file and one for the text. What lies beside a
picture goes before a list.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .picture_kinds import listed, shown
from .text_files import clean, decoded

ENDINGS = (".txt", ".caption", ".captions", ".cap", ".text", ".prompt", ".tags", ".tag")
"""Of a file that holds one caption, the one that goes before the others first."""
FOLDERS = frozenset(("captions", "caption", "texts", "text", "txt", "labels", "tags", "prompts"))
"""Names of subfolders in which captions are looked for."""
_FILE_NAMES = ("file_name", "filename", "file", "image", "image_path", "file_path", "path", "image_file", "img", "picture", "name")
_TEXT_NAMES = ("text", "caption", "prompt", "description", "captions", "txt", "tags", "label", "title")
_LISTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_LONGEST_CAPTION, _LONGEST_LIST = 100_000, 64 * 2**20  # bytes
PATTERNS = {"content": "a photo of a {trigger} {class}", "style": "a {class} in {trigger} style"}
"""What a picture of either is called where there is no caption."""
_PLACEHOLDER = re.compile(r"[{\[](trigger|class|name)[}\]]", re.IGNORECASE)


@dataclass
class Captions:
    """``texts`` by the picture's file name, the ``empty`` files' pictures, and what is to be said."""

    texts: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def fill_caption(pattern: str, trigger: str, class_word: str, name: str) -> str:
    """``pattern`` with {trigger}, {class} and {name} filled in and double spaces taken out; [trigger] is the same."""
    words = {"trigger": trigger, "class": class_word, "name": name.replace("_", " ")}
    return " ".join(_PLACEHOLDER.sub(lambda found: words[found[1].lower()], pattern).split())


def key_of(name: str) -> str:
    """A name as all systems agree on it: one form of accents (NFC), no capitals."""
    return unicodedata.normalize("NFC", name).casefold()


def is_caption(file: Path) -> bool:
    """Whether a file can hold captions, by its ending."""
    return file.suffix.lower() in (*ENDINGS, *_LISTS)


def find_captions(pictures: Sequence[Path], files: Sequence[Path]) -> Captions:
    """The captions of ``pictures`` among ``files``, which :func:`is_caption`; unreadable and orphaned ones are noted."""
    found = Captions()
    owners = _owners(pictures)
    single: dict[str, list[Path]] = {}
    orphans: list[str] = []
    lists: list[Path] = []
    for file in sorted(files, key=_precedence):
        names = owners.get(_stem_key(file))
        if names is not None:
            for name in names:
                single.setdefault(name, []).append(file)
        elif file.suffix.lower() in _LISTS:
            lists.append(file)
        else:
            orphans.append(file.name)
    contents = _read([file for group in single.values() for file in group] + lists, found.notes)
    for name, group in single.items():
        _take(found, name, [file for file in group if str(file) in contents], contents)
    for file in lists:
        if str(file) in contents:
            _take_list(found, owners, file, contents[str(file)])
    if orphans:
        found.notes.append(f"No picture belongs to the captions {listed(orphans)}.")
    return found


def _owners(pictures: Sequence[Path]) -> dict[str, list[str]]:
    """The pictures' names by all that a caption may call them: with and without their ending."""
    owners: dict[str, list[str]] = {}
    for picture in pictures:
        for key in dict.fromkeys((key_of(picture.stem), key_of(picture.name))):
            owners.setdefault(key, []).append(picture.name)
    return owners


def _precedence(file: Path) -> tuple[int, int, str]:
    """Beside the picture before in a folder of captions (deeper), then by ending, then by name."""
    ending = file.suffix.lower()
    return len(file.parts), (*ENDINGS, *_LISTS).index(ending), file.name


def _stem_key(file: Path) -> str:
    """What a caption file is called after: a.txt, a.png.txt, a.caption.txt."""
    stem = Path(file.stem)
    return key_of(stem.stem if stem.suffix.lower() in ENDINGS else stem.name)


def _read(files: Sequence[Path], notes: list[str]) -> dict[str, str]:
    """The texts of files by their paths; what cannot be read is noted."""
    raw: dict[str, bytes] = {}
    for file in dict.fromkeys(files):
        most = _LONGEST_LIST if file.suffix.lower() in _LISTS else _LONGEST_CAPTION
        try:
            if not file.is_file():
                continue
            with open(file, "rb") as stream:
                content = stream.read(most + 1)
        except OSError as error:
            notes.append(f"{shown(file.name)} could not be read ({error.strerror or error}).")
            continue
        if len(content) > most:
            notes.append(f"{shown(file.name)} was not used: it has more than {most:,} bytes, which no caption has.")
        else:
            raw[str(file)] = content
    texts, guessed, broken = decoded(raw)
    for encoding, names in guessed.items():
        beginning = clean(texts[names[0]])[:40]
        told = listed([Path(name).name for name in names])
        notes.append(f'Read as {encoding}, since it is not UTF-8: {told}. If "{beginning}" is not what it says, save it as UTF-8.')
    if broken:
        notes.append(f"Not used, since it cannot be read as text: {listed([Path(name).name for name in broken])}.")
    return {path: text if Path(path).suffix.lower() in _LISTS else clean(text) for path, text in texts.items()}


def _take(found: Captions, name: str, files: Sequence[Path], contents: Mapping[str, str]) -> None:
    """The caption of one picture from the files beside it: the first that says something."""
    texts = [(file, _from_json(contents[str(file)]) if file.suffix.lower() in _LISTS else contents[str(file)]) for file in files]
    told = [(file, text) for file, text in texts if text]
    if told:
        found.texts[name] = told[0][1]
        if len({text for _, text in told}) > 1:
            others = listed([file.name for file, _ in told[1:]])
            found.notes.append(f"{shown(name)} has several captions; {shown(told[0][0].name)} was used, not {others}.")
    elif texts:
        found.empty.append(name)


def _from_json(text: str) -> str:
    """The caption in a .json beside a picture."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return _text_of(value) if isinstance(value, dict) else clean(value) if isinstance(value, str) else ""


def _take_list(found: Captions, owners: Mapping[str, list[str]], file: Path, text: str) -> None:
    """The captions of a list for the pictures that have none of their own."""
    missing: list[str] = []
    bad: list[int] = []
    used = 0
    for number, row in _rows(file, text):
        name = None if row is None else _value(row, _FILE_NAMES)
        if row is None or not isinstance(name, str):
            bad.append(number)
            continue
        base = re.split(r"[\\/]", name)[-1]
        names = owners.get(key_of(base)) or owners.get(key_of(Path(base).stem)) or []
        caption = _text_of(row)
        used += bool(names)
        if not names:
            missing.append(base)
        for picture in names:
            if caption:
                found.texts.setdefault(picture, caption)
            elif picture not in found.texts:
                found.empty.append(picture)
    if not used and file.suffix.lower() == ".json":
        found.notes.append(f"{shown(file.name)} belongs to no picture and holds no captions of these.")
        return
    if bad:
        told = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        found.notes.append(f"In {shown(file.name)}, line {told} cannot be read or names no picture.")
    if missing:
        found.notes.append(f"{shown(file.name)} has captions for pictures that are not here: {listed(missing)}.")


def _rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows of a list with their line numbers, None for one that makes no sense."""
    ending = file.suffix.lower()
    if ending in (".csv", ".tsv"):
        yield from _table(text, "\t" if ending == ".tsv" else ",")
        return
    lines = enumerate(text.splitlines(), start=1)
    if ending == ".json":
        value = _json(text)
        if isinstance(value, dict):  # {"a.png": "a caption"} or {"a": {"caption": ...}}
            value = [{"file_name": name, **(row if isinstance(row, dict) else {"text": row})} for name, row in value.items()]
        if isinstance(value, list):
            yield from ((number, row if isinstance(row, dict) else None) for number, row in enumerate(value, start=1))
            return
    for number, line in lines:
        if line.strip():
            value = _json(line)
            yield number, value if isinstance(value, dict) else None


def _table(text: str, separator: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows of a table whose first line names its columns."""
    reader = csv.reader(io.StringIO(text.replace("\0", "")), delimiter=separator)
    header: list[str] = []
    try:
        for row in reader:
            if not header:
                header = [column.strip() for column in row]
            elif any(row):
                yield reader.line_num, dict(zip(header, row, strict=False))
    except csv.Error:
        yield reader.line_num, None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the first of some columns that a row has; capitals do not matter."""
    low = {str(key).strip().lower(): value for key, value in row.items()}
    return next((low[name] for name in names if low.get(name)), None)


def _text_of(row: Mapping[str, Any]) -> str:
    """The caption in a row; a list of tags is put together with commas."""
    value = _value(row, _TEXT_NAMES)
    if isinstance(value, list):
        value = ", ".join(each for each in value if isinstance(each, str))
    return clean(value) if isinstance(value, str) else ""
