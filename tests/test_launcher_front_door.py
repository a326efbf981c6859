"""The front door: which Python it lets in, and what it says when it cannot go on."""

from __future__ import annotations

import ast
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import commands, console, environment, hosts, places, server
from launcher.errors import LauncherError
from launcher.hosts import Host

FRONT_DOOR = places.PACK / "b4m.py"


def front_door() -> Callable[[tuple[int, ...]], str]:
    """The front door's own judgement of a Python version."""
    room: dict[str, object] = {"__name__": "front_door", "__file__": str(FRONT_DOOR)}
    exec(compile(FRONT_DOOR.read_text(), str(FRONT_DOOR), "exec"), room)  # noqa: S102  # by its file: `b4m` is the pack's name in the host
    judge = room["complaint_about_python"]
    assert callable(judge)
    return judge


def test_a_python_that_is_too_old_gets_one_sentence_that_says_what_to_do() -> None:
    sentence = front_door()((3, 8, 18))
    assert sentence.startswith("Python 3.8 is too old for B4M: install Python 3.10")


def test_a_python_that_is_too_new_gets_one_sentence_that_says_what_to_do() -> None:
    assert front_door()((3, 14, 0)).startswith("Python 3.14 is too new for B4M")


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_every_supported_python_is_let_in_without_a_word(minor: int) -> None:
    assert front_door()((3, minor, 0)) == ""


def test_the_front_door_parses_with_the_grammar_of_an_old_python() -> None:
    ast.parse(FRONT_DOOR.read_text(), feature_version=(3, 6))


def test_the_launcher_imports_nothing_but_the_standard_library() -> None:
    path = f"import sys; sys.path.insert(0, {str(places.PACK)!r})"
    code = "import launcher.commands; print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"{path}; {code}"], capture_output=True)
    assert done.stderr == b""
    assert set(done.stdout.decode().split()) <= {"launcher", "__main__"}


def test_a_taken_port_is_one_sentence_before_anything_is_set_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("B4M_HOME", str(tmp_path / "nothing"))
    with server.socket.socket() as taken:
        taken.bind((server.ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert commands.run(["demo", "--port", str(port)]) == 1
    sentence = f"b4m: Port {port} is taken or not allowed: choose another with --port, or leave --port out to get a free one.\n"
    assert capsys.readouterr().err == sentence
    assert not (tmp_path / "nothing").exists()


def test_a_port_that_cannot_exist_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["comfyui", "--port", "70000"]) == 1
    assert capsys.readouterr().err == "b4m: There is no port 70000: choose one from 1024 to 65535, or leave --port out.\n"


def test_a_full_disk_is_one_sentence_that_names_the_way_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room() -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")

    monkeypatch.setattr(environment, "prepare_python", no_room)
    assert commands.run(["demo"]) == 1
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert sentence.startswith("b4m: The disk is full at /somewhere/file: free some space, or set B4M_HOME")


@pytest.mark.parametrize(("command", "sentence"), [("demo", "Stopped: the same command goes on from there."), ("test", "Stopped.")])
def test_ctrl_c_ends_with_a_word_and_the_usual_exit_status(
    command: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed() -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "prepare_python", pressed)
    assert commands.run([command]) == 130
    assert capsys.readouterr().err == f"b4m: {sentence}\n"


def test_an_unknown_option_is_refused_before_anything_is_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["demo", "--prot", "8188"]) == 1
    assert capsys.readouterr().err.startswith("b4m: `demo` does not know --prot 8188")


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["train", "content", "--steps", "5"], ["b4m_core.commandline", "train", "content", "--steps", "5"]),
        (["generate", "--help"], ["b4m_core.commandline", "generate", "--help"]),
        (["bench", "speed"], ["benchmarks.speed"]),
        (["bench", "speed", "--seconds", "60", "folder"], ["benchmarks.speed", "--seconds", "60", "folder"]),
        (["bench", "quality", "--help"], ["benchmarks.quality", "--help"]),
    ],
)
def test_training_and_painting_get_all_their_words_unchanged(words: list[str], module: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(environment, "prepare_python", lambda: Path("python"))
    monkeypatch.setattr(environment, "install", lambda *_, **__: None)
    host = Host(Path("host"), Path("python"), hosts.NEWEST, ours=True)
    monkeypatch.setattr(hosts, "bring", lambda *_: host)
    monkeypatch.setattr(Host, "requirements", lambda _: "")
    monkeypatch.setattr(commands.subprocess, "call", lambda call, **_: calls.append(call) or 7)
    assert commands.run(words) == 7
    assert calls == [["python", "-m", *module]]


@pytest.mark.parametrize("words", [["bench"], ["bench", "beauty"]])
def test_a_benchmark_that_is_not_there_is_one_sentence_before_anything_is_set_up(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "prepare_python", lambda: pytest.fail("set up"))
    assert commands.run(words) == 1
    assert capsys.readouterr().err == "b4m: What should be measured? Say `bench speed` or `bench quality` or `bench precision`.\n"


def test_without_a_terminal_progress_comes_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    line = console.StatusLine()
    for step in range(100):
        line.show("[1/2] Training", f"{step} of 100")
    line.show("[2/2] Saving")
    line.end()
    assert capsys.readouterr().out == "[1/2] Training: 0 of 100\n[2/2] Saving\n"


def test_on_a_terminal_a_shorter_text_wipes_out_the_longer_one(capsys: pytest.CaptureFixture[str]) -> None:
    line = console.StatusLine()
    line.moving = True
    line.show("Training", "10 of 100")
    line.show("Saving")
    line.end()
    assert capsys.readouterr().out == "\rTraining: 10 of 100\rSaving             \n"


def test_a_launcher_without_any_console_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console.say("nobody hears this")
    assert commands.run(["demo", "--port", "0"]) == 1


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (130, "2 min 10 s"), (3900, "1 h 05 min")])
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_a_missing_comfyui_is_one_sentence_that_asks_for_the_right_folder(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="There is no ComfyUI in .*: name the folder that holds its main.py"):
        commands.host_for(str(tmp_path))
