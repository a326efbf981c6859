"""The run store stays within its bound: what was not used for longest goes first, and never a run that is being trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from tiny_training import result

from b4m_core import B4MError, RunStore, train
from b4m_core.commandline import main
from b4m_core.run_store import MOST_BYTES
from b4m_core.runs import Run

ROOT = Path(__file__).resolve().parents[2]


HOLDER = """
import sys
from pathlib import Path
from b4m_core.runs import Run
with Run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def filled(store: RunStore, *ages: int, size: int = 1000) -> list[Run]:
    """Runs that were last used so many seconds ago, each with one file of some bytes and a painted picture of the same age."""
    runs = []
    for number, age in enumerate(ages):
        run = store.open(f"{number:032x}")
        with run.locked():
            run.begin().save_state({"x": torch.zeros(size // 4)}, 5)
        used = os.stat(run.folder).st_mtime - age
        os.utime(run.folder / "lock", (used, used))
        runs.append(run)
    return runs


def there(runs: list[Run]) -> list[bool]:
    return [run.folder.exists() for run in runs]


def test_the_bound_is_twenty_gigabytes_or_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("B4M_STORE_GB", raising=False)
    assert RunStore(tmp_path).most_bytes == MOST_BYTES == 20 * 10**9
    monkeypatch.setenv("B4M_STORE_GB", "0.5")
    assert RunStore(tmp_path).most_bytes == 5 * 10**8
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("B4M_STORE_GB", wrong)
        with pytest.raises(B4MError, match="B4M_STORE_GB is .*: write a number of GB, such as 20"):
            RunStore(tmp_path)


def test_what_was_not_used_for_longest_goes_first_and_no_more_than_needed(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    runs = filled(store, 10, 40, 30, 20)
    sizes = {entry.path: entry.bytes for entry in store.entries()}
    removed = store.prune(sum(sizes.values()) - 1)
    assert there(runs) == [True, False, True, True] and (removed.entries, removed.bytes) == (1, sizes[runs[1].folder])
    store.prune(sizes[runs[0].folder])
    assert there(runs) == [True, False, False, False]
    assert store.prune(10**9).entries == 0 and store.prune(0).entries == 1 and store.entries() == []


def test_painted_pictures_count_and_go_in_their_turn(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    (run,) = filled(store, 50)
    picture = tmp_path / "auxiliary" / "x.png"
    picture.parent.mkdir()
    picture.write_bytes(b"x" * 500)
    old = os.stat(picture).st_mtime - 100
    os.utime(picture, (old, old))
    store.prune(sum(entry.bytes for entry in store.entries()) - 1)
    assert run.folder.exists() and not picture.exists()


def test_a_run_that_is_being_trained_is_never_pruned(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    runs = filled(store, 30, 20, 10)
    with runs[0].locked():
        assert store.prune(0).entries == 2
        assert there(runs) == [True, False, False] and runs[0].begin().load_state() is not None


def test_a_run_in_another_process_is_never_pruned(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    (run,) = filled(store, 30)
    command = [sys.executable, "-c", HOLDER, str(run.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert store.prune(0).entries == 0 and run.folder.exists()
        other.kill()
    assert store.prune(0).entries == 1 and not run.folder.exists()


@pytest.mark.skipif(os.name == "nt", reason="locks are taken by another call there")
def test_where_a_file_system_has_no_locks_what_was_used_within_a_day_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def refuse(*given: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    store = RunStore(tmp_path)
    monkeypatch.setattr("fcntl.flock", refuse)
    runs = filled(store, 3600, 25 * 3600)
    store.prune(0)
    assert there(runs) == [True, False]


def test_a_run_whose_lock_was_removed_while_one_waited_for_it_is_locked_anew(tmp_path: Path) -> None:
    """Who opened the old file must not think that it holds the run: another would hold the new one."""
    store = RunStore(tmp_path)
    (run,) = filled(store, 5)
    stale = open(run.folder / "lock", "a+b")  # noqa: SIM115
    store.prune(0)
    with run.locked(), pytest.raises(B4MError, match="already running"), Run(run.folder).locked():
        pass
    stale.close()


def test_a_file_system_whose_files_have_no_lasting_numbers_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    with RunStore(tmp_path).open("a" * 32).locked() as real:
        assert real


@pytest.mark.parametrize("stop", [0, 2])
def test_a_pruning_that_is_interrupted_leaves_runs_that_are_whole_or_begin_anew(
    stop: int, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    result(tmp_path, tiny.plan())
    remove, count = os.unlink, iter(range(100))

    def cut(*given: object, **named: object) -> None:
        if next(count) == stop:
            raise KeyboardInterrupt
        remove(*given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", cut)
        try:
            RunStore(tmp_path).prune(0)
        except KeyboardInterrupt:
            pass
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


def test_every_training_keeps_the_store_within_its_bound(tmp_path: Path) -> None:
    result(tmp_path, tiny.plan(seed=1))
    size = sum(entry.bytes for entry in RunStore(tmp_path).entries())
    for seed in range(2, 5):
        store = RunStore(tmp_path, most_bytes=int(2.5 * size))
        train(tiny.plan(seed=seed), tiny.TinyBase(), store)
        assert len(store.runs()) <= 2 and sum(entry.bytes for entry in store.entries()) <= store.most_bytes
    assert len(store.runs()) == 2


def test_a_link_in_the_store_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x" * 5000)
    store = RunStore(tmp_path / "store")
    (run,) = filled(store, 10)
    (run.folder / "link").symlink_to(outside, target_is_directory=True)
    (store.root / "runs" / ("a" * 32)).symlink_to(outside, target_is_directory=True)
    assert sum(entry.bytes for entry in store.entries()) < 5000
    store.prune(0)
    assert (outside / "precious").read_bytes() == b"x" * 5000 and not run.folder.exists()


@pytest.mark.parametrize("key", ["..", "../" + "a" * 29, "A" * 32, "a" * 31, "a" * 33, "", "a" * 31 + "/", "a" * 32 + "\n"])
def test_only_a_key_finds_a_run(key: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "store")
    (tmp_path / "store" / "runs").mkdir(parents=True)
    assert store.find(key) is None


def test_the_command_lists_the_store_and_prunes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = filled(RunStore(tmp_path), 30, 10, size=2_000_000)
    assert main(["runs", "--store", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert all(run.key in listed for run in runs) and "step 5" in listed and "4 MB of at most 20 GB" in listed
    assert main(["runs", "--store", str(tmp_path), "--prune", "0.003"]) == 0
    assert "1 removed, 2 MB freed" in capsys.readouterr().out and there(runs) == [False, True]
    assert main(["runs", "--store", str(tmp_path), "--prune"]) == 0 and there(runs) == [False, True]
    assert main(["runs", "--store", str(tmp_path), "--prune", "nan"]) == 1
    assert "say how many GB may stay" in capsys.readouterr().err
