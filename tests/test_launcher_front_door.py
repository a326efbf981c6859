"""The front door: which Python it lets in, and what it says when it cannot go on."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import actions, bootstrap, carriers, children, commands, console, environment, places, ports, testing
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


def test_the_first_stage_imports_nothing_but_the_standard_library() -> None:
    path = f"import sys; sys.path.insert(0, {str(places.PACK)!r})"
    code = "import launcher.commands; print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"{path}; {code}"], capture_output=True)
    assert done.stderr == b""
    assert set(done.stdout.decode().split()) <= {"launcher", "__main__"}


def test_a_taken_port_is_one_sentence_before_anything_is_set_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("B4M_HOME", str(tmp_path / "nothing"))
    with ports.socket.socket() as taken:
        taken.bind((ports.ADDRESS, 0))
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

    monkeypatch.setattr(bootstrap, "prepare", no_room)
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

    monkeypatch.setattr(bootstrap, "prepare", pressed)
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
    monkeypatch.setattr(environment.Environment, "prepare", lambda _: Path("python"))
    monkeypatch.setattr(environment.Environment, "install", lambda *_, **__: None)
    host = Host(Path("host"), Path("python"), carriers.NEWEST, ours=True)
    monkeypatch.setattr(carriers, "bring", lambda *_: host)
    monkeypatch.setattr(Host, "requirements", lambda _: "")
    monkeypatch.setattr(children, "call", lambda call, *_: calls.append(list(call)) or 7)
    assert commands.run(words, actions.do) == 7
    assert calls == [["python", "-m", *module]]


@pytest.mark.parametrize("words", [["bench"], ["bench", "beauty"]])
def test_a_benchmark_that_is_not_there_is_one_sentence_before_anything_is_set_up(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "prepare", lambda: pytest.fail("set up"))
    assert commands.run(words) == 1
    kinds = " or ".join(f"`bench {name}`" for name in commands.BENCHMARKS)
    assert capsys.readouterr().err == f"b4m: What should be measured? Say {kinds}.\n"


def test_a_launcher_without_any_console_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console.say("nobody hears this")
    assert commands.run(["demo", "--port", "0"]) == 1


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (130, "2 min 10 s"), (3900, "1 h 05 min")])
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize("command", ["demo", "comfyui", "test"])
def test_a_missing_comfyui_is_one_sentence_before_anything_is_set_up(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "prepare", lambda: pytest.fail("set up"))
    assert commands.run([command, "--comfyui", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"b4m: There is no ComfyUI in {tmp_path.resolve()}: name the folder that holds its main.py.\n"


@pytest.mark.parametrize(
    ("words", "run", "left_out"),
    [
        (["test"], ["tests", "benchmarks"], []),
        (["test", "--fast"], ["tests", "benchmarks"], ["tests/host", "tests/browser"]),
        (["test", "--no-browser"], ["tests", "benchmarks"], ["tests/browser"]),
        (["test", "--comfyui", "X"], ["tests/nodes", "tests/host", "tests/browser"], []),
        (["test", "--comfyui", "X", "--no-browser"], ["tests/nodes", "tests/host"], []),
        (["test", "--comfyui", "X", "--fast"], ["tests/nodes"], []),
    ],
)
def test_with_a_comfyui_named_the_tests_that_meet_one_run_and_no_others(words: list[str], run: list[str], left_out: list[str]) -> None:
    call = testing._pytest(Path("python"), commands.parse(words))
    assert call[3:] == [*run, *(f"--ignore={part}" for part in left_out)]


def test_chromium_is_installed_only_after_saying_so_and_how_to_avoid_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(testing, "browser_on_path", lambda: None)
    monkeypatch.setattr(testing.os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(testing.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(testing, "_apt_get", lambda *_: said.append(capsys.readouterr().out))
    testing.make_sure_of_a_browser()
    assert "apt-get now installs Debian's `chromium`" in said[0]
    assert "To avoid it, press Ctrl-C and run `python b4m.py test --no-browser`" in said[0]


SECOND_STAGE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("ready", *sys.argv[1:], os.getcwd(), flush=True)
time.sleep(30 if "wait" in sys.argv else 0)
sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the environment's Python")
@pytest.mark.parametrize(("words", "end", "status"), [([], None, 7), (["wait"], "SIGINT", 130), (["wait"], "SIGTERM", 143)])
def test_the_second_stage_gets_the_words_the_folder_and_every_signal_and_its_exit_status_is_the_end(
    words: list[str], end: str | None, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "home" / "python"
    python.parent.mkdir()
    stage = tmp_path / "stage.py"
    stage.write_text(SECOND_STAGE)
    python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{stage}" "$@"\n')
    python.chmod(0o755)
    first = f"""
import sys; sys.path.insert(0, {str(places.PACK)!r})
from pathlib import Path
from launcher import bootstrap, commands
bootstrap.prepare = lambda: Path({str(python)!r})
sys.exit(commands.run(["train", *sys.argv[1:]]))
"""
    process = subprocess.Popen([sys.executable, "-c", first, *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().split() == ["ready", "train", *words, str(tmp_path)]
    if end:
        process.send_signal(getattr(signal, end))
    assert process.wait(10) == status


@pytest.mark.skipif(sys.platform == "win32", reason="sends the signals of a POSIX terminal")
def test_a_child_that_needs_a_second_after_ctrl_c_gets_it_and_a_polite_kill_is_passed_on(tmp_path: Path) -> None:
    child = "import signal, sys, time\nsignal.signal({}, lambda *_: (time.sleep(1), sys.exit(5)))\nprint('ready', flush=1)\ntime.sleep(30)"
    for name in ("SIGINT", "SIGTERM"):
        code = f"""
import sys; sys.path.insert(0, {str(places.PACK)!r})
import os
from launcher import children
children.end_politely()
sys.exit(children.call([sys.executable, "-c", {child.format(f"signal.{name}")!r}], dict(os.environ)))
"""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        if name == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # a terminal tells everybody
        else:
            process.terminate()
        assert process.wait(10) == 5
