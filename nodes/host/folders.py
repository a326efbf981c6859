"""The host's folders, and names from the graph turned into paths that cannot leave them.

Every widget string may come from an attacker (/prompt has no login), so a name is checked as text: it cannot lead out. Links that lie in
these folders were put there by the owner, and are followed for reading as the host's own loaders follow them; to write, the path is checked
after links are followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...b4m_core import B4MError, file_names, regular_files
from ...b4m_core.compact_format import COMPACT_ENDING
from ...b4m_core.picture_kinds import holds_pictures, is_litter
from ...b4m_core.saving import LORA_ENDING
from ...b4m_core.temporary import sweep, sweep_below

NOT_ALL = "(there are more folders than this list holds)"
_DEEPEST_LEVEL, _MOST_FOLDERS = 12, 2000  # the list is read each time the page loads
_LONGEST_PART, _LONGEST_PATH = 255, 1000  # bytes of a folder's name; letters of a path below the input folder
_OURS = "b4m"  # the host's name for B4M's own files in the loras folders: it keeps and renews their list as it does others
_WINDOWS = os.name == "nt"


def input_subfolders(*, parents: bool = False) -> list[str]:
    """Folders below the host's input folder that hold pictures, as "cats" or "cats/studio", sorted; links are followed, each place once.

    What holds pictures is b4m_core's rule, the one by which they are read. With `parents`, folders whose subfolders hold pictures too. A
    list that had to be cut ends with NOT_ALL.
    """
    root = Path(folder_paths.get_input_directory())
    found: set[str] = set()
    seen = _above(root)
    for current, folders, _ in os.walk(root, followlinks=True):
        place = Path(current)
        folders[:] = [name for name in sorted(folders) if _can_be_listed(name) and _is_new(os.path.join(current, name), seen)]
        relative = place.relative_to(root)
        if len(relative.parts) >= _DEEPEST_LEVEL:
            folders.clear()
        if relative.parts and holds_pictures(place):
            found.add(relative.as_posix())
            if parents and len(relative.parts) > 1:
                found.add(relative.parent.as_posix())
        if len(found) >= _MOST_FOLDERS:
            return [*sorted(found), NOT_ALL]
    return sorted(found)


def _library() -> Iterator[Path]:
    """The input folder, and what the owner has linked into it: a picture there may be linked to from every other folder of it."""
    root = Path(folder_paths.get_input_directory())
    above = _above(root)
    yield root
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        yield from [Path(entry.path) for entry in entries if entry.is_symlink() and entry.is_dir() and os.path.realpath(entry) not in above]


regular_files.libraries.append(_library)
def _can_be_listed(name: str) -> bool:
    """Whether a folder's name can be chosen in the page and read again, and is nobody's litter."""
    return not is_litter(name, folder=True) and name.isprintable() and not set(name) & set("\\:")


def _above(root: Path) -> set[str]:
    """The real folders that hold a folder, and itself: a link to one of them would open all that lies there."""
    place = Path(os.path.realpath(root))
    return {str(place), *map(str, place.parents)}


def _is_new(folder: str, seen: set[str]) -> bool:
    """Whether a folder was not seen by another name, so that links in a circle come to an end."""
    place = os.path.realpath(folder)
    if place in seen:
        return False
    seen.add(place)
    return True


def safe_input_folder(name: str) -> Path:
    """The path of a folder below the host's input folder, links followed; B4MError for a name that leads out of it or to nothing."""
    if name == NOT_ALL:
        raise B4MError(f"Only {_MOST_FOLDERS} folders are listed: move the pictures to a folder directly in ComfyUI's input folder.")
    root = path = Path(folder_paths.get_input_directory())
    for part in _parts(name, "the input folder"):
        path = path / part
        if os.path.realpath(path) in _above(root):
            raise B4MError(f"{shown(name)} leads out of the input folder through a link; choose another folder from the list.")
    path = Path(os.path.realpath(path))
    if not path.is_dir():
        raise B4MError(f"There is no folder {shown(name)} in ComfyUI's input folder; create it or choose another one from the list.")
    return path


def writable_input_folder(name: str) -> Path:
    """The path of a folder below the host's input folder that may be written to; B4MError where a link leads out of it."""
    path = safe_input_folder(name)
    if not _is_below(os.path.realpath(folder_paths.get_input_directory()), str(path)):
        raise B4MError(
            f"{shown(name)} lies outside the input folder, behind a link: B4M reads it and leaves its files alone; change them there."
        )
    return path


def loras_folder() -> Path:
    """The folder that adapters are saved in: the first of the host's LoRA folders (created when missing)."""
    return _made(Path(folder_paths.get_folder_paths("loras")[0]))


def lora_files() -> list[str]:
    """Names of the .safetensors files that the host's LoRA loaders list, and of B4M's own beside them, which end in .b4m."""
    folder_paths.folder_names_and_paths[_OURS] = (folder_paths.folder_names_and_paths["loras"][0], {COMPACT_ENDING})
    listed = [name for name in folder_paths.get_filename_list("loras") if name.lower().endswith(LORA_ENDING)]
    return [*listed, *folder_paths.get_filename_list(_OURS)]


def lora_folder_times() -> tuple[tuple[str, int], ...]:
    """The folders that hold listed LoRA files and when each last changed, in ns: equal as long as no file comes, goes or is replaced."""
    inner = {os.path.dirname(name) for name in lora_files()}
    folders = [os.path.join(root, name) for root in folder_paths.get_folder_paths("loras") for name in sorted(inner)]
    return tuple((folder, os.stat(folder).st_mtime_ns) for folder in folders if os.path.isdir(folder))


def lora_stamps() -> list[tuple[str, str, int, int]]:
    """(name, path, time of last change in ns, bytes) of all listed LoRA files that are there, in the host's order; one look at each."""
    roots = folder_paths.get_folder_paths("loras")
    stamps = []
    for name in lora_files():
        for root in roots:
            path = os.path.join(root, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read for ever
                stamps.append((name, path, status.st_mtime_ns, status.st_size))
            break
    return stamps


def safe_lora_path(name: str) -> Path:
    """The path of a LoRA file from the host's list, as its own loader finds it, for reading; B4MError for anything else."""
    _require_text(name)
    if name not in lora_files() or os.path.isabs(name) or ".." in Path(name).parts:
        raise B4MError(f"There is no LoRA file {shown(name)} in ComfyUI's loras folder; choose one from the list.")
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise B4MError(f"The LoRA file {shown(name)} is no longer in ComfyUI's loras folder; choose another one from the list.")
    return Path(path)


def safe_new_lora_path(name: str) -> Path:
    """The path to save an adapter under: a plain file name (.safetensors is added, unless it ends in .b4m) directly in the loras folder."""
    _require_text(name)
    ending = next((each for each in (LORA_ENDING, COMPACT_ENDING) if name.lower().endswith(each)), "")
    stem = name[: len(name) - len(ending)]
    if not file_names.is_plain(stem):
        raise B4MError(f"{shown(name)} cannot be a file name; write a short name such as my_style.")
    if not file_names.is_legal(stem):
        raise B4MError(
            f'{shown(name)} cannot be a file name on every system; write a plain name without folders and without < > : " / \\ | ? *'
        )
    return _inside(loras_folder(), stem + (ending or LORA_ENDING), "the loras folder")


def refresh_lora_list() -> None:
    """Make a file just saved show up in the host's LoRA lists at once."""
    for kind in ("loras", _OURS):
        folder_paths.filename_list_cache.pop(kind, None)
    folder_paths.cache_helper.clear()


def run_store_folder() -> Path:
    """Where runs and caches are kept: `b4m` in the host's user folder (created when missing)."""
    return _made(Path(folder_paths.get_user_directory()) / "b4m")


def sweep_folders() -> None:
    """Remove what programs that were killed while they saved left in the folders that B4M writes to; nothing is made or raised."""
    sweep_below(Path(folder_paths.get_user_directory()) / "b4m")
    for folder in folder_paths.get_folder_paths("loras")[:1]:
        sweep(Path(folder))


def _made(folder: Path) -> Path:
    """A folder, created when missing. Raises B4MError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise B4MError(f"The folder {folder} cannot be made ({reason}): check that its disk is there and writable.") from error
    return folder


def _parts(name: str, what: str) -> list[str]:
    """The folders and the file that a name says, / between them; refused unless every part is a plain name."""
    _require_text(name)
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and 0 < file_names.bytes_of(part) <= _LONGEST_PART for part in parts)
    if _WINDOWS and any(file_names.WINDOWS_DEVICES.fullmatch(part) or part != part.rstrip(" .") for part in parts):
        raise B4MError(f"{shown(name)} cannot be the name of a file or folder on Windows; choose one from the list.")
    if not plain or "\x00" in name or "\\" in name or ":" in name or len(name) > _LONGEST_PATH:
        raise B4MError(f"{shown(name)} is not a name inside {what}; choose one from the list.")
    return parts


def _require_text(name: object) -> None:
    """Refuse bytes, numbers and whatever else a script or a wire may hand on as a name."""
    if not isinstance(name, str):
        raise B4MError(f"A name is something else than text ({type(name).__name__}): choose one from the list, or write a plain name.")


def _inside(root: Path, name: str, what: str) -> Path:
    """realpath of root / name, refused unless it stays below root's own realpath: for writing."""
    parts = _parts(name, what)
    base = os.path.realpath(root)
    path = os.path.realpath(os.path.join(base, *parts))
    if not _is_below(base, path):
        raise B4MError(f"{shown(name)} leads out of {what} through a link; choose another name.")
    return Path(path)


def _is_below(root: str, path: str) -> bool:
    """Whether a real path lies below a real folder."""
    try:
        return path != root and os.path.commonpath((root, path)) == root
    except ValueError:  # another drive
        return False


def shown(name: str) -> str:
    """A name fit to be shown in a sentence: one line, printable, not long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name[:100])
    return f'"{text[:80]}…"' if len(text) > 80 else f'"{text}"'
