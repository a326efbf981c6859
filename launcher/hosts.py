"""Which ComfyUI: where one is on this machine, how old it is, and which Python runs it. Standard library only."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import places
from .console import say
from .errors import LauncherError

OLDEST = "0.3.52"
"""The oldest ComfyUI that the pack supports."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI on this machine and the interpreter that runs it."""

    folder: Path
    python: Path
    version: str
    ours: bool
    pages: Path | None = None
    """A folder put before the environment's packages: an older host's own web page."""

    def requirements(self) -> str:
        """What the host says it needs."""
        return (self.folder / "requirements.txt").read_text(encoding="utf-8")


def version_of(folder: Path) -> str:
    """The version a ComfyUI folder says it has; 0 when it does not say."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return "0"
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    return found[1] if found else "0"


def find(path: str) -> Path:
    """The folder with the ComfyUI: the one a person names, or the one inside a portable build that they name."""
    named = Path(path).expanduser().resolve()
    for folder in (named, named / "ComfyUI"):
        if (folder / "main.py").is_file() and (folder / "comfy").is_dir():
            return folder
    raise LauncherError(f"There is no ComfyUI in {named}: name the folder that holds its main.py.")


def check_version(folder: Path) -> str:
    """The version of the ComfyUI in a folder. Raises LauncherError when it is too old for the pack."""
    version = version_of(folder)
    if _numbers(version) < _numbers(OLDEST):
        which = "older than that" if version == "0" else version
        raise LauncherError(f"B4M needs ComfyUI {OLDEST} or newer and the one in {folder} is {which}: update it and try again.")
    return version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def interpreter_near(folder: Path) -> Path | None:
    """The Python that belongs to a ComfyUI, a portable build's or a virtual environment's, if it has one."""
    embedded = [folder.parent / name / "python.exe" for name in ("python_embeded", "python_embedded")]
    virtual = [places.python_of(folder / name) for name in (".venv", "venv")]
    return next((each for each in (*embedded, *virtual) if each.is_file()), None)


def missing_packages(python: Path, packages: Sequence[str]) -> list[str]:
    """Those of the packages that a Python does not have."""
    code = f"""
import importlib.metadata as m
for name in {list(packages)!r}:
    try: m.version(name)
    except m.PackageNotFoundError: print(name)
"""
    done = places.ask([str(python), "-c", code])
    if done.returncode:
        raise LauncherError(f"The Python of that ComfyUI does not start: try `{python} --version`.")
    return done.stdout.split()


def check_packages(python: Path, packages: Sequence[str]) -> None:
    """Raises LauncherError when that Python lacks any: it is somebody else's, so nothing is installed into it."""
    missing = missing_packages(python, packages)
    if missing:
        how = f'"{python}" -m pip install -r "{places.PACK / "requirements.txt"}"'
        raise LauncherError(f"That ComfyUI's own Python lacks {', '.join(missing)}: run `{how}`, then the same command again.")


DRIVERS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dri", "/dev/dxg")


def has_accelerator(host: Host) -> bool:
    """Whether the host's PyTorch can use a GPU here; without one the host must be told to use the CPU."""
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in DRIVERS):
        return False  # no driver, no GPU: spares a start of PyTorch
    code = "import torch as t; print(any(kind.is_available() for kind in (t.cuda, t.backends.mps, getattr(t, 'xpu', t.cuda))))"
    done = places.ask([str(host.python), "-c", code])
    return done.stdout.strip() == "True"


def say_which(host: Host, *, linked: bool = False) -> None:
    """Tells which ComfyUI is used and what is done to one that is somebody else's."""
    change = "B4M is linked into its custom_nodes, nothing else in it is changed" if linked else "nothing in it is changed"
    say(f"ComfyUI {host.version} in {host.folder}" + ("." if host.ours else f", yours: {change}."))
