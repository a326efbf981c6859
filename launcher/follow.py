"""Follows a posted graph on the websocket and shows how far it is."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection

from . import client
from .client import Graph
from .console import duration, has_terminal, say
from .errors import LauncherError
from .server import Server

SECONDS_TO_CANCEL = 20.0
SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_PACE = 600.0
"""How much of the past tells how fast a node goes: a step of a large model takes many seconds."""

Heard = queue.Queue["tuple[str, dict[str, Any]] | None"]
"""Messages of the host, each its kind and its data; None when there are no more."""


class Display:
    """Bars that move on a terminal, one for each node that counts its steps; elsewhere lines, at most one each few seconds."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(file=sys.stdout) if sys.stdout is not None else Console(quiet=True)
        self.bars = Progress(*columns, console=console, disable=not has_terminal(), speed_estimate_period=SECONDS_OF_PACE)
        self.current: TaskID | None = None
        self.last = -SECONDS_BETWEEN_LINES

    def begin(self, headline: str) -> None:
        """A node begins to run."""
        if self.current is not None and self._task(self.current).total is None:
            self.bars.remove_task(self.current)  # it had no steps, so it leaves no bar
        self.current = self.bars.add_task(headline, total=None)
        self._line(headline)

    def step(self, value: float, total: float) -> None:
        """The node that runs has done `value` of `total` steps."""
        if self.current is None:
            return
        self.bars.update(self.current, completed=value, total=total)
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            task = self._task(self.current)
            left = "" if task.time_remaining is None else f", {duration(task.time_remaining)} left"
            self._line(f"{task.description}: {value:.0f} of {total:.0f}{left}")

    def _task(self, number: TaskID) -> Any:
        return next(task for task in self.bars.tasks if task.id == number)

    def _line(self, text: str) -> None:
        if self.bars.disable:
            say(text)
            self.last = time.monotonic()


class Run:
    """What is known of a run: which nodes are done and which one runs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.display = Display()
        self.begun: set[str] = set()
        self.running = ""

    def hear(self, kind: str, data: dict[str, Any]) -> bool:
        """Takes one message of the host. True when the run is finished; raises NodeError when it failed."""
        if kind == "execution_error":
            raise client.failure(data, self.graph)
        if kind == "execution_interrupted":
            raise LauncherError("The run was cancelled: the same command goes on where it stopped.")
        if kind == "execution_cached":
            self.begun.update(data.get("nodes", []))
        elif kind == "executing" and data.get("node"):
            self._begin(str(data["node"]))
        elif kind == "progress":
            self._begin(str(data.get("node") or self.running))
            self.display.step(float(data["value"]), float(data["max"]))
        return kind == "execution_success" or (kind == "executing" and data.get("node") is None)

    def _begin(self, node: str) -> None:
        if node != self.running:
            self.running = node
            self.begun.add(node)
            self.display.begin(f"[{min(len(self.begun), len(self.graph))}/{len(self.graph)}] {client.title(self.graph, node)}")


def follow(host_server: Server, graph: Graph) -> dict[str, Any]:
    """Posts the graph, shows its progress until it is finished, and returns its outputs. Ctrl-C cancels it cleanly first."""
    with host_server.client.listen() as connection:
        heard = _ear(connection)
        posted = host_server.client.queue(graph)
        run = Run(graph)
        try:
            with run.display.bars:
                _until_finished(host_server, heard, posted, run)
        except KeyboardInterrupt:
            _cancel(host_server, heard)
            raise
    return host_server.client.wait(posted, seconds=60.0)


def _ear(connection: ClientConnection) -> Heard:
    """Listens in a thread of its own: a blocked read cannot be interrupted by Ctrl-C on Windows, a queue's can."""
    heard: Heard = queue.Queue()

    def listen() -> None:
        try:
            for text in connection:
                if isinstance(text, str):  # pictures come as bytes
                    message = json.loads(text)
                    heard.put((message.get("type", ""), message.get("data") or {}))
        except (OSError, ValueError, WebSocketException):
            pass
        heard.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return heard


def _until_finished(host_server: Server, heard: Heard, posted: str, run: Run) -> None:
    while True:
        try:
            message = heard.get(timeout=0.5)
        except queue.Empty:
            continue
        if message is None:
            raise LauncherError(f"ComfyUI ended in the middle of the run: {host_server.last_words()}; the whole log is {host_server.log}.")
        kind, data = message
        if data.get("prompt_id") == posted and run.hear(kind, data):
            return


def _cancel(host_server: Server, heard: Heard) -> None:
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
