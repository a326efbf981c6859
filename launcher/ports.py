"""Which port a server may listen on."""

from __future__ import annotations

import os
import socket

from .errors import LauncherError

ADDRESS = "127.0.0.1"
USUAL_PORT = 8188


def is_free(port: int) -> bool:
    """Whether a server could listen on that port now. A port whose last connections are still closing counts as free."""
    with socket.socket() as attempt:
        if os.name == "nt":
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def choose(wanted: int | None) -> int:
    """The port a person asked for, or the first free one from ComfyUI's usual one on."""
    if wanted is None:
        free = next((port for port in range(USUAL_PORT, USUAL_PORT + 200) if is_free(port)), None)
        if free is None:
            raise LauncherError(f"No port from {USUAL_PORT} to {USUAL_PORT + 199} is free: name another with --port.")
        return free
    if not 1 <= wanted <= 65535:
        raise LauncherError(f"There is no port {wanted}: choose one from 1024 to 65535, or leave --port out.")
    if not is_free(wanted):
        raise LauncherError(f"Port {wanted} is taken or not allowed: choose another with --port, or leave --port out to get a free one.")
    return wanted
