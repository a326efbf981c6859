"""What the launcher says when it cannot go on."""

from __future__ import annotations

import errno

from . import places


class LauncherError(Exception):
    """One sentence for a person: what happened and what to do about it."""


def disk_full(place: object) -> str:
    """The sentence for a disk on which there is no room."""
    return f"The disk is full at {place}: free some space, or set B4M_HOME to a folder on a larger disk, then run the same command again."


def sentence_for(error: OSError) -> str:
    """The sentence for an error of the operating system; a full disk is the one that people meet."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(error.filename or places.home())
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"This may not be written{where}: set B4M_HOME to a folder that may, then run the same command again."
    return f"The operating system refused{where}: {error.strerror or error}; mend that, then run the same command again."
