"""Following a run: what the websocket says, progress with time left, errors as sentences, the contact sheet's path."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from launcher import client, demo, follow, places
from launcher.client import NodeError
from launcher.errors import LauncherError
from launcher.follow import Run
from launcher.hosts import Host

GRAPH: client.Graph = {
    "1": {"class_type": "B4MTrainContent", "inputs": {}, "_meta": {"title": "Train the content"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "b4m/contact_sheet"}},
}


@pytest.fixture
def talking_server() -> Iterator[Callable[[Callable[[ServerConnection], None]], client.Client]]:
    """Plays a ComfyUI whose websocket says what a test makes it say, and gives a client of it."""
    servers: list[Server] = []

    def play(say: Callable[[ServerConnection], None]) -> client.Client:
        server = serve(say, "127.0.0.1", 0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return client.Client(f"http://127.0.0.1:{server.socket.getsockname()[1]}")

    yield play
    for server in servers:
        server.shutdown()


def all_heard(messages: follow.Heard) -> list[tuple[str, dict[str, Any]]]:
    """Everything that is heard until nothing more comes."""
    heard = []
    while (message := messages.get(timeout=10)) is not None:
        heard.append(message)
    return heard


def test_messages_are_heard_in_order_and_pictures_passed_over(talking_server: Callable[..., client.Client]) -> None:
    def say(connection: ServerConnection) -> None:
        connection.send(b"\x00\x00\x00\x01jpeg")
        connection.send(json.dumps({"type": "status", "data": {"title": "grüß" * 30_000}}))
        connection.send(json.dumps({"type": "executing"}))

    with talking_server(say).listen() as connection:
        assert all_heard(follow._ear(connection)) == [("status", {"title": "grüß" * 30_000}), ("executing", {})]


def test_a_server_that_dies_in_the_middle_ends_the_hearing(talking_server: Callable[..., client.Client]) -> None:
    def die(connection: ServerConnection) -> None:
        connection.send(json.dumps({"type": "status"}))
        connection.socket.shutdown(socket.SHUT_RDWR)

    with talking_server(die).listen() as connection:
        assert all_heard(follow._ear(connection)) == [("status", {})]


def test_closing_does_not_wait_for_a_thread_that_still_listens(talking_server: Callable[..., client.Client]) -> None:
    ended = threading.Event()
    with talking_server(lambda _: ended.wait(10) and None).listen() as connection:
        heard = follow._ear(connection)
        closer = threading.Thread(target=connection.close, daemon=True)
        closer.start()
        closer.join(5)
        assert not closer.is_alive()
        assert heard.get(timeout=5) is None
        ended.set()


def test_a_server_that_speaks_no_websocket_is_an_error_and_not_a_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        silent = client.Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(LauncherError, match="does not answer on its websocket"), silent.listen():
            pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a minute later than the one before."""
    minutes = iter(range(0, 60_000, 60))
    monkeypatch.setattr("launcher.follow.time.monotonic", lambda: float(next(minutes)))


def test_progress_tells_the_nodes_title_its_steps_and_the_time_left(capsys: pytest.CaptureFixture[str], clock: None) -> None:
    run = Run(GRAPH)
    run.hear("executing", {"node": "1"})
    for step in (10, 20, 30):
        run.hear("progress", {"node": "1", "value": step, "max": 300})
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "[1/2] Train the content"
    assert re.fullmatch(r"\[1/2\] Train the content: 30 of 300, .+ left", last)
    assert run.hear("executing", {"node": None})


def test_without_a_terminal_progress_comes_in_few_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(GRAPH)
    run.hear("executing", {"node": "1"})
    for step in range(100):
        run.hear("progress", {"node": "1", "value": step, "max": 100})
    run.hear("executing", {"node": "2"})
    assert capsys.readouterr().out == "[1/2] Train the content\n[2/2] SaveImage\n"


def test_on_a_terminal_the_nodes_with_steps_keep_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "has_terminal", lambda: True)
    run = Run(GRAPH)
    with run.display.bars:
        run.hear("executing", {"node": "2"})
        run.hear("executing", {"node": "1"})
        run.hear("progress", {"node": "1", "value": 7, "max": 30})
    shown = capsys.readouterr().out
    assert "Train the content" in shown and "7/30" in shown
    assert [task.description for task in run.display.bars.tasks] == ["[2/2] Train the content"]


def test_a_failed_node_becomes_its_title_and_its_own_sentence() -> None:
    data = {"node_id": "1", "node_type": "B4MTrainContent", "exception_message": "No pictures: choose a folder that has some.\n"}
    with pytest.raises(NodeError, match="^Train the content: No pictures: choose a folder that has some.$"):
        Run(GRAPH).hear("execution_error", data)


def test_a_cancelled_run_says_that_the_same_command_goes_on() -> None:
    with pytest.raises(LauncherError, match="goes on where it stopped"):
        Run(GRAPH).hear("execution_interrupted", {"node_id": "1"})


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
