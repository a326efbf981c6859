"""Where things are: the pack, and the folder that holds all the launcher makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent
"""The pack's own folder, the one with b4m.py in it."""


def home() -> Path:
    """The folder for everything the launcher makes: `.b4m` beside b4m.py, or what B4M_HOME names."""
    named = os.environ.get("B4M_HOME")
    return Path(named).expanduser().resolve() if named else PACK / ".b4m"


def log_folder() -> Path:
    """The folder of the log files, made when it is missing."""
    folder = home() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def python_of(environment: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def workspace() -> Path:
    """The host's base directory for demo and play: its input, output, models and user folders, out of everyone's way."""
    return home() / "workspace"


def child_environment(**extra: str) -> dict[str, str]:
    """The variables for a child process: ours, less those that would make its Python look elsewhere for modules."""
    unwanted = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **extra}


def ask(call: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a short command that reads nothing and keeps what it says."""
    return subprocess.run(call, env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
