"""The environment: PyTorch, what the host needs, what the pack needs, and for tests what they need, in `.b4m/venv`.

Every step leaves a stamp of what it was made from. A second call finds the stamps and does nothing; a changed requirement
does its own step again; an installation that was broken off half way is thrown away and made anew.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from pathlib import Path

from . import pip, places
from .console import say, step
from .errors import LauncherError, disk_full
from .lock import only_one
from .stamps import Stamps, key_of

GIGABYTE = 1024**3
TORCH_FAMILY = re.compile(r"^(torch|torchvision|torchaudio)\s*([=<>!~;\[ ].*)?$", re.IGNORECASE)


def torch_requirements(system: str | None = None, machine: str | None = None) -> list[str]:
    """The PyTorch that was tried on this kind of machine."""
    on_arm_linux = (system or platform.system()) == "Linux" and (machine or platform.machine()) in ("aarch64", "arm64")
    return ["torch==2.9.1", "torchvision==0.24.1"] if on_arm_linux else ["torch==2.14.1", "torchvision==0.29.1"]


def room_needed() -> float:
    """Free disk for a new environment, in GB: on x86-64 Linux PyTorch brings its CUDA libraries, unpacked and as an archive."""
    return 9.0 if platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64") else 4.0


def without_torch(requirements: str) -> list[str]:
    """The lines of a requirements file, less comments and the torch family (that one is chosen here)."""
    lines = (line.split("#", 1)[0].strip() for line in requirements.splitlines())
    return [line for line in lines if line and not TORCH_FAMILY.match(line)]


def python() -> Path:
    """The environment's interpreter, whether or not it exists yet."""
    return places.python_of(_folder())


def _folder() -> Path:
    return places.home() / "venv"


def _stamps() -> Stamps:
    return Stamps(_folder() / "b4m_stamps")


def _broken_off() -> Path:
    return _folder() / "b4m_installing"


def prepare_python() -> Path:
    """Makes the virtual environment, with nothing in it but pip, and returns its interpreter."""
    with only_one(places.home() / "lock"):
        if _broken_off().exists():
            say("The last set-up was broken off; making the environment anew.")
        elif _stamps().done("python", "made") and python().exists():
            return python()
        _make_virtual_environment()
    return python()


def _make_virtual_environment() -> None:
    check_room()
    with step(f"Environment for Python {sys.version_info[0]}.{sys.version_info[1]} in {_folder()}"):
        if _folder().exists():
            shutil.rmtree(_folder())
        done = places.ask([sys.executable, "-m", "venv", str(_folder())])
    if done.returncode:
        raise LauncherError(_venv_sentence(done.stdout + done.stderr))
    _stamps().finish("python", "made")


def _venv_sentence(output: str) -> str:
    if "ensurepip" in output:
        return "This Python cannot make virtual environments: on Debian or Ubuntu `sudo apt install python3-venv`, then run this again."
    if any(sign in output.lower() for sign in pip.DISK_FULL):
        return disk_full(places.home())
    last = (output.strip().splitlines() or ["it said nothing"])[-1]
    return f"Python could not make a virtual environment in {_folder()}: {last}"


def check_room() -> None:
    """Says before a long download, not after it, that the disk is too small."""
    places.home().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(places.home()).free / GIGABYTE
    if free < room_needed():
        raise LauncherError(
            f"The disk is too full: B4M needs {room_needed():.0f} GB at {places.home()} and {free:.1f} GB are free;"
            " free some, or set B4M_HOME to a folder on a larger disk."
        )


def install(host_requirements: str, *, development: bool = False) -> None:
    """Installs what is missing: PyTorch, the host's requirements, the pack's, and for tests and benchmarks the tools.

    Each later step is told to leave the chosen PyTorch as it is, whatever its packages would rather have.
    """
    chosen = torch_requirements()
    with only_one(places.home() / "lock"):
        _pip_step("torch", f"{' and '.join(chosen)} (the large one)", chosen, [])
        _pip_step("host", "What ComfyUI needs", without_torch(host_requirements), chosen)
        _pip_step("pack", "What B4M needs", without_torch((places.PACK / "requirements.txt").read_text()), chosen)
        if development:
            tools = without_torch((places.PACK / "requirements-dev.txt").read_text())
            _pip_step("development", "What the tests need", tools, chosen)


def _pip_step(name: str, title: str, requirements: list[str], constraints: list[str]) -> None:
    key = key_of(*requirements, "with", *constraints)
    if _stamps().done(name, key):
        return
    with step(title):
        pip.run(python(), ["install", *_constrained(constraints), *requirements], what=title, writing=_broken_off())
    _stamps().finish(name, key)


def _constrained(constraints: list[str]) -> list[str]:
    if not constraints:
        return []
    file = places.home() / "constraints.txt"
    file.write_text("\n".join(constraints) + "\n")
    return ["--constraint", str(file)]
