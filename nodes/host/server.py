"""Events to the page and routes for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .asking import ask


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


def _running_server() -> Any:
    """The host's PromptServer if one runs: its module is imported by then, and importing it here would start half a server."""
    return ask(ask(sys.modules.get("server"), "PromptServer"), "instance")
