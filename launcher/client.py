"""Talks to a running ComfyUI: posts graphs, hears about their progress, finds what came out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import requests
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from .errors import LauncherError

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
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the internet must not be asked for this machine's own address
        self._session.headers["Connection"] = "close"  # a server that was stopped and started again knows none of the old ones

    def request(self, path: str, body: Any = None, *, timeout: float = 60.0) -> Any:
        """The JSON answer to a GET, or to a POST when there is a body."""
        method = "GET" if body is None else "POST"
        answer = self._session.request(method, self.address + path, json=body, timeout=timeout)
        answer.raise_for_status()
        return answer.json() if answer.content else None

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
        except requests.HTTPError as error:
            if error.response is None:
                raise
            raise _refusal(error.response, graph) from None
        return str(answer["prompt_id"])

    def interrupt(self) -> None:
        """Asks the host to cancel what runs."""
        self._session.post(self.address + "/interrupt", timeout=10.0).raise_for_status()

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
        """Waits for a run's outputs by asking for them again and again, at first in quick succession."""
        deadline, pause = time.monotonic() + seconds, 0.01
        while time.monotonic() < deadline:
            found = self.outputs(run)
            if found is not None:
                return found
            time.sleep(pause)
            pause = min(1.5 * pause, 0.2)
        raise LauncherError(f"The graph was not finished after {seconds:.0f} s.")

    def run(self, graph: Graph, *, seconds: float = 600.0) -> dict[str, Any]:
        """Posts a graph, waits for it, and returns its outputs by node id."""
        return self.wait(self.queue(graph), seconds=seconds)

    @contextmanager
    def listen(self) -> Iterator[ClientConnection]:
        """The websocket on which this client hears of its runs, for the length of a block; open it before posting.

        Nothing is asked of the server in between: one that trains may be silent for longer than any limit.
        """
        address = self.address.replace("http://", "ws://", 1) + f"/ws?clientId={self.name}"
        with ExitStack() as opened:
            try:
                socket = connect(address, proxy=None, open_timeout=30.0, close_timeout=2.0, ping_interval=None, max_size=None)
                connection = opened.enter_context(socket)
            except (OSError, WebSocketException) as error:
                raise LauncherError(f"The ComfyUI at {self.address} does not answer on its websocket ({error}): start it anew.") from None
            yield connection


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


def _refusal(response: requests.Response, graph: Graph) -> NodeError:
    """The host's refusal of a graph, with the first node it complains about."""
    try:
        said = response.json()
    except ValueError:
        return NodeError("", f"the host answered {response.status_code} {response.reason}")
    for node, complaint in (said.get("node_errors") or {}).items():
        for each in complaint.get("errors", []):
            return NodeError(title(graph, node), f"{each.get('message', '')}: {each.get('details', '')}".strip(": "))
    about = said.get("error", {})
    text = about if isinstance(about, str) else f"{about.get('message', '')}: {about.get('details', '')}"
    return NodeError("", text.strip(": "))
