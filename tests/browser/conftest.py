"""The page of a real ComfyUI in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from host_page import MODE, QUIET, SETTINGS, Page
from packaging.version import Version

from launcher import testing
from launcher.server import Server

OF_THE_PAGE = ("/userdata", "/user.css", "/favicon.ico", "api.comfy.org", "undefined (reading 'id')\n    at onChange")
"""Complaints that the page makes about itself in a fresh ComfyUI without any pack: files a new user does not have, an address outside."""

BEFORE_TIME = "ComfyApp graph accessed before initialization"
HUB = "https://huggingface.co/Comfy-Org/z_image_turbo/"
OF_ONE_VERSION = {
    "1.25.10": ("Attempted to cleanup event listeners for graph that was never set up",),
    "1.49.6": (BEFORE_TIME, HUB),
    "1.53.6": (BEFORE_TIME, HUB),
    "1.58.1": (HUB,),
}
"""Those that single versions of the page make, without any pack too: they ask a hub for the models of their own default workflow."""


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


@pytest.fixture(params=[False, True], ids=["classic", "nodes_2"])
def page(request: pytest.FixtureRequest, chromium: Any, comfyui: Server, version_of_page: str) -> Iterator[Page]:
    """A fresh page in either of its ways to draw nodes, not yet opened, that collects what goes wrong on it."""
    comfyui.client.request("/settings", SETTINGS | {MODE: request.param})
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    by_address = Version(version_of_page) >= Version("1.32")
    page = Page(context.new_page(), comfyui.address, nodes_2=request.param, templates_by_address=by_address)
    known = OF_THE_PAGE + OF_ONE_VERSION.get(version_of_page, ())

    def complain(text: str) -> None:
        if not any(each in text for each in known):
            page.complaints.append(text)

    page.browser_page.on("console", lambda message: message.type == "error" and complain(f"{message.text} [{message.location['url']}]"))
    page.browser_page.on("pageerror", lambda error: complain(str(error)))
    yield page
    context.close()
