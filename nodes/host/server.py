"""Events to the page and routes for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .asking import ask

_LOOKED_THROUGH = 30  # prompts of the host's history


def send_event(event: str, payload: dict[str, Any]) -> None:
    """Send an event to every open page; does nothing when no server runs (tests, scripts)."""
    server = _running_server()
    if server is not None:
        server.send_sync(event, payload)


def add_json_route(path: str, answer: Callable[[], Any]) -> None:
    """Serve `answer()` as JSON under GET `path`. The route takes no parameters: nothing of the request is read."""
    server = _running_server()
    if server is None:
        return

    async def handle(_: web.Request) -> web.Response:
        return web.json_response(answer())

    server.routes.get(path)(handle)


def newest_result(node_id: str, key: str) -> tuple[Any, float] | None:
    """The first value that the newest finished prompt with this node has under `key` of the node's ui, and when that prompt ended (s)."""
    server = _running_server()
    newest = {} if server is None else server.prompt_queue.get_history(max_items=_LOOKED_THROUGH)
    for entry in reversed(list(newest.values())):
        values = (entry.get("outputs", {}).get(node_id) or {}).get(key)
        times = [message["timestamp"] for _, message in (entry.get("status") or {}).get("messages", []) if "timestamp" in message]
        if values and times:
            return values[0], max(times) / 1000
    return None


def _running_server() -> Any:
    """The host's PromptServer if one runs: its module is imported by then, and importing it here would start half a server."""
    return ask(ask(sys.modules.get("server"), "PromptServer"), "instance")
