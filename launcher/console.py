"""Plain talk: one line per step, and one line that moves where there is a terminal to move it on."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0


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


class StatusLine:
    """A line that is rewritten on a terminal; elsewhere a new line, at most one each few seconds."""

    def __init__(self) -> None:
        self.moving = has_terminal()
        self.shown = ""
        self.headline = ""
        self.last = -SECONDS_BETWEEN_LINES

    def show(self, headline: str, detail: str = "") -> None:
        """Shows the headline (which step it is) with the detail (how far it is)."""
        text = f"{headline}: {detail}" if detail else headline
        if self.moving:
            self._rewrite(text)
        elif headline != self.headline or time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            say(text)
            self.last = time.monotonic()
        self.headline = headline

    def end(self) -> None:
        """Leaves the moving line as it is and goes on below it."""
        if self.moving and self.shown:
            write("\n")
        self.shown = ""

    def _rewrite(self, text: str) -> None:
        text = text[: max(20, shutil.get_terminal_size().columns - 1)]
        write("\r" + text + " " * max(0, len(self.shown) - len(text)))
        self.shown = text
