"""The launcher's lock: one command at a time where the file system has locks, and no endless waiting where it has none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher import lock


@pytest.mark.skipif(sys.platform == "win32", reason="file systems without locks are met by flock")
@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_not_waited_for(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    done = []
    with lock.only_one(tmp_path / "lock"):
        done.append("once")
    with lock.only_one(tmp_path / "lock"):
        done.append("again")
    assert done == ["once", "again"]


def test_a_folder_that_may_not_be_written_is_said_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError), lock.only_one(tmp_path / "lock"):
        pass


def test_a_lock_that_is_held_is_waited_for_until_its_holder_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, filelock as f; lock = f.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    threading.Timer(1.0, holder.kill).start()  # as a command that was killed: it releases nothing by itself
    with lock.only_one(tmp_path / "lock"):
        assert holder.poll() is not None or holder.wait(5)
    assert "waiting for it" in capsys.readouterr().out
