"""TOML of ours: files are read with one sentence for whatever is wrong with them, and values written as text."""

import contextlib
import datetime
import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from . import checked
from .errors import B4MError
from .picture_kinds import listed, shown
from .text_files import decoded

Value = TypeVar("Value")
_MOST_BYTES = 4 * 10**6
_REQUIRED: Any = object()
"""The default of a key that has none."""
_MOST = 10**18
_MOST_KEYS = 20


class Table:
    """One table of a TOML file, read key by key; :meth:`end` refuses the keys that nobody asked for.

    ``file`` is its path, ``where`` the table's name in brackets, empty for the top of the file. A value is asked for by
    its kind, and raises :class:`B4MError` when it is of another one, or is not there and there is no ``default``.
    """

    def __init__(self, values: Mapping[str, Any], file: Path, where: str = "") -> None:
        self.values, self.file, self.where = values, file, where
        self._asked: dict[str, None] = {}
        self._inner: dict[str, Table] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def complaint(self, sentence: str) -> B4MError:
        """A sentence about this table, with the file and the table before it."""
        return B4MError(f"{self.file.name}{f', [{self.where}]' if self.where else ''}: {sentence}")

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        """A text."""
        value = self._value(key, default)
        if key in self.values and not isinstance(value, str):
            raise B4MError(f"{self._named(key)} is {_shown(value)}: write a text, in quotes.")
        return checked.text(value, self._named(key)) if key in self.values else value

    def choice(self, key: str, options: Collection[str], default: Any = _REQUIRED) -> Any:
        """One of ``options``."""
        value = self._value(key, default)
        return checked.choice(value, self._named(key), options) if key in self.values else value

    def whole(self, key: str, least: int = -_MOST, most: int = _MOST, default: Any = _REQUIRED) -> Any:
        """A whole number from ``least`` to ``most``."""
        value = self._value(key, default)
        return checked.whole(value, self._named(key), least, most) if key in self.values else value

    def number(self, key: str, least: float = -1e300, most: float = 1e300, default: Any = _REQUIRED) -> Any:
        """A number from ``least`` to ``most``, as a float."""
        value = self._value(key, default)
        return checked.number(value, self._named(key), least, most) if key in self.values else value

    def yes_or_no(self, key: str, default: Any = _REQUIRED) -> Any:
        """true or false."""
        value = self._value(key, default)
        return checked.yes_or_no(value, self._named(key)) if key in self.values else value

    def path(self, key: str, default: Any = _REQUIRED) -> Any:
        """A whole path; one that is relative begins at the folder of the file, ``~`` is the home folder."""
        value = self.text(key, default)
        if key not in self.values:
            return value
        if not value.strip():
            raise B4MError(f"{self._named(key)} is {_shown(value)}: write a path, in quotes.")
        path = Path(value)
        with contextlib.suppress(RuntimeError):  # there is no such user
            path = path.expanduser()
        return Path(os.path.normpath(self.file.resolve().parent / path))

    def texts(self, key: str, default: Iterable[str]) -> list[str]:
        """A list of texts, each once and at least one; one text alone counts as a list."""

        def single(value: Any) -> str:
            if not isinstance(value, str):
                raise B4MError(f'{self._named(key)} has {_shown(value)}: write a list of texts, such as ["one", "two"].')
            return checked.text(value, self._named(key))

        return self._list(key, single, default)

    def wholes(self, key: str, least: int, most: int, default: Iterable[int]) -> list[int]:
        """A list of whole numbers from ``least`` to ``most``, each once and at least one; one alone counts as a list."""
        return self._list(key, lambda value: checked.whole(value, self._named(key), least, most), default)

    def table(self, key: str) -> "Table":
        """The table below ``key``, an empty one where there is none."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise B4MError(f"{self._named(key)} is {_shown(value)}: write a table, [{self._below(key)}] and its keys below.")
        return self._opened(value, self._below(key))

    def tables(self, key: str) -> "dict[str, Table]":
        """The tables below ``key`` by their names, as in ``[content.cat]``; none where there are none."""
        above = self.table(key)
        return {name: above.table(name) for name in above.values}

    def rows(self, key: str) -> "list[Table]":
        """The tables of a list, as in ``[[pair]]``; none where there is none."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise B4MError(f"{self._named(key)} is {_shown(value)}: write tables, each below a line [[{self._below(key)}]].")
        return [self._opened(each, f"{self._below(key)} {number}") for number, each in enumerate(value, start=1)]

    def untouched(self, key: str, default: Any) -> Any:
        """Whatever stands there, not looked at."""
        return self._value(key, default)

    def end(self) -> None:
        """All that is known was asked for: raises :class:`B4MError` for any other key, here and in the tables below."""
        for key in self.values:
            if key not in self._asked:
                raise self.complaint(f"there is no key {shown(key)} here: {_advice(key, list(self._asked))}")
        for inner in self._inner.values():
            inner.end()

    def _value(self, key: str, default: Any) -> Any:
        self._asked[key] = None
        if key not in self.values and default is _REQUIRED:
            raise self.complaint(f"{key} is missing: add a line {key} = ...")
        return self.values.get(key, default)

    def _list(self, key: str, single: Callable[[Any], Value], default: Iterable[Value]) -> list[Value]:
        found = self._value(key, default)
        if key in self.values and not isinstance(found, list):
            return [single(found)]
        if key in self.values and not found:
            raise B4MError(f"{self._named(key)} is an empty list: write at least one into it, or leave the key out.")
        return list(dict.fromkeys(map(single, found)))

    def _opened(self, values: Mapping[str, Any], where: str) -> "Table":
        return self._inner.setdefault(where, Table(values, self.file, where))

    def _below(self, key: str) -> str:
        return f"{self.where}.{shown(key)}" if self.where else shown(key)

    def _named(self, key: str) -> str:
        return f"{shown(key)} in {f'[{self.where}] of ' if self.where else ''}{self.file.name}"


def read_toml(file: Path) -> Table:
    """The top table of a TOML file, in UTF-8 or as Windows' tools write it.

    Raises :class:`B4MError` where it is missing, cannot be read, or is no TOML; the sentence names the line.
    """
    try:
        if file.is_dir():
            raise B4MError(f"{file} is a folder: name a file in it that ends in .toml.")
        if not file.is_file():
            raise B4MError(f"{file} is not there: check its name and its folder; it ends in .toml.")
        if file.stat().st_size > _MOST_BYTES:
            raise B4MError(f"{file.name} is larger than {_MOST_BYTES / 1e6:.0f} MB, as no settings and no plan are: name another file.")
        texts, guessed, _ = decoded({file.name: file.read_bytes()})
    except OSError as error:
        raise B4MError(f"{file} cannot be read ({error.strerror or error}): check that it may be.") from error
    text = texts.get(file.name)
    if text is None or guessed:  # a guess may make another folder's name of one
        raise B4MError(f"{file.name} is no text in UTF-8: save it again with a text editor, as UTF-8.")
    loads = _reader()
    try:
        return Table(loads(text), file)
    except (ValueError, RecursionError) as error:  # not TOML's own error alone: a number of thousands of digits is Python's
        raise B4MError(f"{file.name} is no TOML: {_reason(error, text)}.") from error


def _reader() -> Callable[[str], dict[str, Any]]:
    """Python's reader of TOML, or on Python 3.10 the package it was made from, which a pack that was brought up to date
    without its requirements lacks. Raises :class:`B4MError` where there is none.
    """
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
    except ImportError as error:
        raise B4MError("Reading TOML needs the package tomli on Python 3.10: pip install tomli, or use a newer Python.") from error
    return tomllib.loads


def toml_text(values: Mapping[str, Any], about: str = "") -> str:
    """``values`` as TOML below the comment ``about``; what is None is left out, paths are texts.

    Raises :class:`B4MError` where tomli-w is not installed.
    """
    try:
        import tomli_w  # a pack that was brought up to date without its requirements trains all the same
    except ImportError as error:
        raise B4MError("TOML needs the package tomli-w: install what requirements.txt names.") from error
    comment = "".join(f"# {line}\n" for line in about.splitlines())
    written: str = tomli_w.dumps(_plain(values))
    return comment + written


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _reason(error: BaseException, text: str) -> str:
    """What the reader found wrong, with a hint where a path of Windows stands in double quotes or a name is there twice."""
    told = str(error).strip() or "it is nested too deeply"
    told = told[0].lower() + told[1:]
    found = re.search(r"line (\d+)", told)
    lines = text.splitlines() or [""]
    line = lines[min(int(found[1]), len(lines)) - 1] if found else lines[-1]
    hint = ""
    if re.search(r'"[^"]*\\', line):
        hint = r"; a path with \ stands in single quotes, such as 'D:\pictures'"
    elif "overwrite" in told or "twice" in told:
        hint = "; a name or a key stands there twice, give one of them another"
    return f"{told}{hint}, so mend that line" if found else f"{told}{hint}, so mend it"


def _advice(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.lower(), known, 1, 0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"it may have {listed(known, _MOST_KEYS)}." if known else "it may have none."


def _shown(value: Any) -> str:
    """A value as it is written in TOML, on one short line."""
    if isinstance(value, (bool, datetime.date, datetime.time)):
        return str(value).lower()
    try:
        written = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    return written if len(written) <= 60 else f"{written[:60]}..."
