"""A TOML file as tables whose keys are taken one by one: what is of the wrong kind or unknown is one sentence that names
the file, the table and the key.
"""

import difflib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .. import checked
from ..errors import B4MError
from ..picture_kinds import listed, shown
from ..text_files import decoded

Value = TypeVar("Value")
_MOST_BYTES = 16 << 20
_KINDS = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}


def read_toml(file: Path) -> "Table":
    """The whole file. Raises :class:`B4MError` where it is not there, no text or no TOML, then with the line."""
    try:
        if file.is_dir():
            raise B4MError(f"{file} is a folder: name the plan's file in it, such as {file / 'plan.toml'}.")
        if file.stat().st_size > _MOST_BYTES:
            raise B4MError(f"{file} has {file.stat().st_size / 1e6:.0f} MB, which no plan has: name another file.")
        raw = file.read_bytes()
    except OSError as error:
        raise B4MError(f"The plan {file} cannot be read ({error.strerror or error}): check its name and folder.") from error
    texts, _, _ = decoded({file.name: raw})
    if file.name not in texts:
        raise B4MError(f"{file} is no text: save the plan as plain text in UTF-8.")
    reader = _reader()
    text = texts[file.name].replace("\r\n", "\n")
    try:
        return Table(reader.loads(text), file.name, "")
    except (reader.TOMLDecodeError, RecursionError) as error:
        raise B4MError(f"{file.name} is not TOML: {_told(str(error))}") from error


def _reader() -> Any:
    """Python's reader of TOML, or on Python 3.10 the package it was made from."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli
    except ImportError as error:
        raise B4MError("A plan needs the package tomli on Python 3.10: pip install tomli, or use a newer Python.") from error
    return tomli


def _told(what: str) -> str:
    """The reader's complaint with what helps."""
    if "escape" in what or "\\" in what:
        what += "; write paths with backslashes in single quotes, such as 'D:\\pictures'"
    elif "overwrite" in what or "twice" in what:
        what += "; a name or a key stands there twice, so give one of the two another"
    return f"{what}."


class Table:
    """One table of the ``file``; ``where`` is its heading. Each key is taken once, and :meth:`finish` names what is left."""

    def __init__(self, values: Mapping[str, Any], file: str, where: str) -> None:
        self._values, self._file, self._where = dict(values), file, where
        self._known: list[str] = []

    def names(self) -> list[str]:
        """The keys that are there."""
        return list(self._values)

    def has(self, key: str) -> bool:
        """Whether a key is there; one that may be is not unknown."""
        self._known.append(key)
        return key in self._values

    def complaint(self, sentence: str) -> B4MError:
        """A sentence about this table, with where it stands."""
        return B4MError(f"{self._file}{f', [{self._where}]' if self._where else ''}: {sentence}")

    def take(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """The value of ``key``, or ``default``. Raises :class:`B4MError` for another kind, and where it must be there."""
        self._known.append(key)
        if key not in self._values:
            if default is None:
                raise self.complaint(f"{key} is missing: write {key} = ...")
            return default
        value = self._values[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.complaint(f"{key} is {_KINDS.get(type(value), type(value).__name__)} and must be {_KINDS[kind]}.")
        if isinstance(value, str):
            self._checked(checked.text, value, key)
        return value

    def whole(self, key: str, least: int, most: int, default: int) -> int:
        """A whole number from ``least`` to ``most``."""
        return self._checked(lambda value, name: checked.whole(value, name, least, most), self.take(key, int, default), key)

    def number(self, key: str, least: float, most: float, default: float) -> float:
        """A number from ``least`` to ``most``."""
        return self._checked(lambda value, name: checked.number(value, name, least, most), self.take(key, float, default), key)

    def texts(self, key: str, default: list[str] | None = None) -> tuple[str, ...]:
        """A list of texts, at least one; one text alone counts as a list."""
        return self._list(key, str, default)

    def wholes(self, key: str, default: list[int]) -> tuple[int, ...]:
        """A list of whole numbers, at least one; one alone counts as a list."""
        return self._list(key, int, default)

    def table(self, key: str) -> "Table":
        """The table below ``key``, empty where it is not there."""
        where = f"{self._where}.{key}" if self._where else key
        return Table(self.take(key, dict, {}), self._file, where)

    def finish(self) -> None:
        """Raise :class:`B4MError` for keys that nobody took, with the nearest that there is."""
        unknown = [key for key in self._values if key not in self._known]
        if unknown:
            near = difflib.get_close_matches(unknown[0].lower(), self._known, 1, 0.6)
            may = f"did you mean {near[0]}?" if near else f"it may have {listed(sorted(set(self._known)), 20)}."
            raise self.complaint(f"there is no key {shown(unknown[0])} here: {may}")

    def _list(self, key: str, kind: type[Value], default: list[Value] | None) -> tuple[Value, ...]:
        if key in self._values and not isinstance(self._values[key], list):
            return (self.take(key, kind),)
        found = self.take(key, list, default)
        if not found:
            raise self.complaint(f"{key} is an empty list: write at least one into it, or leave the key out.")
        single = (Table({key: value}, self._file, self._where).take(key, kind) for value in found)
        return tuple(dict.fromkeys(single))

    def _checked(self, check: Callable[[Any, str], Value], value: Any, key: str) -> Value:
        try:
            return check(value, key)
        except B4MError as error:
            raise self.complaint(str(error)) from error
