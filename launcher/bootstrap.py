"""The launcher's own small environment, and the step into it. Standard library only."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import children, pip, places
from .console import step
from .errors import LauncherError, disk_full
from .stamps import key_of

REQUIREMENTS = places.PACK / "requirements-launcher.txt"


def folder() -> Path:
    """Where the environment for these very requirements and this Python is; it is there when, and only when, it is whole."""
    key = key_of(REQUIREMENTS.read_text(encoding="utf-8"), f"{sys.version_info[0]}.{sys.version_info[1]}")
    return places.home() / f"launcher-{key[:12]}"


def prepare() -> Path:
    """Makes the environment unless it is there, and returns its interpreter."""
    python = places.python_of(folder())
    if not python.exists():  # or the Python that it was made from has been uninstalled since
        places.home().mkdir(parents=True, exist_ok=True)
        with step("The launcher's own environment"):
            _make(folder())
    return python


def _make(target: Path) -> None:
    """Makes it aside and puts it in place in one move: two commands at once do not meet half of it, and need no lock."""
    half = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        make_virtual_environment(half)
        pip.run(places.python_of(half), ["install", "-r", str(REQUIREMENTS)], what="what the launcher needs")
        if target.exists() and not places.python_of(target).exists():
            shutil.rmtree(target)
        if not target.exists():
            os.rename(half, target)  # only `python -m` is used in there, which does not mind the move
    except OSError:
        if not places.python_of(target).exists():  # else another command was quicker by a moment
            raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def make_virtual_environment(where: Path) -> None:
    """Makes a virtual environment with nothing in it but pip."""
    done = places.ask([sys.executable, "-m", "venv", str(where)])
    if done.returncode:
        raise LauncherError(_venv_sentence(done.stdout + done.stderr, where))


def _venv_sentence(output: str, where: Path) -> str:
    if "ensurepip" in output:
        return "This Python cannot make virtual environments: on Debian or Ubuntu `sudo apt install python3-venv`, then run this again."
    if any(sign in output.lower() for sign in pip.DISK_FULL):
        return disk_full(places.home())
    last = (output.strip().splitlines() or ["it said nothing"])[-1]
    return f"Python could not make a virtual environment in {where}: {last}"


def hand_over(arguments: Sequence[str]) -> int:
    """Goes on inside the environment with the same words, in the same folder, and returns the exit status."""
    call = [str(prepare()), "-m", "launcher", *arguments]
    variables = places.child_environment(PYTHONPATH=str(places.PACK))
    if os.name == "nt":  # there an exec returns to the prompt at once, with the work going on behind it
        return children.call(call, variables)
    os.execve(call[0], call, variables)
