"""Events to the page and routes for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from ...b4m_core import B4MError
from .asking import ask


def send_event(event: str, payload: dict[str, Any]) -> None:
    """Send an event to every open page; does nothing when no server runs (tests, scripts)."""
    server = _running_server()
    if server is not None:
        server.send_sync(event, payload)


def running_page() -> str:
    """The id of the page, as it calls itself, whose run goes on; empty without one."""
    return str(ask(_running_server(), "client_id") or "")


def add_json_route(path: str, answer: Callable[[dict[str, Any]], Any]) -> None:
    """Serve `answer(what was asked)` as JSON under POST `path`; both are JSON objects. A B4MError is answered as {"error": its sentence}.

    Only application/json is taken: no other website's page can send that without being allowed to. Files are read in a thread of their own.
    """
    server = _running_server()
    if server is None:
        return

    async def handle(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return web.json_response({"error": "B4M answers to JSON alone."}, status=415)
        try:
            asked = await request.json()
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return web.json_response({"error": "B4M was asked for nothing that it knows."}, status=400)
        try:
            return web.json_response(await asyncio.to_thread(answer, asked))
        except B4MError as error:
            return web.json_response({"error": str(error)})  # an answer like another: pages log every status of 400 as an error

    server.routes.post(path)(handle)


def add_picture_route(path: str, picture: Callable[[dict[str, str]], bytes]) -> None:
    """Serve `picture(query)`, a JPEG, under GET `path`. The page changes the query when the picture changes, so that it may be kept."""
    server = _running_server()
    if server is None:
        return

    async def handle(request: web.Request) -> web.Response:
        try:
            body = await asyncio.to_thread(picture, dict(request.query))
        except B4MError as error:
            return web.json_response({"error": str(error)}, status=404)
        return web.Response(body=body, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    server.routes.get(path)(handle)


def _running_server() -> Any:
    """The host's PromptServer if one runs: its module is imported by then, and importing it here would start half a server."""
    return ask(ask(sys.modules.get("server"), "PromptServer"), "instance")
