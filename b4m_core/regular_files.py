"""Whether a file in a chosen folder is a file, and the artist's own.

A folder of pictures may come from a stranger's archive: with a caption that is a link to a private file, whose text
would end in the header of a saved adapter; with a pipe or a device under a picture's name, which is read for ever. So
each file is looked at after its links are followed: it must be an ordinary file, and lie in the folder itself (wherever
a link to that folder led) or in one of the artist's :data:`libraries`.
"""

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

libraries: list[Callable[[], Iterable[Path]]] = []
"""What each gives are folders whose files may be linked to from everywhere: the host adds its input folder."""
_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip


def reason_against(file: Path, folder: Path) -> str:
    """Why ``file``, an entry of the chosen ``folder``, is not read, as a clause for "x was left out: ..."; nothing for
    one that is. It is not opened, so that nothing can hang.
    """
    try:
        status = os.stat(file)
        real = os.path.realpath(file)
    except (OSError, ValueError) as error:
        linked = os.path.islink(file)
        return "it is a link to nothing" if linked else f"it cannot be read ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISREG(status.st_mode):
        return f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'of a special kind')}, not a file"
    if _holds(folder, real) or any(_holds(place, real) for library in libraries for place in library()):
        return ""
    return "it is a link to a file outside of the folder; put the file itself there"


def _holds(folder: Path, real: str) -> bool:
    """Whether the real path of a file lies below the real folder."""
    base = os.path.realpath(folder)
    try:
        return os.path.commonpath((base, real)) == base
    except ValueError:  # another drive
        return False
