"""Talks to a running ComfyUI: posts graphs, hears about their progress, finds what came out."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

from .errors import LauncherError
from .websocket import WebSocket

Graph = dict[str, dict[str, Any]]
"""A graph in the host's API format: node id -> {class_type, inputs, _meta}."""


class NodeError(LauncherError):
    """A node of a posted graph failed, or the host refused the graph."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(f"{node}: {message}" if node else message)
        self.node, self.message = node, message


class Client:
    """The host's HTTP and websocket interface at one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = uuid.uuid4().hex
        # a proxy for the internet must not be asked for this machine's own address
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(self, path: str, body: Any = None, *, timeout: float = 60.0) -> Any:
        """The JSON answer to a GET, or to a POST when there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def command_line(self) -> list[str]:
        """The words that the answering server was started with; none while nobody answers."""
        try:
            words: list[str] = self.request("/system_stats", timeout=5.0)["system"]["argv"]
            return words
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def answers(self) -> bool:
        """Whether a server is up."""
        return bool(self.command_line())

    def node_types(self) -> dict[str, Any]:
        """Everything that the host knows about its node types."""
        found: dict[str, Any] = self.request("/object_info", timeout=120.0)
        return found

    def queue(self, graph: Graph) -> str:
        """Posts a graph and returns the id of its run. Raises NodeError when the host refuses it."""
        try:
            answer = self.request("/prompt", {"prompt": graph, "client_id": self.name})
        except urllib.error.HTTPError as error:
            raise _refusal(error, graph) from None
        return str(answer["prompt_id"])

    def interrupt(self) -> None:
        """Asks the host to cancel what runs."""
        self._opener.open(urllib.request.Request(self.address + "/interrupt", b""), timeout=10.0).close()

    def outputs(self, run: str) -> dict[str, Any] | None:
        """What a finished run put out, by node id; None while it is not finished. Raises NodeError when it failed."""
        entry = self.request(f"/history/{run}").get(run)
        if not entry:
            return None
        for kind, data in entry.get("status", {}).get("messages", []):
            if kind == "execution_error":
                raise failure(data, {})
            if kind == "execution_interrupted":
                raise NodeError(str(data.get("node_type", "")), "cancelled")
        found: dict[str, Any] = entry["outputs"]
        return found

    def wait(self, run: str, *, seconds: float) -> dict[str, Any]:
        """Waits for a run's outputs by asking for them again and again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.outputs(run)
            if found is not None:
                return found
            time.sleep(0.2)
        raise LauncherError(f"The graph was not finished after {seconds:.0f} s.")

    def run(self, graph: Graph, *, seconds: float = 600.0) -> dict[str, Any]:
        """Posts a graph, waits for it, and returns its outputs by node id."""
        return self.wait(self.queue(graph), seconds=seconds)

    def listen(self) -> WebSocket:
        """The websocket on which this client hears of its runs; open it before posting."""
        return WebSocket.connect(self.address.removeprefix("http://"), f"/ws?clientId={self.name}")


def title(graph: Graph, node: str) -> str:
    """What a person calls a node: its title, else its type. A node inside a subgraph goes by the outer one's."""
    for name in (node, node.split(":")[0]):
        if name in graph:
            return str(graph[name].get("_meta", {}).get("title") or graph[name]["class_type"])
    return f"node {node}"


def failure(data: dict[str, Any], graph: Graph) -> NodeError:
    """The host's report of a failed node as one sentence."""
    node = str(data.get("node_id", ""))
    name = title(graph, node) if graph else str(data.get("node_type", node))
    return NodeError(name, str(data.get("exception_message", "failed without a word")).strip())


def _refusal(error: urllib.error.HTTPError, graph: Graph) -> NodeError:
    """The host's refusal of a graph, with the first node it complains about."""
    try:
        answer = json.loads(error.read())
    except ValueError:
        return NodeError("", f"the host answered {error.code} {error.reason}")
    for node, complaint in (answer.get("node_errors") or {}).items():
        for each in complaint.get("errors", []):
            return NodeError(title(graph, node), f"{each.get('message', '')}: {each.get('details', '')}".strip(": "))
    about = answer.get("error", {})
    text = about if isinstance(about, str) else f"{about.get('message', '')}: {about.get('details', '')}"
    return NodeError("", text.strip(": "))
