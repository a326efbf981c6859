"""A running ComfyUI: started, waited for, and ended with all its children."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import hosts, linking, places
from .client import Client
from .errors import LauncherError
from .hosts import Host
from .ports import ADDRESS

LONGEST_START_SECONDS = 300.0
FOLDERS = ("custom_nodes", "models/loras", "models/checkpoints", "input", "output", "user")


@dataclass
class Server:
    """One running ComfyUI."""

    process: subprocess.Popen[bytes]
    client: Client
    base: Path
    """Its base directory: input, output, user, models and custom_nodes are below it."""
    log: Path
    scratch: Path
    """Its folder for temporary files; no other server has the same, so it also tells this server from others."""

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return self.client.address

    @property
    def output_folder(self) -> Path:
        """Where its pictures go."""
        return self.base / "output"

    @property
    def input_folder(self) -> Path:
        """Where it looks for pictures."""
        return self.base / "input"

    def import_failures(self) -> list[str]:
        """The packs that its log says could not be imported."""
        return re.findall(r"\(IMPORT FAILED\): (.+)", self._log_text())

    def why_pack_failed(self) -> str:
        """What our own pack's import ended with, empty when it went well."""
        found = re.search(r"Cannot import .*custom_nodes.*b4m module for custom nodes: (.+)", self._log_text())
        return found[1].strip() if found else ""

    def last_words(self) -> str:
        """The last line of its log."""
        lines = [line.strip() for line in self._log_text().splitlines() if line.strip()]
        return lines[-1].rstrip(".") if lines else "it said nothing"

    def _log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Ends the server and its children: first asked, then told, then killed."""
        for how, patience in ((_ask, 4.0), (_tell, 4.0), (_kill, 4.0)):
            if self.process.poll() is None:
                how(self.process)
            try:
                self.process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        shutil.rmtree(self.scratch, ignore_errors=True)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _ask(process: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        process.send_signal(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined,unused-ignore]
    else:
        _signal_group(process, signal.SIGINT)


def _tell(process: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        process.terminate()
    else:
        _signal_group(process, signal.SIGTERM)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True)
    else:
        _signal_group(process, signal.SIGKILL)


def start(host: Host, *, port: int, base: Path | None, log_name: str, options: Sequence[str] = ()) -> Server:
    """Starts a ComfyUI with the pack in it and waits until it answers.

    With a `base` all that it reads and writes is below that folder and the ComfyUI's own folder stays as it is; without one
    it works in its own folders, and the pack is linked there.
    """
    root = base or host.folder
    if base:
        for name in FOLDERS:
            (base / name).mkdir(parents=True, exist_ok=True)
    linking.link_pack(root / "custom_nodes")
    log = places.log_folder() / log_name
    scratch = places.home() / "tmp" / f"server_{uuid.uuid4().hex[:12]}"
    process = _launch(host, _call(host, port, base, ["--temp-directory", str(scratch), *options]), log)
    server = Server(process, Client(f"http://{ADDRESS}:{port}"), root, log, scratch)
    try:
        _wait_until_it_answers(server)
    except BaseException:
        server.stop()
        raise
    return server


def _call(host: Host, port: int, base: Path | None, options: Sequence[str]) -> list[str]:
    call = [str(host.python), str(host.folder / "main.py"), "--listen", ADDRESS, "--port", str(port), "--disable-auto-launch"]
    if base:
        call += ["--base-directory", str(base), "--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"]
    if not hosts.has_accelerator(host):
        call.append("--cpu")
    return [*call, *options]


def _launch(host: Host, call: list[str], log: Path) -> subprocess.Popen[bytes]:
    extra = {"PYTHONPATH": str(host.pages)} if host.pages else {}
    environment = places.child_environment(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", **extra)
    with open(log, "wb") as file:
        return subprocess.Popen(
            call,
            cwd=host.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def _wait_until_it_answers(server: Server) -> None:
    deadline = time.monotonic() + LONGEST_START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise LauncherError(f"ComfyUI ended while it was starting: {server.last_words()}; the whole log is {server.log}.")
        if str(server.scratch) in server.client.command_line():
            return
        time.sleep(0.2)
    raise LauncherError(f"ComfyUI did not answer within {LONGEST_START_SECONDS:.0f} s: look into {server.log} for what holds it up.")


@contextmanager
def running(host: Host, *, port: int, base: Path | None, log_name: str = "comfyui.log", options: Sequence[str] = ()) -> Iterator[Server]:
    """A ComfyUI for the length of a block, ended however the block ends."""
    server = start(host, port=port, base=base, log_name=log_name, options=options)
    try:
        yield server
    finally:
        server.stop()
