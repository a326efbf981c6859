"""Follows a posted graph on the websocket and shows how far it is."""

from __future__ import annotations

import json
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from . import client
from .client import Graph
from .console import StatusLine, duration
from .errors import LauncherError
from .server import Server
from .websocket import WebSocket

SECONDS_TO_CANCEL = 20.0


@dataclass
class Pace:
    """How fast one node goes, and so how long it will still take."""

    first: tuple[float, float] | None = None

    def left(self, value: float, total: float, now: float) -> float | None:
        """Seconds left after `value` of `total` steps; None until a second step has been seen."""
        if self.first is None or value < self.first[1]:
            self.first = (now, value)
        since, start = self.first
        return (now - since) / (value - start) * (total - value) if value > start else None


@dataclass
class Progress:
    """What is known of a run: which nodes are done, which one runs, and how far it is."""

    graph: Graph
    line: StatusLine = field(default_factory=StatusLine)
    begun: set[str] = field(default_factory=set)
    paces: dict[str, Pace] = field(default_factory=dict)

    def hear(self, kind: str, data: dict[str, Any]) -> bool:
        """Takes one message of the host. True when the run is finished; raises NodeError when it failed."""
        if kind == "execution_error":
            raise client.failure(data, self.graph)
        if kind == "execution_interrupted":
            raise LauncherError("The run was cancelled: the same command goes on where it stopped.")
        if kind == "execution_cached":
            self.begun.update(data.get("nodes", []))
        elif kind == "executing" and data.get("node"):
            self.begun.add(data["node"])
            self.line.show(self._headline(data["node"]))
        elif kind == "progress":
            self._step(str(data.get("node")), float(data["value"]), float(data["max"]))
        return kind == "execution_success" or (kind == "executing" and data.get("node") is None)

    def _headline(self, node: str) -> str:
        return f"[{min(len(self.begun), len(self.graph))}/{len(self.graph)}] {client.title(self.graph, node)}"

    def _step(self, node: str, value: float, total: float) -> None:
        left = self.paces.setdefault(node, Pace()).left(value, total, time.monotonic())
        time_left = "" if left is None else f", {duration(left)} left"
        self.line.show(self._headline(node), f"{value:.0f} of {total:.0f}{time_left}")


def follow(host_server: Server, graph: Graph) -> dict[str, Any]:
    """Posts the graph, shows its progress until it is finished, and returns its outputs. Ctrl-C cancels it cleanly first."""
    with host_server.client.listen() as socket:
        heard = _ear(socket)
        run = host_server.client.queue(graph)
        progress = Progress(graph)
        try:
            _until_finished(host_server, heard, run, progress)
        except KeyboardInterrupt:
            _cancel(host_server, heard, run)
            raise
        finally:
            progress.line.end()
    return host_server.client.wait(run, seconds=60.0)


def _ear(socket: WebSocket) -> queue.Queue[tuple[str, dict[str, Any]] | None]:
    """Listens in a thread of its own: a blocked read cannot be interrupted by Ctrl-C on Windows, a queue's can."""
    heard: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue()

    def listen() -> None:
        try:
            for text in socket.texts():
                message = json.loads(text)
                heard.put((message.get("type", ""), message.get("data") or {}))
        except (OSError, ValueError):
            pass
        heard.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return heard


def _until_finished(host_server: Server, heard: queue.Queue[tuple[str, dict[str, Any]] | None], run: str, progress: Progress) -> None:
    while True:
        try:
            message = heard.get(timeout=0.5)
        except queue.Empty:
            continue
        if message is None:
            raise LauncherError(f"ComfyUI ended in the middle of the run: {host_server.last_words()}; the whole log is {host_server.log}.")
        kind, data = message
        if data.get("prompt_id") == run and progress.hear(kind, data):
            return


def _cancel(host_server: Server, heard: queue.Queue[tuple[str, dict[str, Any]] | None], run: str) -> None:
    """Asks the host to cancel and gives the node time to put away what it has."""
    deadline = time.monotonic() + SECONDS_TO_CANCEL
    try:
        host_server.client.interrupt()
        while time.monotonic() < deadline:
            message = heard.get(timeout=SECONDS_TO_CANCEL)
            if message is None or message[0] in ("execution_interrupted", "execution_success", "execution_error"):
                return
    except (OSError, queue.Empty):
        return
