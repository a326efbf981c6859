"""The options of a training as a TOML file: read for ``--config`` and ``repeat``, written for ``--print-config`` and a
run's record.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import B4MError
from .record import FILE
from .settings import TrainingSettings
from .toml_files import read_toml

TRAININGS = ("content", "style", "joint")
DTYPES = ("float32", "bfloat16")
_MOST = 10**9


@dataclasses.dataclass(frozen=True)
class Key:
    """One option: its place in the file, its name in argparse's namespace, and its kind, a method of toml_files.py's Table."""

    table: str
    key: str
    option: str
    kind: str


def keys_of(role: str) -> list[Key]:
    """All options of a training that a file can hold."""
    found = [Key("settings", each.name, each.name, _kind(each.default)) for each in dataclasses.fields(TrainingSettings)]
    for prefix in ("content_", "style_") if role == "joint" else ("",):
        table = f"{prefix}pictures"
        found += [
            Key(table, "folder", table, "path"),
            Key(table, "trigger", f"{prefix}trigger", "text"),
            Key(table, "class", f"{prefix}class_word", "text"),
            Key(table, "caption", f"{prefix}caption", "text"),
            Key(table, "masks", f"{prefix}masks", "yes_or_no"),
            Key("auxiliary", f"{prefix}folder", f"{prefix}auxiliary", "path"),
        ]
    if role == "joint":
        found += [Key("adapters", each, f"{each}_adapter", "path") for each in ("content", "style")]
    return [
        *found,
        Key("auxiliary", "sets", "auxiliary_sets", "whole"),
        Key("auxiliary", "pictures", "auxiliary_pictures", "whole"),
        Key("model", "path", "model", "path"),
        Key("model", "tokenizer", "tokenizer", "path"),
        Key("model", "device", "device", "text"),
        Key("model", "dtype", "dtype", "text"),
        Key("run", "out", "out", "path"),
        Key("run", "store", "store", "path"),
        Key("run", "compact", "compact", "yes_or_no"),
        Key("run", "keep_every", "keep_every", "whole"),
        Key("samples", "every", "sample_every", "whole"),
        Key("samples", "prompt", "sample_prompt", "text"),
    ]


def _kind(default: Any) -> str:
    return {bool: "yes_or_no", int: "whole", float: "number"}.get(type(default), "text")


def read_configuration(file: Path, role: str) -> dict[str, Any]:
    """The options that a file holds, by their names in argparse's namespace, and ``was`` as it stands.

    Raises :class:`B4MError` for another training's file, an unknown key and a value of another kind.
    """
    top = read_toml(file)
    said = top.choice("role", TRAININGS, default=role)
    if said != role:
        raise B4MError(f"{file.name} is of a training of role {said}: say train {said}, or name another file.")
    values: dict[str, Any] = {}
    for key in keys_of(role):
        table = top.table(key.table)
        if key.key in table:
            values[key.option] = getattr(table, key.kind)(key.key)
        else:
            getattr(table, key.kind)(key.key, default=None)
    was = top.untouched("was", {})
    top.end()
    if values.get("dtype", DTYPES[0]) not in DTYPES:
        raise B4MError(f"dtype in [model] of {file.name} is {values['dtype']}: choose one of {', '.join(DTYPES)}.")
    return values | {"was": was}


def configuration_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a training as the tables of a file, with whole paths; what was not given is left out."""
    result: dict[str, Any] = {"role": options.role}
    for key in keys_of(options.role):
        value = getattr(options, key.option)
        if value is not None and value != "":
            result.setdefault(key.table, {})[key.key] = value.expanduser().absolute() if isinstance(value, Path) else value
    return result


def record_file(place: Path) -> Path:
    """The record of a run, from its folder or from itself. Raises :class:`B4MError` where there is none."""
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise B4MError(f"{place} holds no {FILE}: name the folder of a run (b4m runs lists them), or the file itself.")
    return file


def store_of(record: Path) -> Path | None:
    """The run store that a record lies in; None for one that lies elsewhere."""
    folder = record.absolute().parent
    return folder.parents[1] if folder.parent.name == "runs" else None


def role_of(file: Path) -> str:
    """The training that a record is of. Raises :class:`B4MError` where it is none that can be repeated."""
    role = read_toml(file).text("role", default="")
    if role not in TRAININGS:
        raise B4MError(f"{file.name} is the record of no training (its role is {role or 'not said'}): name a run's {FILE}.")
    return str(role)


def missing(options: argparse.Namespace) -> list[str]:
    """The options without which there is no training, as they are written, that nobody gave."""
    needed = ["out", "model", *(key.option for key in keys_of(options.role) if key.key == "folder" and key.table.endswith("pictures"))]
    needed += [key.option for key in keys_of(options.role) if key.table == "adapters"]
    return ["--" + name.replace("_", "-") for name in needed if getattr(options, name) is None]


def as_repeated(values: Mapping[str, Any], record: Path) -> dict[str, Any]:
    """The options of a record when it is repeated: what a host alone knew must be given anew, and the run is looked for
    where the record lies.
    """
    store = store_of(record)
    found = {"model": None, **values, "record": record, "same_reader": "model" in values}
    return found if store is None else {**found, "store": store}
