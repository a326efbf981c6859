"""Values from outside, checked before anything is made from them: what a wire, a header or a script may hold instead of
a number or a text.

All raise :class:`B4MError`, naming ``name``, and return the value as a plain one of Python.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from .errors import B4MError

_MOST_NAMED = 15
LONGEST_TEXT = 20_000  # characters; captions and prompts have some hundreds


def whole(value: Any, name: str, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``; a float that is one counts."""
    if _is_whole_float(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise B4MError(f"{name} is {_shown(value)}: it must be a whole number from {least} to {most}.")
    plain = int(value)
    if not least <= plain <= most:
        raise B4MError(f"{name} is {_shown(plain)}: it must be at least {least} and at most {most}.")
    return plain


def number(value: Any, name: str, least: float, most: float) -> float:
    """A finite number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise B4MError(f"{name} is {_shown(value)}: it must be a number from {least:g} to {most:g}.")
    plain: Any = value
    if not least <= plain <= most:  # NaN is neither
        raise B4MError(f"{name} is {_shown(value)}: it must be at least {least:g} and at most {most:g}.")
    return float(plain)


def text(value: Any, name: str, longest: int = LONGEST_TEXT) -> str:
    """A text that can be written down: no half characters, no null character, not longer than ``longest``."""
    if not isinstance(value, str):
        raise B4MError(f"The input {name} got something else than text ({_kind(value)}): connect a string.")
    if len(value) > longest:
        raise B4MError(f"The text in {name} has {len(value)} characters: write at most {longest}.")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise B4MError(f"The text in {name} holds a character that cannot be written down: type it again.")
    return value


def yes_or_no(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise B4MError(f"{name} is {_shown(value)}: it must be true or false.")
    return value


def choice(value: Any, name: str, options: Collection[str]) -> str:
    """One of ``options``."""
    if not isinstance(value, str) or value not in options:
        more = f" and {len(options) - _MOST_NAMED} more" if len(options) > _MOST_NAMED else ""
        raise B4MError(f"{name} is {_shown(value)}: choose one of {', '.join([*options][:_MOST_NAMED])}{more}.")
    return value


def _is_whole_float(value: Any) -> bool:
    a_float = isinstance(value, Real) and not isinstance(value, Integral)
    return a_float and math.isfinite(value) and value == math.floor(value)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _shown(value: Any) -> str:
    """A value on one short line."""
    if isinstance(value, bool) or not isinstance(value, (str, Real)):
        return f"of another kind ({_kind(value)})"
    if isinstance(value, Integral) and abs(int(value)) >= 10**20:
        return "a number of more than 20 digits"
    written = str(value) if isinstance(value, Real) else repr(value[:60])
    return "".join(letter if letter.isprintable() else "?" for letter in written)
