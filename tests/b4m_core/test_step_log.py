"""log.jsonl: a line for every step, none twice, whatever interrupts a training and whatever the disk says."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from b4m_core import Adapter, RunStore, step_log, train
from b4m_core.attempts import Attempt
from b4m_core.commandline import main
from b4m_core.step_log import NAME, StepLog, read_log


def log_of(store: Path) -> list[dict[str, Any]]:
    (run,) = RunStore(store).runs()
    return run.log()


def trained(store: Path, steps: int, watch: Any = lambda progress: None, **named: Any) -> Adapter:
    return train(tiny.plan("content", partners=0, steps=steps), tiny.TinyBase(), RunStore(str(store)), watch, **named)


def steps_of(rows: list[dict[str, Any]]) -> list[int]:
    return [row["step"] for row in rows]


def logged(folder: Path, *losses: float, tell: Any = pytest.fail) -> StepLog:
    """A log to which these losses were added, one step after the other, and written."""
    log = StepLog(Attempt(folder, tell), 0.1, tell)
    for step in range(1, len(losses) + 1):
        log.add([(float(k + 1), loss, 0.0) for k, loss in enumerate(losses[:step])])
    log.flush()
    return log


def test_every_step_has_a_line_with_its_losses_rate_and_seconds(tmp_path: Path) -> None:
    adapter = trained(tmp_path, 4)
    rows = log_of(tmp_path)
    assert [(row["step"], row["loss"], row["others"]) for row in rows] == [tuple(loss) for loss in adapter.facts.losses]
    assert {row["learning_rate"] for row in rows} == {tiny.SETTINGS.learning_rate} and all(row["seconds"] > 0 for row in rows[1:])


def test_a_training_that_was_stopped_and_goes_on_has_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(tiny.Cancelled):
        trained(tmp_path, 6, tiny.cancel_at(8))
    assert 0 < len(log_of(tmp_path)) < 6
    trained(tmp_path, 6)
    trained(tmp_path, 8)
    trained(tmp_path, 3)
    assert steps_of(log_of(tmp_path)) == [*range(1, 9)]


def test_a_killed_training_s_half_line_and_its_untold_steps_cost_nothing(tmp_path: Path) -> None:
    """Killed while it wrote step 4, with a state of step 2 to go on from."""
    trained(tmp_path, 2)
    (run,) = RunStore(tmp_path).runs()
    file = run.attempts()[-1].folder / NAME
    whole = file.read_text()
    file.write_text(whole + '{"step": 3, "loss": 0.5, "others": 0.1}\n{"step": 4, "lo')
    assert steps_of(read_log(file)) == [1, 2, 3]
    trained(tmp_path, 5)
    assert steps_of(log_of(tmp_path)) == [1, 2, 3, 4, 5] and '"lo{' not in file.read_text()
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_run_from_before_there_was_a_log_gets_the_steps_that_its_state_knows(tmp_path: Path) -> None:
    trained(tmp_path, 2)
    (run,) = RunStore(tmp_path).runs()
    (run.attempts()[-1].folder / NAME).unlink()
    trained(tmp_path, 4)
    assert steps_of(log_of(tmp_path)) == [1, 2, 3, 4]


def test_what_is_trained_anew_has_a_log_of_its_own(tmp_path: Path) -> None:
    trained(tmp_path, 3)
    trained(tmp_path, 2, retrain=True)
    (run,) = RunStore(tmp_path).runs()
    assert [steps_of(read_log(each.folder / NAME)) for each in run.attempts()] == [[1, 2, 3], [1, 2]]


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe\x00", b'{"step": "x"}\n', b"[]\n", b"1\n", b'{"step": 3}\n{"step": 3}\n{"step": 2}\n', b"[" * 100_000 + b"\n"]
)
def test_lines_that_are_none_of_ours_are_left_out(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_bytes(data)
    assert steps_of(read_log(file)) in ([], [3])
    logged(tmp_path, 0.1, 0.2, 0.3, 0.4)
    assert steps_of(read_log(file))[-1] == 4


def test_a_loss_that_is_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    logged(tmp_path, 0.5, float("nan"), float("inf"))
    assert [row["loss"] for row in read_log(tmp_path / NAME)] == [0.5, None, None]
    assert "NaN" not in (tmp_path / NAME).read_text()


def full(number: int) -> Any:
    """A disk that takes nothing."""

    def append(log: StepLog, data: bytes) -> None:
        raise OSError(number, "No space left on device")

    return append


def test_a_full_disk_is_told_once_ends_no_training_and_nothing_is_missing_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(step_log, "FLUSH_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "_append", full(errno.ENOSPC))
        log = logged(tmp_path, 0.1, 0.2, tell=told.append)
    assert told == ["log.jsonl could not be written (No space left on device); training goes on, and it is tried again."]
    log.add([(1.0, 0.1, 0.0), (2.0, 0.2, 0.0), (3.0, 0.3, 0.0)])
    assert steps_of(read_log(tmp_path / NAME)) == [1, 2, 3] and len(told) == 1
    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "_append", full(errno.EIO))
        assert trained(tmp_path / "store", 2, tell=told.append).facts.steps == 2
    assert len(told) == 2


def test_half_of_what_could_not_be_written_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logged(tmp_path, 0.1)
    before = log.file.read_bytes()

    class Full:
        """A file that takes half."""

        def __init__(self, path: Path, mode: str) -> None:
            self.path = path

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None: ...

        def write(self, data: bytes) -> None:
            self.path.write_bytes(self.path.read_bytes() + data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step_log, "open", Full, raising=False)
    with pytest.raises(OSError, match="No space"):
        log._append(b'{"step": 2}\n')
    assert log.file.read_bytes() == before


def test_the_file_stays_within_its_bound_and_keeps_the_newest_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_log, "MOST_BYTES", 2000)
    monkeypatch.setattr(step_log, "FLUSH_SECONDS", 0.0)
    log = StepLog(Attempt(tmp_path, pytest.fail), 0.1, pytest.fail)
    losses: list[tuple[float, float, float]] = []
    for step in range(1, 201):
        losses.append((float(step), 0.1, 0.0))
        log.add(losses)
        log.flush()
        assert (tmp_path / NAME).stat().st_size <= 2000
    steps = steps_of(read_log(tmp_path / NAME))
    assert steps[-1] == 200 and steps == sorted(set(steps)) and len(steps) > 8
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_the_log_is_printed_and_an_unknown_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, 2)
    (run,) = RunStore(tmp_path).runs()
    assert main(["runs", "--store", str(tmp_path), "--log", run.key]) == 0
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [1, 2]
    assert main(["runs", "--store", str(tmp_path), "--log", "0" * 32]) == 1
    assert "holds no run 00000000" in capsys.readouterr().err
