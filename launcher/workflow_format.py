"""A workflow as it is written here, and in the two forms that a ComfyUI reads: for the page, and for /prompt.

What a node has for inputs and outputs is what a running ComfyUI says of it (`Info`, from /object_info).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
Info = dict[str, Any]


@dataclass(frozen=True)
class Wire:
    """The output ``name`` of the node ``key``."""

    key: str
    name: str


@dataclass(frozen=True)
class Node:
    """One node: its type, place and size on the canvas, and its inputs (values or wires)."""

    type: str
    at: tuple[int, int]
    size: tuple[int, int]
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    models: tuple[dict[str, str], ...] = ()
    """Files that its widgets name, each with name, url and directory: the page offers those that are missing for download."""
    colours: tuple[str, str] | None = None
    """Of its title and its body, where they are not the type's."""


@dataclass(frozen=True)
class Note:
    """A text on the canvas, in Markdown."""

    text: str
    at: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class Graph:
    """A workflow: nodes by key, titled boxes (title, x, y, width, height) around them, a note, and what the page shows of it at first."""

    nodes: dict[str, Node]
    note: Note
    groups: tuple[tuple[str, int, int, int, int], ...] = ()
    scale: float = 0.62
    offset: tuple[int, int] = (115, 252)


def api_format(graph: Graph, info: Info) -> dict[str, Any]:
    """The graph for /prompt, with every widget spelled out."""
    numbers = {key: str(index + 1) for index, key in enumerate(graph.nodes)}
    result = {}
    for key, node in graph.nodes.items():
        inputs = {name: _default(spec) for name, spec in _inputs(info[node.type]) if _is_widget(spec)} | node.inputs
        wired = {
            name: [numbers[value.key], _slot(graph, value, info)] if isinstance(value, Wire) else value for name, value in inputs.items()
        }
        result[numbers[key]] = {"class_type": node.type, "inputs": wired, "_meta": {"title": node.title or info[node.type]["display_name"]}}
    return result


def page_format(graph: Graph, info: Info) -> dict[str, Any]:
    """The graph for the page's canvas."""
    numbers = {key: index + 1 for index, key in enumerate(graph.nodes)}
    links: list[list[Any]] = []
    nodes = [_page_node(key, node, graph, info, numbers, links) for key, node in graph.nodes.items()]
    for link in links:
        output = nodes[link[1] - 1]["outputs"][link[2]]
        output["links"] = (output["links"] or []) + [link[0]]
    nodes.append(_note(len(nodes) + 1, graph.note))
    groups = [
        {"id": index + 1, "title": title, "bounding": [x, y, width, height], "color": "#3f789e", "font_size": 24, "flags": {}}
        for index, (title, x, y, width, height) in enumerate(graph.groups)
    ]
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"ds": {"scale": graph.scale, "offset": list(graph.offset)}},
        "version": 0.4,
    }


def _page_node(key: str, node: Node, graph: Graph, info: Info, numbers: dict[str, int], links: list[list[Any]]) -> dict[str, Any]:
    facts = info[node.type]
    inputs: list[dict[str, Any]] = []
    values: list[Any] = []
    for name, spec in _inputs(facts):
        value = node.inputs.get(name)
        if _is_widget(spec):
            values.append(_default(spec) if value is None else value)
            if len(spec) > 1 and spec[1].get("control_after_generate"):
                values.append("fixed")
            continue
        entry: dict[str, Any] = {"name": name, "type": spec[0], "link": None}
        if isinstance(value, Wire):
            link = [len(links) + 1, numbers[value.key], _slot(graph, value, info), numbers[key], len(inputs), spec[0]]
            links.append(link)
            entry["link"] = link[0]
        inputs.append(entry)
    outputs = [{"name": name, "type": kind, "links": None} for name, kind in zip(facts["output_name"], facts["output"], strict=True)]
    return {
        "id": numbers[key],
        "type": node.type,
        "pos": list(node.at),
        "size": list(node.size),
        "flags": {},
        "order": numbers[key] - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": node.title} if node.title else {}),
        "properties": {"Node name for S&R": node.type, **({"models": list(node.models)} if node.models else {})},
        "widgets_values": values,
        **(dict(zip(("color", "bgcolor"), node.colours, strict=True)) if node.colours else {}),
    }


def _note(number: int, note: Note) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": list(note.at),
        "size": list(note.size),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "B4M",
        "properties": {},
        "widgets_values": [note.text],
        "color": "#432",
        "bgcolor": "#653",
    }


def _inputs(facts: Info) -> list[tuple[str, Any]]:
    parts = facts["input"]
    return [item for part in ("required", "optional") for item in parts.get(part, {}).items()]


def _is_widget(spec: Any) -> bool:
    forced = len(spec) > 1 and spec[1].get("forceInput")
    return not forced and (isinstance(spec[0], list) or spec[0] in WIDGETS)


def _default(spec: Any) -> Any:
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
    return options.get("default", choices[0] if choices else "")


def _slot(graph: Graph, wire: Wire, info: Info) -> int:
    names = info[graph.nodes[wire.key].type]["output_name"]
    return int(names.index(wire.name))
