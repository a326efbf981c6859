"""B4M for ComfyUI: train a content and a style from a few pictures each, then paint the one in the other.

ComfyUI imports every folder in custom_nodes. Of two copies of this pack (a git clone and an unpacked archive, say) the first that works
is used; the second adds nothing, since routes and web extensions of one name cannot be there twice, and says which folder to delete.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.v0_0_2 import ComfyExtension

_FOLDER = Path(__file__).absolute().parent  # links are not followed: two links to one folder are two copies to the host


def _copy_in_use() -> Path | None:
    """The folder of another copy whose nodes the host has, None without one or without a host."""
    known = vars(sys.modules.get("nodes", sys)).get("NODE_CLASS_MAPPINGS") or {}
    module = sys.modules.get(known["B4MPictures"].__module__) if "B4MPictures" in known else None
    place = None if module is None or module.__file__ is None else Path(module.__file__).absolute().parents[1]
    return None if place == _FOLDER else place


OTHER_COPY = _copy_in_use()
WEB_DIRECTORY = "./web" if OTHER_COPY is None else None


async def comfy_entrypoint() -> ComfyExtension:
    """ComfyUI's V3 entry point. The imports are here so that this file can be read without a ComfyUI around it."""
    if OTHER_COPY is None:
        from .nodes import B4MExtension

        return B4MExtension()
    logging.warning("B4M for ComfyUI is installed twice: %s is used, and %s is not; delete the latter.", OTHER_COPY, _FOLDER)
    from comfy_api.v0_0_2 import ComfyExtension

    class Spare(ComfyExtension):
        """No nodes, no routes."""

        async def get_node_list(self) -> list[type]:
            return []

    return Spare()
