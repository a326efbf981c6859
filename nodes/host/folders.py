"""The host's folders, and names from the graph turned into paths that cannot leave them.

Every widget string may come from an attacker (/prompt has no login), so a name is checked as text, then the path after links are followed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import folder_paths

from ...b4m_core import B4MError

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_DEEPEST_LEVEL, _MOST_FOLDERS = 4, 500  # the list is read each time the page loads
_LONGEST_NAME = 150
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def input_subfolders() -> list[str]:
    """Folders below the host's input folder that hold pictures, as "cats" or "cats/studio", sorted."""
    root = Path(folder_paths.get_input_directory())
    found: list[str] = []
    for current, folders, files in os.walk(root):
        relative = Path(current).relative_to(root)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(relative.parts) >= _DEEPEST_LEVEL:
            folders.clear()
        if relative.parts and any(name.lower().endswith(PICTURE_ENDINGS) for name in files):
            found.append(relative.as_posix())
        if len(found) >= _MOST_FOLDERS:
            break
    return sorted(found)


def safe_input_folder(name: str) -> Path:
    """The real path of a folder below the host's input folder; B4MError for a name that leads out of it or to nothing."""
    path = _inside(Path(folder_paths.get_input_directory()), name, "the input folder")
    if not path.is_dir():
        raise B4MError(f"There is no folder {_shown(name)} in ComfyUI's input folder; create it or choose another one from the list.")
    return path


def loras_folder() -> Path:
    """The folder that adapters are saved in: the first of the host's LoRA folders (created when missing)."""
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lora_files() -> list[str]:
    """Names of the .safetensors files that the host's LoRA loaders list."""
    return [name for name in folder_paths.get_filename_list("loras") if name.lower().endswith(".safetensors")]


def safe_lora_path(name: str) -> Path:
    """The real path of a LoRA file from the host's list, for reading; B4MError for anything else."""
    if name not in lora_files():
        raise B4MError(f"There is no LoRA file {_shown(name)} in ComfyUI's loras folder; choose one from the list.")
    for folder in folder_paths.get_folder_paths("loras"):
        if (Path(folder) / name).is_file():
            return _inside(Path(folder), name.replace(os.sep, "/"), "the loras folder")
    raise B4MError(f"The LoRA file {_shown(name)} is no longer in ComfyUI's loras folder; choose another one from the list.")


def safe_new_lora_path(name: str) -> Path:
    """The path to save an adapter under: a plain file name (".safetensors" is added) directly in the loras folder."""
    stem = name[: -len(".safetensors")] if name.lower().endswith(".safetensors") else name
    if not stem.strip() or len(stem) > _LONGEST_NAME or stem != stem.strip().rstrip(".") or stem.startswith("."):
        raise B4MError(f"{_shown(name)} cannot be a file name; write a short name such as my_style.")
    if _NOT_IN_NAMES.search(stem) or _WINDOWS_DEVICES.fullmatch(stem):
        raise B4MError(
            f'{_shown(name)} cannot be a file name on every system; write a plain name without folders and without < > : " / \\ | ? *'
        )
    return _inside(loras_folder(), f"{stem}.safetensors", "the loras folder")


def refresh_lora_list() -> None:
    """Make a file just saved show up in the host's LoRA lists at once."""
    folder_paths.filename_list_cache.pop("loras", None)
    folder_paths.cache_helper.clear()


def run_store_folder() -> Path:
    """Where runs and caches are kept: `b4m` in the host's user folder (created when missing)."""
    folder = Path(folder_paths.get_user_directory()) / "b4m"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _inside(root: Path, name: str, what: str) -> Path:
    """realpath of root / name, refused unless it stays below root's own realpath; name uses / between folders."""
    parts = name.split("/")
    if not name or "\x00" in name or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise B4MError(f"{_shown(name)} is not a name inside {what}; choose one from the list.")
    base = os.path.realpath(root)
    path = os.path.realpath(os.path.join(base, *parts))
    if path == base or os.path.commonpath((base, path)) != base:
        raise B4MError(f"{_shown(name)} leads out of {what} through a link; move the files themselves into {what}.")
    return Path(path)


def _shown(name: str) -> str:
    """A name fit to be shown in a sentence: one line, printable, not long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f'"{text[:80]}…"' if len(text) > 80 else f'"{text}"'
