"""Following a run: websocket frames, progress with time left, errors as sentences, the contact sheet's path."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from launcher import client, demo, places, websocket
from launcher.client import NodeError
from launcher.console import StatusLine
from launcher.errors import LauncherError
from launcher.follow import Pace, Progress
from launcher.hosts import Host

GRAPH: client.Graph = {
    "1": {"class_type": "B4MTrainContent", "inputs": {}, "_meta": {"title": "Train the content"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "b4m/contact_sheet"}},
}


def server_frame(kind: int, content: bytes, *, last: bool = True) -> bytes:
    """A frame as a server sends it, without a mask."""
    head = bytes([(0x80 if last else 0) | kind])
    if len(content) < 126:
        return head + bytes([len(content)]) + content
    if len(content) < 65536:
        return head + bytes([126]) + struct.pack(">H", len(content)) + content
    return head + bytes([127]) + struct.pack(">Q", len(content)) + content


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_a_frame_of_every_length_form_reads_back_as_it_was(size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    assert websocket.read_frame(io.BytesIO(server_frame(websocket.TEXT, content))) == (True, websocket.TEXT, content)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_sent_frame_is_masked_and_reads_back_as_it_was(size: int) -> None:
    content = b"x" * size
    sent = websocket.frame(websocket.PONG, content)
    assert sent[1] & 0x80
    assert websocket.read_frame(io.BytesIO(sent)) == (True, websocket.PONG, content)


def test_a_frame_that_ends_too_early_is_an_error() -> None:
    with pytest.raises(websocket.WebSocketError):
        websocket.read_frame(io.BytesIO(server_frame(websocket.TEXT, b"hello")[:-1]))


def test_a_frame_that_claims_a_huge_length_is_refused_unread() -> None:
    with pytest.raises(websocket.WebSocketError, match="too large"):
        websocket.read_frame(io.BytesIO(bytes([0x81, 127]) + struct.pack(">Q", 2**62)))


def connected(sent: bytes) -> tuple[websocket.WebSocket, socket.socket]:
    """A websocket that hears those bytes, and the other end of it."""
    ours, theirs = socket.socketpair()
    theirs.sendall(sent)
    return websocket.WebSocket(ours), theirs


def test_messages_in_parts_are_joined_pings_answered_and_pictures_passed_over() -> None:
    sent = b"".join(
        [
            server_frame(websocket.BINARY, b"\x00\x00\x00\x01jpeg"),
            server_frame(websocket.TEXT, b"a gr", last=False),
            server_frame(websocket.PING, b"there?"),
            server_frame(websocket.CONTINUED, "üß".encode()),
            server_frame(websocket.CLOSE, b""),
        ]
    )
    ours, theirs = connected(sent)
    assert list(ours.texts()) == ["a grüß"]
    with theirs.makefile("rb") as stream:
        assert websocket.read_frame(stream) == (True, websocket.PONG, b"there?")
    theirs.close()
    ours.close()


def test_closing_does_not_wait_for_a_thread_that_still_listens() -> None:
    ours, theirs = connected(b"")
    ended = threading.Event()

    def listen() -> None:
        with pytest.raises(websocket.WebSocketError):
            next(ours.texts())
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    closer = threading.Thread(target=ours.close, daemon=True)
    closer.start()
    closer.join(5)
    assert not closer.is_alive()
    assert ended.wait(5)
    theirs.close()


def answer_once(listener: socket.socket, reply: str) -> None:
    """Plays a server that greets one client."""
    connection, _ = listener.accept()
    request = connection.recv(4096).decode()
    key = next(line.split(": ")[1] for line in request.splitlines() if line.startswith("Sec-WebSocket-Key"))
    accept = base64.b64encode(hashlib.sha1((key + websocket.GREETING).encode()).digest()).decode()
    frames = server_frame(websocket.TEXT, b"hello") + server_frame(websocket.CLOSE, b"")
    connection.sendall(reply.format(accept=accept).encode() + frames)
    connection.close()


@pytest.mark.parametrize(
    ("reply", "good"),
    [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n", True),
        ("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: another\r\n\r\n", False),
        ("HTTP/1.1 404 Not Found\r\n\r\n", False),
    ],
)
def test_only_a_server_that_greets_as_the_protocol_says_is_heard(reply: str, good: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_once, args=(listener, reply), daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        if good:
            with websocket.WebSocket.connect(address, "/ws") as opened:
                assert list(opened.texts()) == ["hello"]
        else:
            with pytest.raises(websocket.WebSocketError, match="does not speak websocket"):
                websocket.WebSocket.connect(address, "/ws")


def test_the_time_left_comes_from_the_pace_since_the_first_step() -> None:
    pace = Pace()
    assert pace.left(1, 100, now=50.0) is None
    assert pace.left(11, 100, now=70.0) == pytest.approx(178.0)


def test_progress_tells_the_nodes_title_its_steps_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr("launcher.follow.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("launcher.console.SECONDS_BETWEEN_LINES", 0.0)
    progress = Progress(GRAPH, line=StatusLine())
    progress.hear("executing", {"node": "1"})
    progress.hear("progress", {"node": "1", "value": 10, "max": 30})
    progress.hear("progress", {"node": "1", "value": 20, "max": 30})
    assert "[1/2] Train the content: 20 of 30, " in capsys.readouterr().out
    assert progress.hear("executing", {"node": None})


def test_a_failed_node_becomes_its_title_and_its_own_sentence() -> None:
    data = {"node_id": "1", "node_type": "B4MTrainContent", "exception_message": "No pictures: choose a folder that has some.\n"}
    with pytest.raises(NodeError, match="^Train the content: No pictures: choose a folder that has some.$"):
        Progress(GRAPH).hear("execution_error", data)


def test_a_cancelled_run_says_that_the_same_command_goes_on() -> None:
    with pytest.raises(LauncherError, match="goes on where it stopped"):
        Progress(GRAPH).hear("execution_interrupted", {"node_id": "1"})


class FinishedServer:
    """Stands for a server whose output folder is known."""

    def __init__(self, folder: Path) -> None:
        self.output_folder = folder
        self.log = folder / "log"


def test_the_contact_sheet_is_the_file_that_its_save_node_names(tmp_path: Path) -> None:
    outputs: dict[str, Any] = {"2": {"images": [{"filename": "contact_sheet_00001_.png", "subfolder": "b4m", "type": "output"}]}}
    sheet = demo.contact_sheet(FinishedServer(tmp_path), GRAPH, outputs)  # type: ignore[arg-type]
    assert sheet == tmp_path.resolve() / "b4m" / "contact_sheet_00001_.png"


def test_a_demo_that_was_finished_unchanged_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("B4M_HOME", str(tmp_path))
    host = Host(tmp_path, Path("python"), "0.3.75", ours=True)
    sheet = tmp_path / "sheet.png"
    sheet.touch()
    places.workspace().mkdir()
    (places.workspace() / "finished_demo.json").write_text(json.dumps({"key": demo.fingerprint(host), "sheet": str(sheet)}))
    demo.run(host, port=None, keep=False)
    assert capsys.readouterr().out.splitlines()[-1] == str(sheet)


def test_a_demo_whose_sheet_or_code_has_changed_is_run_again(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    (tmp_path / "finished_demo.json").write_text(json.dumps({"key": "now", "sheet": str(sheet)}))
    assert demo.finished_before(tmp_path, "now") is None  # the sheet was deleted
    sheet.touch()
    assert demo.finished_before(tmp_path, "now") == sheet
    assert demo.finished_before(tmp_path, "later") is None
