"""The pack, linked into a ComfyUI's custom_nodes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import places
from .errors import LauncherError


def link_pack(custom_nodes: Path) -> Path:
    """Links the pack into a custom_nodes folder as `b4m`, unless it is in there already, and returns where it is."""
    for entry in custom_nodes.iterdir() if custom_nodes.is_dir() else ():
        if entry.resolve() == places.PACK:
            return entry
    return link(custom_nodes / "b4m")


def link(place: Path) -> Path:
    """Makes `place` a link to the pack's folder."""
    if place.resolve() == places.PACK:
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()  # of a pack that has moved since
    if place.exists():
        raise LauncherError(f"Another B4M is already installed at {place}: remove or rename that folder, then run the same command again.")
    if os.name == "nt":  # a junction, since a symlink asks for an administrator there
        subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(places.PACK)], check=True, capture_output=True)
    else:
        place.symlink_to(places.PACK, target_is_directory=True)
    return place
