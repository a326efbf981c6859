"""A websocket client of the smallest size that hears a ComfyUI (RFC 6455), so that no package is needed for it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
GREETING = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LARGEST_FRAME = 256 * 1024 * 1024


class WebSocketError(OSError):
    """The other side does not speak the protocol, or has gone."""


def read_frame(stream: BinaryIO) -> tuple[bool, int, bytes]:
    """One frame: whether it is the last of its message, its kind, and its content."""
    first, second = _exactly(stream, 2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", _exactly(stream, 2))
    elif length == 127:
        (length,) = struct.unpack(">Q", _exactly(stream, 8))
    if length > LARGEST_FRAME:
        raise WebSocketError("a websocket frame is too large")
    mask = _exactly(stream, 4) if second & 0x80 else b""
    content = _exactly(stream, length)
    return bool(first & 0x80), first & 0x0F, _masked(content, mask) if mask else content


def frame(kind: int, content: bytes) -> bytes:
    """A whole message as one masked frame, as a client must send it."""
    size = len(content)
    if size < 126:
        head = struct.pack(">BB", 0x80 | kind, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | kind, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | kind, 0x80 | 127, size)
    mask = os.urandom(4)
    return head + mask + _masked(content, mask)


def _masked(content: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[place % 4] for place, byte in enumerate(content))


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise WebSocketError("the websocket was closed in the middle of a frame")
    return content


class WebSocket:
    """One connection. Pings are answered while listening."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream: BinaryIO = connection.makefile("rb")

    @classmethod
    def connect(cls, address: str, path: str) -> WebSocket:
        """Opens `ws://address/path`; the address is host:port."""
        host, _, port = address.partition(":")
        connection = socket.create_connection((host, int(port)), timeout=30.0)
        key = base64.b64encode(os.urandom(16)).decode()
        fields = f"Host: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
        connection.sendall(f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        opened = cls(connection)
        opened._check_greeting(key)
        connection.settimeout(None)  # a long step says nothing for as long as it takes
        return opened

    def _check_greeting(self, key: str) -> None:
        status = self._stream.readline(4096)
        fields: dict[str, str] = {}
        while (line := self._stream.readline(65536).strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        expected = base64.b64encode(hashlib.sha1((key + GREETING).encode(), usedforsecurity=False).digest()).decode()
        if b" 101 " not in status or fields.get("sec-websocket-accept") != expected:
            raise WebSocketError(f"the server does not speak websocket: {status.decode('latin-1').strip()}")

    def texts(self) -> Iterator[str]:
        """Every text message, until the other side closes."""
        parts: list[bytes] = []
        kind = TEXT
        while True:
            last, opcode, content = read_frame(self._stream)
            if opcode == CLOSE:
                return
            if opcode == PING:
                self._connection.sendall(frame(PONG, content))
            if opcode >= CLOSE:
                continue
            kind = opcode if opcode != CONTINUED else kind
            parts.append(content)
            if last and kind == TEXT:
                yield b"".join(parts).decode("utf-8", "replace")
            if last:
                parts.clear()

    def close(self) -> None:
        """Ends the connection, and with it the listening of another thread: closing the stream itself would wait for that thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
