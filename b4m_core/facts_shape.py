"""The shape of the facts in a header, field by field, before anything is made from them.

Whoever writes a file writes its facts and their checksum too. What JSON allows and a file of ours never holds (NaN,
numbers as text, half characters, a number of a million digits) is refused here, so that nothing that lists, shows or
saves an adapter meets it.
"""

import json
import math
from typing import Any

from .bounds import MOST_RANK

_MOST_STEPS, _MOST_SEED = 10**9, 2**63
_LONGEST = 4000  # characters of a name, a trigger word, a setting
_MOST_ROWS, _MOST_ENTRIES = 20_000, 1000  # of losses; of settings, parents


def parsed(text: str) -> dict[str, Any]:
    """The facts as JSON has them. Raises ValueError or TypeError for what no file of ours says."""
    raw = json.loads(text, parse_constant=_no_number)
    if not isinstance(raw, dict):
        raise TypeError("they are no table of names and values")
    json.dumps(raw, ensure_ascii=False).encode()  # half a character cannot be written down again
    _require_numbers(raw)
    for name, value in raw.items():
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ValueError(f"{name} has {len(value)} characters")
    for side in ("content", "style"):
        _require_concept(raw.get(side), side)
    _require_losses(raw.get("losses", []))
    _require_texts(raw.get("parents", []), "parents", _MOST_ENTRIES)
    _require_settings(raw.get("settings", {}))
    return raw


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _require_numbers(raw: dict[str, Any]) -> None:
    for name, least, most in (("rank", 1, MOST_RANK), ("steps", 0, _MOST_STEPS), ("basis_seed", -_MOST_SEED, _MOST_SEED)):
        value = raw.get(name, least)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} is out of range")


def _require_concept(concept: Any, side: str) -> None:
    if concept is None:
        return
    if not isinstance(concept, dict):
        raise TypeError(f"{side} is no concept")
    _require_texts([concept.get(name, "") for name in ("trigger", "class_word")], side, 2)
    _require_texts(concept.get("prompts", []), f"the prompts of {side}", None)


def _require_losses(losses: Any) -> None:
    if not isinstance(losses, list) or len(losses) > _MOST_ROWS:
        raise TypeError("losses are no list, or too long a one")
    for row in losses:
        if not isinstance(row, list) or len(row) != 3 or not all(map(_is_number, row)):
            raise TypeError("a loss is not a step, an own and a partner loss")


def _require_texts(texts: Any, name: str, most: int | None) -> None:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} are no texts")
    if most is not None and (len(texts) > most or any(len(text) > _LONGEST for text in texts)):
        raise ValueError(f"{name} are too many or too long")


def _require_settings(settings: Any) -> None:
    if not isinstance(settings, dict) or len(settings) > _MOST_ENTRIES:
        raise TypeError("settings are no table of names and values")
    for name, value in settings.items():
        plain = value is None or isinstance(value, (bool, str)) or _is_number(value)
        if not plain or len(str(name)) > _LONGEST or isinstance(value, str) and len(value) > _LONGEST:
            raise TypeError(f"the setting {name[:40]} is no plain value")


def _is_number(value: Any) -> bool:
    whole = type(value) is int and abs(value) <= _MOST_SEED
    return whole or type(value) is float and math.isfinite(value)
