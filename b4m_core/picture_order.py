"""The order of the pictures in a folder: the one in its order file, then by name."""

from collections.abc import Iterable
from pathlib import Path

ORDER_FILE = "b4m_order.txt"
"""One file name a line; names that are not there count for nothing."""


def in_order(folder: Path, files: Iterable[Path]) -> list[Path]:
    """``files`` of ``folder``: those that its order file names first, the others after them by name."""
    try:
        names = (folder / ORDER_FILE).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        names = []
    place = {name: index for index, name in reversed(list(enumerate(names)))}
    return sorted(files, key=lambda file: (place.get(file.name, len(names)), file.name))
