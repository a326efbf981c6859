"""`python b4m.py test`: lint, types, unit tests, the real server, the real page."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import carriers, children, linking, places, preparing
from .console import duration, say, step
from .errors import LauncherError
from .hosts import OLDEST, Host

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ALIAS = "b4m_pack"
"""The name under which the pack is type-checked and unit-tested: its folder may have any name, even one Python cannot import."""
CHECKED = ("b4m_core", "nodes", "launcher")
SERVER, PAGE = "tests/host", "tests/browser"
MEETS_A_HOST = ("tests/nodes", SERVER, PAGE)


def run(options: argparse.Namespace) -> int:
    """Runs the tests and returns the exit status; pytest's closing line comes last.

    With a ComfyUI named, what meets one runs against that one; without, everything runs, lint and types too.
    """
    started = time.monotonic()
    host = preparing.host_for(options.comfyui, development=True)
    page = carriers.page(options.page, host.python) if options.page else None
    if not (options.fast or options.comfyui):
        carriers.bring(OLDEST, host.python)
    if not (options.fast or options.no_browser):
        make_sure_of_a_browser()
    say(f"Set up after {duration(time.monotonic() - started)}.")
    failed = [] if options.comfyui else [title for title, call in _checks(host.python) if not _passes(title, call)]
    say(f"The tests meet ComfyUI {host.version} in {host.folder}.")
    tests = children.call(_pytest(host.python, options), _environment(host, page), places.PACK)
    if failed:
        raise LauncherError(f"{' and '.join(failed)} failed: see the lines above the tests.")
    return tests


def _checks(python: Path) -> list[tuple[str, list[str]]]:
    packages = [part for name in CHECKED if (places.PACK / name).is_dir() for part in ("-p", f"{ALIAS}.{name}")]
    cache = places.home() / "cache"
    return [
        ("Lint", [str(python), "-m", "ruff", "check", "--quiet", "--cache-dir", str(cache / "ruff"), "."]),
        ("Types", [str(python), "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(cache / "mypy"), *packages]),
    ]


def _passes(title: str, call: Sequence[str]) -> bool:
    """Runs a check and shows what it says only when it complains."""
    started = time.monotonic()
    variables = places.child_environment(MYPYPATH=str(alias_folder()))
    done = subprocess.run(call, cwd=places.PACK, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    say(f"{title}: {'passed' if done.returncode == 0 else 'FAILED'} after {duration(time.monotonic() - started)}")
    if done.returncode:
        say((done.stdout + done.stderr).rstrip())
    return done.returncode == 0


def _pytest(python: Path, options: argparse.Namespace) -> list[str]:
    """One run of pytest over all, so that there is one closing line and it counts everything."""
    left_out = [SERVER, PAGE] if options.fast else [PAGE] if options.no_browser else []
    if options.comfyui:
        return [str(python), "-m", "pytest", *(part for part in MEETS_A_HOST if part not in left_out)]
    return [str(python), "-m", "pytest", "tests", "benchmarks", *(f"--ignore={part}" for part in left_out)]


def _environment(host: Host, page: Path | None) -> dict[str, str]:
    """For the tests: where the host is, two threads for PyTorch, and no network for the hub's libraries."""
    threads = {name: os.environ.get(name, "2") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    about_host = {"B4M_COMFYUI": str(host.folder)} | ({"B4M_PAGE": str(page)} if page else {})
    variables = places.child_environment(B4M_HOME=str(places.home()), HF_HUB_OFFLINE="1", **about_host, **threads)
    variables.pop("CI", None)  # with it pytest prints every byte of two unequal files
    return variables


def alias_folder() -> Path:
    """A folder in which the pack goes by its alias."""
    folder = places.home() / "alias"
    linking.link(folder / ALIAS)
    return folder


def browser_on_path() -> str | None:
    """The path of a Chromium or Chrome, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def make_sure_of_a_browser() -> None:
    """As root on a Debian a missing Chromium is installed; elsewhere the tests of the page are skipped. Either is said before."""
    if browser_on_path():
        return
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        say("No Chromium or Chrome was found, so the tests of the page are skipped: install one to run them.")
        return
    say(
        "No Chromium or Chrome was found: apt-get now installs Debian's `chromium` (some 300 MB), for the tests of the page."
        " To avoid it, press Ctrl-C and run `python b4m.py test --no-browser`, or put a browser of your own on the PATH."
    )
    with step("Chromium for the tests of the page"):
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", "chromium")


def _apt_get(*arguments: str) -> None:
    log = places.log_folder() / "apt.log"
    with open(log, "ab") as file:
        environment_ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        status = subprocess.call(["apt-get", "-q", *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment_)
    if status:
        raise LauncherError(f"Chromium could not be installed: install it by hand or see {log}, then run the same command again.")
