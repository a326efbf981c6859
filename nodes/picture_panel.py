"""What the page shows and does on B4M Pictures: thumbnails, captions, order, taking a picture out and putting it back.

Folders are named as in the node's list, and names of files are looked up in the folder and never joined to a path. What lies outside the
input folder, behind a link or with B4M itself, is shown and left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..b4m_core import B4MError
from ..b4m_core import picture_care as kept
from ..b4m_core.captions import fill_caption
from ..b4m_core.picture_kinds import READ
from . import host
from .dataset import DEMO, FROM_GRAPH, path_of

ROUTE, VIEW_ROUTE = "/b4m/pictures", "/b4m/pictures/view"


def add_routes() -> None:
    """Register POST /b4m/pictures and GET /b4m/pictures/view. Must be called while the host starts.

    The first is asked {"folder": name, "do": one of ACTIONS or nothing, with its "name", "text" or "names"}, does it and answers what the
    folder holds then; "trigger", "class_word" and "caption" are the node's. The second answers {folder, name, masked} with a small JPEG.
    """
    host.add_json_route(ROUTE, answer)
    host.add_picture_route(VIEW_ROUTE, view)


ACTIONS = {
    "caption": lambda folder, asked: kept.write_caption(folder, _text(asked, "name"), _text(asked, "text")),
    "order": lambda folder, asked: kept.write_order(folder, _names(asked)),
    "remove": lambda folder, asked: kept.take_out(folder, _text(asked, "name")),
    "restore": lambda folder, asked: kept.put_back(folder, _text(asked, "name")),
}


def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is asked, then say what the folder holds."""
    name = _text(asked, "folder")
    if do := asked.get("do"):
        if do not in ACTIONS:
            raise B4MError("B4M was asked for nothing that it knows.")
        ACTIONS[do](host.writable_input_folder(name), asked)
    return _contents(name, asked)


def view(query: Mapping[str, str]) -> bytes:
    """A small JPEG of one picture."""
    return kept.view(path_of(query.get("folder", "")), query.get("name", ""), query.get("masked") == "true")


def _contents(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    known = {"endings": sorted(READ), "from_graph": FROM_GRAPH}
    if name == FROM_GRAPH:
        return {"pictures": [], "removed": [], "fixed": "These come from the graph.", **known}
    folder = path_of(name)
    trigger, class_word, pattern = (_text(asked, key) for key in ("trigger", "class_word", "caption"))
    found = [
        {
            "name": each.name,
            "text": each.caption,
            "caption": fill_caption(each.caption or pattern, trigger, class_word, Path(each.name).stem),
            "mask": each.mask,
            "stamp": each.stamp,
        }
        for each in kept.entries(folder)
    ]
    return {"pictures": found, "removed": kept.removed(folder), "fixed": _why_fixed(name), **known}


def _why_fixed(name: str) -> str:
    """Why a folder's files are left alone, empty where they may be changed."""
    if name in DEMO:
        return "These come with B4M."
    try:
        host.writable_input_folder(name)
    except B4MError as error:
        return str(error)
    return ""


def _text(asked: Mapping[str, Any], key: str) -> str:
    value = asked.get(key, "")
    if not isinstance(value, str):
        raise B4MError(f"{key} must be a text.")
    return value


def _names(asked: Mapping[str, Any]) -> list[str]:
    names = asked.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise B4MError("names must be a list of texts.")
    return names
