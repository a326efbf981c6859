"""The environments with PyTorch: ours in `.b4m/venv`, and one for each list of requirements that foreign ComfyUIs bring.

Every step leaves a stamp of what it was made from. A second call finds the stamps and does nothing; a changed requirement
does its own step again; an installation that was broken off half way is thrown away and made anew.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from . import bootstrap, pip, places
from .carriers import NEWEST
from .console import say, step
from .errors import LauncherError
from .lock import only_one
from .stamps import Stamps, key_of

GIGABYTE = 1024**3
TORCH_FAMILY = ("torch", "torchvision", "torchaudio")
IMPORTS_AUDIO = re.compile(r"^(import|from) torchaudio\b", re.MULTILINE)


def torch_requirements(system: str | None = None, machine: str | None = None) -> list[str]:
    """The PyTorch that was tried on this kind of machine."""
    on_arm_linux = (system or platform.system()) == "Linux" and (machine or platform.machine()) in ("aarch64", "arm64")
    return ["torch==2.9.1", "torchvision==0.24.1"] if on_arm_linux else ["torch==2.14.1", "torchvision==0.29.1"]


def audio_requirement(system: str | None = None, machine: str | None = None) -> str:
    """The torchaudio that was seen to work beside that PyTorch, if not the one made for it: 2.11.0 was its last release."""
    return "torchaudio==2.9.1" if torch_requirements(system, machine)[0] == "torch==2.9.1" else "torchaudio==2.11.0"


def room_needed() -> float:
    """Free disk for a new environment, in GB: on x86-64 Linux PyTorch brings its CUDA libraries, unpacked and as an archive."""
    return 9.0 if platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64") else 4.0


def _name(line: str) -> str:
    """The package that a line of a requirements file asks for; empty for an option of pip's."""
    try:
        return Requirement(line).name.lower()
    except InvalidRequirement:
        return ""


def _lines(requirements: str) -> list[str]:
    return [line for each in requirements.splitlines() if (line := each.split("#", 1)[0].strip())]


def without_torch(requirements: str) -> list[str]:
    """The lines of a requirements file, less comments and the torch family (that one is chosen here)."""
    return [line for line in _lines(requirements) if _name(line) not in TORCH_FAMILY]


def _of_pack(*files: str) -> list[str]:
    return [line for file in files for line in without_torch((places.PACK / file).read_text(encoding="utf-8"))]


def pack_needs() -> list[str]:
    """The names of the packages that the pack needs beside a ComfyUI."""
    return _names_here("requirements.txt")


def test_needs() -> list[str]:
    """The names of the packages that the tests need besides, the launcher's among them."""
    return _names_here("requirements-dev.txt", "requirements-launcher.txt")


def _names_here(*files: str) -> list[str]:
    """The names in requirements files, less those that a marker leaves to other Pythons."""
    asked = [Requirement(line) for line in _of_pack(*files)]
    return [each.name.lower() for each in asked if each.marker is None or each.marker.evaluate()]


def needs_audio(host_folder: Path) -> bool:
    """Whether a ComfyUI needs torchaudio: it asks for it, or a file of its own cannot be imported without it."""
    if any(_name(line) == "torchaudio" for line in _lines((host_folder / "requirements.txt").read_text(encoding="utf-8"))):
        return True
    sources = (path for part in ("comfy", "comfy_api", "comfy_extras") for path in (host_folder / part).rglob("*.py"))
    return any(IMPORTS_AUDIO.search(path.read_text(encoding="utf-8", errors="replace")) for path in sources)


def ours() -> Environment:
    """The environment of the ComfyUI that we bring, which serves every command."""
    return Environment(places.home() / "venv")


def for_host(host_folder: Path) -> Environment:
    """The environment for a ComfyUI that has no Python of its own: one for each list of requirements, so that none spoils another."""
    text = (host_folder / "requirements.txt").read_text(encoding="utf-8")
    brought = places.home() / f"comfyui-{NEWEST}" / "requirements.txt"
    if brought.is_file() and brought.read_text(encoding="utf-8") == text:
        return ours()
    return Environment(places.home() / f"venv-{key_of(*_lines(text))[:12]}")


@dataclass(frozen=True)
class Environment:
    """One virtual environment that the launcher makes and fills."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter, whether or not it exists yet."""
        return places.python_of(self.folder)

    @property
    def _stamps(self) -> Stamps:
        return Stamps(self.folder / "b4m_stamps")

    @property
    def _broken_off(self) -> Path:
        return self.folder / "b4m_installing"

    def prepare(self) -> Path:
        """Makes the virtual environment, with nothing in it but pip, and returns its interpreter."""
        with only_one(places.home() / "lock"):
            if self._broken_off.exists():
                say("The last set-up was broken off; making the environment anew.")
            elif self._stamps.done("python", "made") and self.python.exists():
                return self.python
            check_room()
            with step(f"Environment for Python {sys.version_info[0]}.{sys.version_info[1]} in {self.folder}"):
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                bootstrap.make_virtual_environment(self.folder)
            self._stamps.finish("python", "made")
        return self.python

    def install(self, host_requirements: str, *, audio: bool = False, development: bool = False, studio: bool = False) -> None:
        """Installs what is missing: PyTorch, the host's requirements, the pack's, for tests and benchmarks the tools, and what shares
        out the trainings of a `studio`.

        Each later step is told to leave the chosen PyTorch as it is, whatever its packages would rather have.
        """
        chosen = torch_requirements()
        with only_one(places.home() / "lock"):
            self._step("torch", f"{' and '.join(chosen)} (the large one)", chosen, [])
            if audio:
                self._step("audio", "torchaudio", [audio_requirement()], [], "--no-deps")
            self._step("host", "What ComfyUI needs", without_torch(host_requirements), chosen)
            self._step("pack", "What B4M needs", _of_pack("requirements.txt"), chosen)
            if development:
                tools = _of_pack("requirements-dev.txt", "requirements-launcher.txt")
                self._step("development", "What the tests need", tools, chosen)
            if studio:
                self._step("studio", "What shares out many trainings", _of_pack("requirements-studio.txt"), chosen)

    def _step(self, name: str, title: str, requirements: list[str], chosen: list[str], *options: str) -> None:
        key = key_of(*requirements, "with", *chosen)
        if self._stamps.done(name, key):
            return
        with step(title):
            pip.run(self.python, ["install", *options, *_constrained(chosen), *requirements], what=title, writing=self._broken_off)
        self._stamps.finish(name, key)


def check_room() -> None:
    """Says before a long download, not after it, that the disk is too small."""
    places.home().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(places.home()).free / GIGABYTE
    if free < room_needed():
        raise LauncherError(
            f"The disk is too full: B4M needs {room_needed():.0f} GB at {places.home()} and {free:.1f} GB are free;"
            " free some, or set B4M_HOME to a folder on a larger disk."
        )


def _constrained(chosen: list[str]) -> list[str]:
    if not chosen:
        return []
    file = places.home() / "constraints.txt"
    file.write_text("\n".join(chosen) + "\n")
    return ["--constraint", str(file)]
