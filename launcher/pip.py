"""pip, with its ways of failing turned into sentences."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import places
from .errors import LauncherError, disk_full

NO_NETWORK = (
    "failed to establish a new connection", "name or service not known", "temporary failure in name resolution", "connection refused",
    "network is unreachable", "max retries exceeded", "connecttimeouterror", "readtimeouterror", "getaddrinfo failed", "proxyerror",
    "nameresolutionerror", "connection broken",
)  # fmt: skip
DISK_FULL = ("no space left on device", "[errno 28]", "disk quota exceeded", "not enough space on the disk")


def command(python: Path) -> list[str]:
    """How pip of that interpreter is called."""
    return [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run(python: Path, arguments: Sequence[str], *, what: str, writing: Path | None = None) -> None:
    """Runs pip and keeps all it says in a log file.

    `writing` is a file that exists from the moment pip begins to change the environment until it is done: found later, it
    tells that an installation was broken off. Raises LauncherError with one sentence when pip fails.
    """
    log = places.log_folder() / "pip.log"
    scratch = places.home() / "tmp"  # beside the environment, so that one disk's free space decides and a small /tmp does not
    scratch.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    environment = places.child_environment(TMPDIR=str(scratch), TEMP=str(scratch), TMP=str(scratch))
    with open(log, "a", encoding="utf-8") as file, _start([*command(python), *arguments], environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip())
            if writing and line.lstrip().startswith(("Installing collected packages", "Attempting uninstall")):
                writing.touch()
    if process.returncode:
        raise LauncherError(sentence(lines, what, log))
    if writing:
        writing.unlink(missing_ok=True)


def _start(call: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        call,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def sentence(lines: Sequence[str], what: str, log: Path) -> str:
    """What pip's output means for a person, and what to do."""
    text = "\n".join(lines).lower()
    if any(sign in text for sign in DISK_FULL):
        return disk_full(places.home())
    if any(sign in text for sign in NO_NETWORK):
        return f"No network: pip could not fetch {what}; connect to the internet, then run the same command again (log: {log})."
    if "no matching distribution found" in text:
        here = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}"
        return f"There is no {what} for {here}: try another Python from 3.10 to 3.13 (log: {log})."
    errors = [line for line in lines if line.startswith("ERROR")] or [line for line in lines if line.strip()] or ["it said nothing"]
    last = errors[-1].removeprefix("ERROR:").strip()
    return f"pip could not install {what}: {last.rstrip('.')}; the whole log is {log}."
