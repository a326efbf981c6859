"""What training nodes show, by the run that they show, for pages that were reloaded, opened another graph or met a new server.

A node's number says nothing: every workflow has a node 6. What a run belongs to is told by the content of the graph that leads to its node
(`graph_key`): the types and inputs of the node and of all before it, and the files in the folders that they name. A run that goes on is
found by its workflow's id and its page too, since an artist may change widgets meanwhile; what another tab does with a workflow of the same
id is another training. States lie in the run store and outlive the server.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..b4m_core import B4MError
from ..b4m_core.atomic import write_atomically
from . import host

ROUTE = "/b4m/shown"
RUNNING = ("started", "auxiliary", "encoding", "training", "painting")
ENDED_WITH_SERVER = "ComfyUI was ended. Run goes on from what was kept."
_REMEMBERED, _KEPT_FILES = 50, 300
_SECONDS_BETWEEN_WRITES = 10.0

Graph = Mapping[str, Mapping[str, Any]]

_states: dict[str, dict[str, Any]] = {}
"""The newest states by run, the one that changed last at the end."""
_written: dict[str, float] = {}
"""When the state of a run was last written, in seconds of the monotonic clock."""


def add_route(fingerprint: Callable[[str], str]) -> None:
    """Register POST /b4m/shown; `fingerprint` changes with the files of a folder. Must be called while the host starts.

    Asked {"prompt": the open graph as /prompt takes it, "graph": its workflow's id, "page": the page's own id, "runs": [names]}, it answers
    {"nodes": {execution id: state}, "runs": {name: state}} with all that is known of those.
    """
    host.add_json_route(ROUTE, lambda asked: _answer(asked, fingerprint))


def _answer(asked: Mapping[str, Any], fingerprint: Callable[[str], str]) -> dict[str, Any]:
    graph = asked.get("prompt")
    graph = {name: node for name, node in graph.items() if isinstance(node, dict)} if isinstance(graph, dict) else {}
    runs = asked.get("runs")
    asker = asked.get("graph"), asked.get("page", "")
    found = {name: of_node(graph, name, asker, fingerprint) for name in graph if _is_training(graph[name])}
    return {
        "nodes": {name: state for name, state in found.items() if state},
        "runs": {name: _states[name] for name in (runs if isinstance(runs, list) else []) if isinstance(name, str) and name in _states},
    }


def of_node(graph: Graph, name: str, asker: tuple[Any, Any], fingerprint: Callable[[str], str]) -> dict[str, Any] | None:
    """What the node `name` of a graph shows: a run of the same content, else one of the asking (workflow, page) that goes on."""
    key = graph_key(graph, name, fingerprint)
    alive = list(_states.values())[::-1]
    same = next((state for state in alive if state["key"] == key), None) or _read(key)
    going_on = (state for state in alive if state["state"] in RUNNING and asker[0] and (state["graph"], state["page"]) == asker)
    return same or next((state for state in going_on if (state["node"], state["type"]) == (name, graph[name]["class_type"])), None)


def graph_key(graph: Graph, name: str, fingerprint: Callable[[str], str]) -> str:
    """sha256 of all that leads to a node: equal for the same nodes under other numbers, another with any other input or file."""
    keys: dict[str, str] = {}
    entered: set[str] = set()  # a node that is met again before it has a key closes a circle of wires, which never runs
    waiting = [name]
    while waiting:
        current = waiting[-1]
        inputs = _inputs(graph, current)
        if current not in entered:
            entered.add(current)
            waiting += [value[0] for value in inputs.values() if _is_wire(value, graph) and value[0] not in entered]
            continue
        waiting.pop()
        if current in keys:
            continue
        told = {key: [keys.get(value[0], ""), value[1]] if _is_wire(value, graph) else _plain(value) for key, value in inputs.items()}
        folder = inputs.get("folder")
        files = _files(folder, fingerprint) if isinstance(folder, str) else ""
        text = json.dumps([graph.get(current, {}).get("class_type"), told, files], sort_keys=True, default=str)
        keys[current] = hashlib.sha256(text.encode()).hexdigest()
    return keys[name]


def remember(payload: dict[str, Any]) -> None:
    """Merge what changed into the state of its run ("run" names it) and keep it on disk at its ends and every ten seconds."""
    run = payload["run"]
    before = _states.pop(run, {"key": "", "graph": "", "page": ""})
    state = _states[run] = {**before, **payload}
    while len(_states) > _REMEMBERED:
        _states.pop(next(iter(_states)))
    due = time.monotonic() - _written.get(run, -_SECONDS_BETWEEN_WRITES) >= _SECONDS_BETWEEN_WRITES
    if state["key"] and (due or state["state"] not in RUNNING):
        _written[run] = time.monotonic()
        _write(state)


def _plain(value: Any) -> Any:
    """The host makes 1 the 1.0 of a float widget before it runs a graph; the page says 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_training(node: Mapping[str, Any]) -> bool:
    return str(node.get("class_type", "")).startswith("B4MTrain")


def _inputs(graph: Graph, name: str) -> Mapping[str, Any]:
    inputs = graph.get(name, {}).get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _is_wire(value: Any, graph: Graph) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in graph


def _files(folder: str, fingerprint: Callable[[str], str]) -> str:
    """What changes with a folder's files, the same for every folder that cannot be read."""
    try:
        return fingerprint(folder)
    except (B4MError, OSError):
        return ""


def _file(key: str) -> Path:
    return host.run_store_folder() / "shown" / f"{key[:32]}.json"


def _write(state: Mapping[str, Any]) -> None:
    """Keep a state beside the runs; a disk that refuses costs the display after a restart, not the training."""
    try:
        file = _file(state["key"])
        write_atomically(file, [json.dumps(state).encode()], check=lambda partial: json.loads(partial.read_bytes()))
        older = sorted(file.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-_KEPT_FILES]
        for each in older:
            each.unlink(missing_ok=True)
    except (B4MError, OSError):
        return


def _read(key: str) -> dict[str, Any] | None:
    """A state that an earlier server kept; what it was still doing then was stopped with it."""
    try:
        state = json.loads(_file(key).read_bytes())
    except (B4MError, OSError, ValueError):
        return None
    if not isinstance(state, dict) or state.get("key") != key:
        return None
    if state.get("state") in RUNNING:
        state |= {"state": "stopped", "seconds_left": None, "end": ENDED_WITH_SERVER, "at": time.time()}
    return state
