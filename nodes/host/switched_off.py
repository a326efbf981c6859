"""Nodes that the artist has bypassed or muted: the page leaves them out of what it sends, and only the drawing of the graph has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .asking import ask

_MUTED, _BYPASSED = 2, 4  # litegraph's modes


def switched_off(hidden: Any, name: str) -> str:
    """The title of the node on the input `name` of a node and what was done to it; empty where it is on.

    `hidden`: the node's hidden inputs, unique_id and extra_pnginfo. Inside subgraphs nothing is known.
    """
    drawn = ask(hidden, "extra_pnginfo")
    workflow = drawn.get("workflow") if isinstance(drawn, Mapping) else None
    if not isinstance(workflow, Mapping):
        return ""
    nodes = {str(node.get("id")): node for node in _list(workflow.get("nodes")) if isinstance(node, Mapping)}
    links = [_link(link) for link in _list(workflow.get("links"))]
    inputs = _list(nodes.get(str(hidden.unique_id), {}).get("inputs"))
    wanted = next((each.get("link") for each in inputs if isinstance(each, Mapping) and each.get("name") == name), None)
    source = next((nodes.get(start) for number, start in links if number is not None and number == wanted), None)
    if source is None or source.get("mode") not in (_MUTED, _BYPASSED):
        return ""
    title = str(source.get("title") or source.get("type") or "A node")[:60]
    return f"{title} is {'muted' if source['mode'] == _MUTED else 'bypassed'}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _link(link: Any) -> tuple[Any, str]:
    """The number of a link and the node that it begins at, in either way of writing it."""
    if isinstance(link, Mapping):
        return link.get("id"), str(link.get("origin_id"))
    return (link[0], str(link[1])) if isinstance(link, list) and len(link) > 1 else (None, "")
