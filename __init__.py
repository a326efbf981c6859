"""B4M for ComfyUI: train a content and a style from a few pictures each, then paint the one in the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import B4MExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> B4MExtension:
    """ComfyUI's V3 entry point. The import is here so that this file can be read without a ComfyUI around it."""
    from .nodes import B4MExtension

    return B4MExtension()
