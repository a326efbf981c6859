"""A disk that is full, away or damaged while a training runs: it goes on, says so, and keeps again when that can be done."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from tiny_training import result

from b4m_core import B4MError, RunStore, train
from b4m_core.container import UnreadableFile


@pytest.fixture(autouse=True)
def every_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b4m_core.keeping.SAVE_SECONDS", -1.0)
    monkeypatch.setattr("b4m_core.keeping.LAST_PAUSE", 0.0)


def full_in(patch: pytest.MonkeyPatch, writes: set[int]) -> None:
    """The disk is full for the files with these numbers, in the order in which they are written."""
    sync, count = os.fsync, itertools.count()

    def fail(descriptor: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}") and next(count) in writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    patch.setattr(os, "fsync", fail)


def trained(store: Path, told: list[str], **changes: object) -> Any:
    return train(tiny.plan(**changes), tiny.TinyBase(), RunStore(store), tell=told.append, keep_every=0)  # type: ignore[arg-type]


def test_a_disk_that_fills_overnight_ends_no_training_and_is_tried_again(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with monkeypatch.context() as patch:
        full_in(patch, {1, 2})  # behind the record of the run
        trained(tmp_path, told)
    assert len(told) == 2, told
    assert "Step 1 could not be kept; training goes on, and it is tried again. The disk is full" in told[0]
    assert told[1] == "Step 3 was kept: what was in the way is gone."
    assert tiny.file_of(tmp_path, tiny.plan(), tiny.TinyBase()).read_bytes() == uninterrupted["content"]


def test_a_disk_that_stays_full_hands_the_result_on_and_says_to_save_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with monkeypatch.context() as patch:
        full_in(patch, set(range(100)))
        found = trained(tmp_path / "a", told)
    assert found.digest() == trained(tmp_path / "b", []).digest()
    assert "save it now with B4M Save LoRA" in told[-1] and not list(tmp_path.joinpath("a").rglob("*.safetensors"))


def test_a_cancel_on_a_full_disk_says_what_is_not_kept_and_leaves_what_was(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("b4m_core.keeping.SAVE_SECONDS", 1e9)
    with pytest.raises(tiny.Cancelled):
        result(tmp_path, tiny.plan(), watch=tiny.cancel_at(10))
    with monkeypatch.context() as patch, pytest.raises(tiny.Cancelled):
        full_in(patch, set(range(100)))
        train(tiny.plan(), tiny.TinyBase(), RunStore(tmp_path), tiny.cancel_at(8), tell=told.append)
    assert "Step 3 could not be kept; Run goes on from step 2. The disk is full" in told[0]
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


def test_too_little_room_is_said_before_the_first_step_with_how_much_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_000_000))
    steps: list[bool] = []
    words = r"The disk of \S+ has 1 MB free, and this training keeps up to \d\d MB there while it goes: free some space"
    with pytest.raises(B4MError, match=words):
        result(tmp_path, tiny.plan(), watch=lambda progress: steps.append(progress.encoded is None))
    assert not any(steps)


def test_a_file_system_that_does_not_say_how_much_is_free_is_tried(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(place: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(shutil, "disk_usage", unknown)
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


@pytest.mark.parametrize("number", [errno.EMFILE], ids=errno.errorcode.get)
def test_a_state_that_cannot_be_read_once_is_told_and_gone_on_from_the_next_time(
    number: int, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(tiny.Cancelled):
        result(tmp_path, tiny.plan(), watch=tiny.cancel_at(12))

    def refuse(*given: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(UnreadableFile, match=os.strerror(number)):
        patch.setattr("b4m_core.container.open", refuse, raising=False)
        result(tmp_path, tiny.plan())
    steps: list[int] = []
    assert result(tmp_path, tiny.plan(), watch=lambda progress: steps.append(progress.step)) == uninterrupted["content"]
    assert min(steps[7:]) == 3


def test_a_damaged_state_is_told_and_the_one_before_it_gone_on_from(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    with pytest.raises(tiny.Cancelled):
        result(tmp_path, tiny.plan(), watch=tiny.cancel_at(12))
    *_, newest = sorted(tmp_path.rglob("state-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-7])
    told: list[str] = []
    steps: list[int] = []
    train(
        tiny.plan(), tiny.TinyBase(), RunStore(tmp_path), lambda progress: steps.append(progress.step), tell=told.append
    )
    assert "What was kept of step 3 cannot be used and was set aside" in told[0] and min(steps[7:]) == 2
    assert tiny.file_of(tmp_path, tiny.plan(), tiny.TinyBase()).read_bytes() == uninterrupted["content"]
