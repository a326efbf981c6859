"""Widgets, checked against their own description before a node runs.

The host checks a widget's range only where the value is written in the graph, its choices not at all, and never what comes by a wire; and
whoever reaches /prompt writes the graph. So every node's `execute` is given values of the kind, the range and the choices that its schema
says, or the artist is given a sentence.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.v0_0_2 import io

from ..b4m_core import B4MError
from ..b4m_core.checked import choice, number, text, whole, yes_or_no
from ..b4m_core.presets import BY_PRESET, rate
from .widgets import RATES

NAMES_OF_FILES = ("folder", "filename")
"""Lists of what lies in the host's folders now: host/folders.py looks there, and says what is not."""

Check = Callable[[Any], Any]


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same class, its widgets checked from now on."""
    schema = node.GET_SCHEMA()
    checks = {each.id: check for each in schema.inputs if (check := _check_of(each, node)) is not None}
    own: Any = node.execute  # the class's, or one that it inherits
    inner: Callable[..., io.NodeOutput] = own.__func__
    names = list(inspect.signature(inner).parameters)[1:]

    @functools.wraps(inner)
    def execute(cls: type[io.ComfyNode], *values: Any, **named: Any) -> io.NodeOutput:
        given = {**dict(zip(names, values, strict=False)), **named}
        for name in [name for name in checks if name in given]:
            given[name] = _each(checks[name], given[name], name) if schema.is_input_list else _one(checks[name], given[name], name)
        return inner(cls, **given)

    setattr(node, "execute", classmethod(execute))  # noqa: B010 - the class declares another signature
    return node


def _each(check: Check, values: Any, name: str) -> Any:
    """What comes as a list; what is missing in it is the node's own to say."""
    if not isinstance(values, (list, tuple)):
        return values if values is None else check(values)
    return [None if value is None else check(value) for value in values]


def _one(check: Check, value: Any, name: str) -> Any:
    if value is None:
        raise B4MError(f"The input {name} got nothing: connect a value, or take the wire away.")
    return check(value)


def _check_of(widget: Any, node: type[io.ComfyNode]) -> Check | None:
    """What holds for a widget, None for a wire."""
    name = widget.id
    if isinstance(widget, io.Int.Input):
        return lambda value: whole(value, name, *_range(widget, -(2**63), 2**63))
    if isinstance(widget, io.Float.Input):
        return lambda value: number(value, name, *_range(widget, -1e9, 1e9))
    if isinstance(widget, io.Boolean.Input):
        return lambda value: yes_or_no(value, name)
    if isinstance(widget, io.String.Input):
        return None if widget.force_input else lambda value: text(value, name)
    if isinstance(widget, io.Combo.Input):
        if RATES[-1] in widget.options:  # scripts may give any number
            return lambda value: value if value == BY_PRESET else rate(value, name)
        return (lambda value: text(value, name)) if name in NAMES_OF_FILES else lambda value: _choice(value, widget, node)
    return None


def _choice(value: Any, widget: Any, node: type[io.ComfyNode]) -> str:
    """One of the list as it was when the host started, or as it is now."""
    if value in widget.options:
        return choice(value, widget.id, widget.options)
    return choice(value, widget.id, next(each.options for each in node.define_schema().inputs if each.id == widget.id))


def _range(widget: Any, least: Any, most: Any) -> tuple[Any, Any]:
    """The least and the most that a number may be."""
    return least if widget.min is None else widget.min, most if widget.max is None else widget.max
