"""Two that save under one name, and one that is killed while it saves: nothing is lost, nothing is left lying about."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from b4m_core import B4MError, load_adapter, save_adapter
from b4m_core import atomic as atomic_module
from b4m_core import temporary as temporary_module
from b4m_core.atomic import NameTaken, write_atomically
from b4m_core.temporary import sweep, sweep_below, temporary_file

ROOT = Path(__file__).resolve().parents[2]
STRAY = ".b4m-0123456789abcdef.partial"
needs_locks = pytest.mark.skipif(os.name == "nt", reason="what is being written is told by its age there")


def together(*calls: Callable[[], object]) -> list[object]:
    """What the calls returned, or the B4MErrors that they raised, begun at one moment."""
    found: list[object] = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def run(index: int) -> None:
        ready.wait()
        try:
            found[index] = calls[index]()
        except B4MError as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_two_saves_of_one_name_at_one_moment_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    one, two = tiny.small_adapter(fill=1), tiny.small_adapter(fill=2)
    for _ in range(60):
        path.unlink(missing_ok=True)
        together(lambda: save_adapter(one, path), lambda: save_adapter(two, path))
        assert load_adapter(path).digest() in (one.digest(), two.digest())
        assert os.listdir(tmp_path) == [path.name]


def test_of_two_that_may_not_replace_each_other_one_is_told_that_the_name_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    one, two = tiny.small_adapter(fill=1), tiny.small_adapter(fill=2)
    for _ in range(40):
        path.unlink(missing_ok=True)
        first, second = together(lambda: save_adapter(one, path, over=False), lambda: save_adapter(two, path, over=False))
        assert isinstance(first, NameTaken) != isinstance(second, NameTaken)
        assert load_adapter(path).digest() == (two if isinstance(first, NameTaken) else one).digest()


@pytest.mark.skipif(os.name == "nt", reason="there renaming itself refuses")
def test_a_file_system_without_second_names_still_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_atomically(tmp_path / "x", [b"first"], check=lambda partial: None, over=False)
    with pytest.raises(NameTaken, match="There is a file x already"):
        write_atomically(tmp_path / "x", [b"second"], check=lambda partial: None, over=False)
    assert (tmp_path / "x").read_bytes() == b"first" and os.listdir(tmp_path) == ["x"]


@needs_locks
def test_what_a_killed_save_left_is_gone_after_the_next_one_in_that_folder(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from b4m_core.atomic import write_atomically\n"
        "write_atomically(Path(sys.argv[1]) / 'first', [b'x' * 100], check=lambda partial: os._exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".b4m-") and left.stat().st_size == 100
    write_atomically(tmp_path / "second", [b"y"], check=lambda partial: None)
    assert os.listdir(tmp_path) == ["second"]


def test_a_file_that_is_being_written_is_never_swept(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as (file, path):
        assert sweep(tmp_path) == 0 and path.exists()
        file.write(b"more")
    assert not path.exists()


def test_a_save_goes_on_when_a_sweep_comes_between_its_files_birth_and_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, swept = temporary_module._lock, []

    def lock(descriptor: int) -> bool | None:
        if not swept:
            swept.extend(tmp_path.iterdir())
            swept[0].unlink()
        return original(descriptor)

    monkeypatch.setattr(temporary_module, "_lock", lock)
    write_atomically(tmp_path / "x", [b"whole"], check=lambda partial: None)
    assert swept and (tmp_path / "x").read_bytes() == b"whole"


@pytest.mark.parametrize("age,left", [(3600, False), (-3600, False), (2 * 86400, True), (-2 * 86400, True)])
def test_where_there_are_no_locks_only_what_is_old_is_swept(age: int, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative age: the clock was set back since."""
    monkeypatch.setattr(temporary_module, "_lock", lambda descriptor: None)
    (tmp_path / STRAY).write_bytes(b"x")
    os.utime(tmp_path / STRAY, (time.time() - age,) * 2)
    assert sweep(tmp_path) == left


def test_a_sweep_takes_nothing_that_is_not_ours(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inner = tmp_path / "inner"
    for name in (".model.safetensors.partial", "b4m-1.partial", ".b4m-1", "x.safetensors"):
        inner.mkdir(exist_ok=True)
        (inner / name).write_bytes(b"x")
    (inner / STRAY.replace("0", "f")).mkdir()
    (outside / STRAY).write_bytes(b"x")
    if os.name != "nt":
        os.symlink(outside / STRAY, inner / STRAY)
        os.symlink(outside, inner / "link")
        os.mkfifo(inner / STRAY.replace("0", "e"))
    before = sorted(os.listdir(inner))
    assert sweep_below(inner) == 0
    assert sorted(os.listdir(inner)) == before and (outside / STRAY).exists()


@needs_locks
def test_all_folders_of_a_store_are_swept(tmp_path: Path) -> None:
    for folder in ("runs/a", "runs/b", "auxiliary"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / STRAY).write_bytes(b"x")
    assert sweep_below(tmp_path) == 3 and not list(tmp_path.rglob("*.partial")) and sweep_below(tmp_path / "missing") == 0


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO, errno.EMFILE])
def test_a_folder_that_cannot_be_written_is_named_in_a_sentence(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(B4MError, match=rf"x.safetensors could not be written \({os.strerror(number)}\): check the folder"):
        save_adapter(tiny.small_adapter(), tmp_path / "x.safetensors")


class AsOnWindows:
    """``os`` as Windows has it: no open file is moved, removed or replaced; a file that another program holds is refused for a while."""

    def __init__(self, busy: int) -> None:
        self.busy, self.waited = busy, 0.0

    def _require_closed(self, *paths: Path) -> None:
        if self.busy:
            self.busy -= 1
            raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used by another process")
        held = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
        if any(os.path.realpath(path) in held for path in paths):
            raise PermissionError(errno.EACCES, "sharing violation")

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        replace, unlink = os.replace, Path.unlink

        def rename(old: Path, new: Path) -> None:
            self._require_closed(old)
            if os.path.lexists(new):
                raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists")
            replace(old, new)

        def guarded_unlink(path: Path, missing_ok: bool = False) -> None:
            held = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
            if str(path) in held:
                raise PermissionError(errno.EACCES, "sharing violation")
            unlink(path, missing_ok)

        for module in (atomic_module, temporary_module):
            monkeypatch.setattr(module, "_WINDOWS", True)
        monkeypatch.setattr(os, "replace", lambda old, new: (self._require_closed(old, new), replace(old, new)))
        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(Path, "unlink", guarded_unlink)
        monkeypatch.setattr(atomic_module.time, "sleep", lambda seconds: setattr(self, "waited", self.waited + seconds))


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no way to see which files are open")


@needs_proc
@pytest.mark.parametrize("busy,over", [(0, True), (3, True), (0, False), (3, False)])
def test_as_on_windows_a_save_moves_no_open_file_and_asks_again(
    busy: int, over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AsOnWindows(busy).patch(monkeypatch)
    save_adapter(tiny.small_adapter(), tmp_path / "x.safetensors", over=over)
    with pytest.raises(NameTaken):
        save_adapter(tiny.small_adapter(), tmp_path / "x.safetensors", over=False)
    assert os.listdir(tmp_path) == ["x.safetensors"]


@needs_proc
def test_as_on_windows_a_file_that_another_program_holds_is_named_after_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save_adapter(tiny.small_adapter(), tmp_path / "x.safetensors").read_bytes()
    windows = AsOnWindows(0)
    windows.patch(monkeypatch)
    with open(tmp_path / "x.safetensors", "rb"), pytest.raises(B4MError, match="x.safetensors is in use by another program"):
        save_adapter(tiny.small_adapter(fill=2), tmp_path / "x.safetensors")
    assert 1 < windows.waited < 3 and (tmp_path / "x.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]


@needs_proc
def test_as_on_windows_an_old_stray_file_is_swept_and_a_young_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AsOnWindows(0).patch(monkeypatch)
    (tmp_path / STRAY).write_bytes(b"x")
    assert sweep(tmp_path) == 0
    os.utime(tmp_path / STRAY, (0, 0))
    assert sweep(tmp_path) == 1 and os.listdir(tmp_path) == []
