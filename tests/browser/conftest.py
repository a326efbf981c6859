"""The page of a real ComfyUI in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from host_page import Page

from launcher import testing
from launcher.server import Server

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
OF_THE_HOST = ("/userdata", "/user.css", "/favicon.ico", "api.comfy.org", "undefined (reading 'id')\n    at onChange")
"""Complaints that the page makes about itself in a fresh ComfyUI without any pack: files a new user does not have, an address outside."""

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped", "Comfy.Notification.ShowVersionUpdates": False}
"""As for a person who has been here before: no tour and no template browser at the start."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running headless Chromium."""
    path = testing.browser_on_path()
    if not path:
        pytest.skip("no Chromium or Chrome on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, newest_host: Server) -> Iterator[Page]:
    """A fresh page, not yet opened, that collects what goes wrong on it."""
    newest_host.client.request("/settings", SETTINGS)
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    page = Page(context.new_page(), newest_host.address)

    def complain(text: str) -> None:
        if not any(known in text for known in OF_THE_HOST):
            page.complaints.append(text)

    page.browser_page.on("console", lambda message: message.type == "error" and complain(f"{message.text} [{message.location['url']}]"))
    page.browser_page.on("pageerror", lambda error: complain(str(error)))
    yield page
    context.close()
