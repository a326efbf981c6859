"""Child processes that have the terminal: they hear Ctrl-C themselves, and a polite end is passed on to them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType


class Ended(KeyboardInterrupt):
    """A polite kill or a closed terminal: it takes the way of Ctrl-C, but only this process has heard of it."""


def end_politely() -> None:
    """Makes a polite kill take the way of Ctrl-C from now on, so that servers and children are ended too."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP, the signal of a terminal that was closed
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _raise_ended)


def _raise_ended(number: int, frame: FrameType | None) -> None:
    raise Ended


def call(words: Sequence[str], variables: dict[str, str], folder: Path | None = None) -> int:
    """Runs a child to its own end, in a folder of its own or in this one, and returns its exit status.

    After Ctrl-C, which the terminal sends to the child as well, it gets the time that it needs to put away what it has:
    `subprocess.call` would kill it after a quarter of a second.
    """
    process = subprocess.Popen(words, env=variables, cwd=folder)
    while True:
        try:
            return process.wait()
        except Ended:
            process.terminate()
        except KeyboardInterrupt:
            continue
