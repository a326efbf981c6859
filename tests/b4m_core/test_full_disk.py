"""What happens to a file when the disk, the power or the user stops its writing: the old one stays whole."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import tiny
from tiny_files import FACTS, saved

from b4m_core import B4MError, load_adapter, save_adapter


def full_disk(*arguments: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_an_old_file_stays_whole_when_the_disk_is_full(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, raw = saved(tmp_path)
    changed = tiny.small_adapter(fill=77, **FACTS)
    with monkeypatch.context() as patch:
        patch.setattr(*(("builtins.open", full_disk) if call == "open" else (f"os.{call}", full_disk)))
        with pytest.raises(B4MError, match=r"The disk is full: .* needs \d+ MB and \d+ MB are free; make room"):
            save_adapter(changed, tmp_path / "bear.safetensors")
    assert (tmp_path / "bear.safetensors").read_bytes() == raw and len(list(tmp_path.iterdir())) == 1
    assert load_adapter(tmp_path / "bear.safetensors").digest() == adapter.digest()


@pytest.mark.skipif(os.name == "nt", reason="no such limit there")
def test_a_disk_that_fills_up_in_the_middle_of_a_file_loses_nothing(tmp_path: Path) -> None:
    """A real limit of the operating system on the size of a file, in a process of its own, at ten fill levels."""
    import subprocess
    import sys

    adapter, raw = saved(tmp_path)
    code = (
        "import sys, resource, signal; from pathlib import Path; from b4m_core import *; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); path = Path(sys.argv[1]); "
        "adapter = load_adapter(path); size = path.stat().st_size\n"
        "for level in range(10):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size * level // 10, resource.RLIM_INFINITY))\n"
        "    try: save_adapter(adapter, path)\n"
        "    except B4MError as error: print(error, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[2]
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bear.safetensors")], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(printed) == 10 and all("could not be written" in line or "The disk is full" in line for line in printed)
    assert (tmp_path / "bear.safetensors").read_bytes() == raw and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no way to find the open file there")
def test_a_file_that_reads_back_differently_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stores one byte wrongly: found before the old file is replaced."""
    _, raw = saved(tmp_path)
    original = os.fsync

    def rot(descriptor: int) -> None:
        original(descriptor)
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith(".partial"):
            with open(name, "r+b") as file:
                file.seek(-1, os.SEEK_END)
                byte = file.read(1)
                file.seek(-1, os.SEEK_END)
                file.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(os, "fsync", rot)
    with pytest.raises(B4MError, match="bear.safetensors"):
        save_adapter(tiny.small_adapter(fill=9, **FACTS), tmp_path / "bear.safetensors")
    assert (tmp_path / "bear.safetensors").read_bytes() == raw and len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_save_leaves_no_stray_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(tiny.small_adapter(), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
def test_a_save_writes_then_syncs_then_renames_then_syncs_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append("rename"), replace(old, new))[1])
    saved(tmp_path)
    assert order == ["file", "rename", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_file_system_that_cannot_sync_a_folder_still_saves(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(os, call)

    def refuse(place: object, *more: object) -> object:
        if os.path.isdir(place) if isinstance(place, (str, Path)) else stat.S_ISDIR(os.fstat(place).st_mode):  # type: ignore[arg-type,call-overload]
            raise OSError(number, os.strerror(number))
        return original(place, *more)

    monkeypatch.setattr(os, call, refuse)
    saved(tmp_path)
    monkeypatch.undo()
    assert load_adapter(tmp_path / "bear.safetensors")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_that_cannot_sync_at_all_still_saves(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    saved(tmp_path)
    assert load_adapter(tmp_path / "bear.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failing_disk_is_still_an_error(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (kind == "folder"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(B4MError, match="could not be written"):
        saved(tmp_path)
