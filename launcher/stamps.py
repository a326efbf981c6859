"""Which steps are done: a stamp holds the hash of what its step was made from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def key_of(*contents: str) -> str:
    """A hash over texts; what is installed is done again when, and only when, this changes."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content.encode() + b"\0")
    return digest.hexdigest()


class Stamps:
    """The stamps of one folder. They lie inside the folder, so that they go when it goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, step: str, key: str) -> bool:
        """Whether the step was finished from this very content."""
        try:
            return (self.folder / step).read_text() == key
        except (OSError, UnicodeDecodeError):
            return False

    def finish(self, step: str, key: str) -> None:
        """Notes that the step is finished; all at once, so that a crash leaves the old stamp or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        half = self.folder / f"{step}.half"
        half.write_text(key)
        os.replace(half, self.folder / step)

    def forget(self, step: str) -> None:
        """Notes that the step is no longer done."""
        (self.folder / step).unlink(missing_ok=True)
