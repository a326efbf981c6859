"""Asking an object of the host for what only some versions or some kinds of it have."""

from __future__ import annotations

import inspect
from typing import Any


def ask(thing: object, name: str, otherwise: Any = None) -> Any:
    """`thing.name` where the object itself or its class has it, else `otherwise`.

    Not `getattr` with a default: objects of the host answer to every name (its model configurations with a warning and None), and then
    the default is never taken. What a class only makes up in `__getattr__` does not count; so torch's parameters and submodules don't.
    """
    try:
        inspect.getattr_static(thing, name)
    except AttributeError:
        return otherwise
    return getattr(thing, name)
