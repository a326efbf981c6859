"""One line of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``what`` was tried ``tries`` times and ``lost`` (work, files, the program, a raw error) how often; the ``worst`` that was seen, in
    words, and what a ``peer`` did in the same trial, where one could be run.
    """

    what: str
    tries: int
    lost: int
    worst: str
    peer: str = ""


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| what | tries | lost | worst | peer |", "|---|---:|---:|---|---|"]
    lines += [f"| {row.what} | {row.tries:,} | {row.lost:,} | {row.worst or '-'} | {row.peer or '-'} |" for row in rows]
    return "\n".join(lines) + "\n"
