"""Plain talk: one line per step. Standard library only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Prints a line, whatever the output can show and even when there is none."""
    write(text + "\n")


def write(text: str) -> None:
    """Prints without a line end. A console that cannot show a character gets a question mark, no console gets nothing."""
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def has_terminal() -> bool:
    """Whether a person's terminal shows what is printed."""
    return sys.stdout is not None and sys.stdout.isatty()


def duration(seconds: float) -> str:
    """Seconds as people say them: 7 s, 2 min 10 s, 1 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def step(text: str) -> Iterator[None]:
    """One line for one step: the text at its start, the time it took (or `failed`) at its end."""
    write(f"{text} ... ")
    started = time.monotonic()
    try:
        yield
    except BaseException:
        write("failed\n")
        raise
    write(f"{duration(time.monotonic() - started)}\n")
