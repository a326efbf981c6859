"""The demo: the shipped workflow on a real ComfyUI, from pictures to a contact sheet."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from . import places, ports, server
from .client import Graph, NodeError
from .console import duration, has_terminal, say, step
from .errors import LauncherError
from .follow import follow
from .hosts import Host, say_which
from .server import Server

WORKFLOW = places.PACK / "workflows" / "api" / "b4m_2_full_graph.json"
SHEET_PREFIX = "b4m/contact_sheet"
PAINTERS = ("__init__.py", "b4m_core", "nodes", "mini", "workflows")
"""The parts of the pack that decide what the contact sheet looks like."""


def run(host: Host, *, port: int | None, keep: bool) -> None:
    """Runs the demo and ends with the path of the contact sheet. A demo that was finished before, unchanged, is not run again."""
    started = time.monotonic()
    base = places.workspace()
    graph = load_workflow(WORKFLOW)
    key = fingerprint(host)
    before = finished_before(base, key)
    if before and not keep:
        say(f"Nothing has changed since the last demo, so nothing was done again.\n{before}")
        return
    chosen = ports.choose(port)
    say_which(host)
    host_server = _start(host, chosen, base, log_name="demo.log")
    try:
        sheet = before or _paint(host_server, graph, base, key)
    except BaseException:
        host_server.stop()
        raise
    say(f"Contact sheet after {duration(time.monotonic() - started)}:\n{sheet}")
    if keep:
        say(f"The server stays at {host_server.address} (process {host_server.process.pid}, log {host_server.log}).")
    else:
        host_server.stop()


def load_workflow(path: Path) -> Graph:
    """The graph in a file of the API format."""
    try:
        graph: Graph = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LauncherError(f"{path} is missing: get the whole pack again, for example with git clone.") from None
    except ValueError as error:
        raise LauncherError(f"{path} is not whole ({error}): get the pack again, for example with git clone.") from None
    return graph


def _start(host: Host, port: int, base: Path, *, log_name: str) -> Server:
    with step(f"ComfyUI starts on port {port}"):
        return server.start(host, port=port, base=base, log_name=log_name, options=["--disable-api-nodes"])


def _paint(host_server: Server, graph: Graph, base: Path, key: str) -> Path:
    """Posts the graph, follows it to its end and notes the contact sheet as finished."""
    check_nodes(host_server, graph)
    if not has_terminal():
        say(f"No terminal here: progress comes in whole lines; ComfyUI's own log is {host_server.log}.")
    outputs = follow(host_server, graph)
    sheet = contact_sheet(host_server, graph, outputs)
    _record(base).write_text(json.dumps({"key": key, "sheet": str(sheet)}))
    return sheet


def check_nodes(host_server: Server, graph: Graph) -> None:
    """Says why before posting a graph whose nodes the host does not have."""
    missing = sorted({node["class_type"] for node in graph.values()} - set(host_server.client.node_types()))
    if missing:
        reason = host_server.why_pack_failed() or "the pack was loaded without them"
        raise LauncherError(f"ComfyUI lacks {', '.join(missing)} ({reason.rstrip('.')}): look into {host_server.log}.")


def contact_sheet(host_server: Server, graph: Graph, outputs: dict[str, Any]) -> Path:
    """The file that the graph's contact sheet was saved to."""
    for node, content in graph.items():
        if str(content["inputs"].get("filename_prefix", "")).startswith(SHEET_PREFIX):
            for image in outputs.get(node, {}).get("images", []):
                return host_server.output_folder.joinpath(str(image["subfolder"]), str(image["filename"])).resolve()
    raise NodeError("", "The workflow ended without a contact sheet: look into " + str(host_server.log))


def _record(base: Path) -> Path:
    return base / "finished_demo.json"


def finished_before(base: Path, key: str) -> Path | None:
    """The contact sheet of an earlier demo with the same host, code, weights, workflow and pictures, if it is still there."""
    try:
        record = json.loads(_record(base).read_text())
        sheet = Path(record["sheet"])
        same: bool = record["key"] == key
        return sheet if same and sheet.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fingerprint(host: Host) -> str:
    """A hash over all that decides the demo's outcome."""
    digest = hashlib.sha256(f"{host.version} {host.folder}".encode())
    for part in PAINTERS:
        path = places.PACK / part
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
        for file in files:
            digest.update(file.relative_to(places.PACK).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
