"""A training is a prefix of a longer one: it goes on from what is there, and what was kept of it can be taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from tiny_training import ROLES, no_watch

from b4m_core import Adapter, B4MError, Progress, RunStore, take, train
from b4m_core.attempts import asked_for
from b4m_core.run_store import RunStore as Store


class Steps:
    """A watcher that remembers the steps that were done."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.done: list[int] = []
        self.cancel_at = cancel_at

    def __call__(self, progress: Progress) -> None:
        if progress.step_done:
            self.done.append(progress.step)
            if progress.step == self.cancel_at:
                raise tiny.Cancelled


def trained(store: Path, steps: int, role: str = "content", watch: object = None, **changes: object) -> Adapter:
    made = tiny.plan(role, steps=steps, **changes)  # type: ignore[arg-type]
    return train(made, tiny.TinyBase(), RunStore(store), watch or (lambda progress: None))  # type: ignore[arg-type]


def same(one: Adapter, other: Adapter) -> bool:
    return one.digest() == other.digest() and one.facts == other.facts


@pytest.mark.parametrize("role", ROLES)
def test_more_steps_go_on_where_fewer_ended_to_the_same_numbers_and_facts(role: str, tmp_path: Path) -> None:
    trained(tmp_path / "a", 3, role)
    steps = Steps()
    longer = trained(tmp_path / "a", 6, role, steps)
    assert steps.done == [4, 5, 6] and same(longer, trained(tmp_path / "b", 6, role))


def test_fewer_steps_after_more_are_there_at_once_or_trained_to_the_same_numbers(tmp_path: Path) -> None:
    first = trained(tmp_path / "a", 3)
    longer = trained(tmp_path / "a", 6)
    assert same(trained(tmp_path / "a", 3, watch=no_watch), first), "it was the end of a training, so it is there"
    steps = Steps()
    assert same(trained(tmp_path / "a", 2, watch=steps), trained(tmp_path / "b", 2))
    assert steps.done == [1, 2]
    assert same(trained(tmp_path / "a", 6, watch=no_watch), longer), "the longer one is there as well"


def test_a_kept_step_is_taken_by_asking_for_its_number_of_steps(tmp_path: Path) -> None:
    made = tiny.plan(steps=6)
    train(made, tiny.TinyBase(), RunStore(tmp_path / "a"), keep_every=2)
    for step in (2, 4, 6):
        assert same(trained(tmp_path / "a", step, watch=no_watch), trained(tmp_path / "b", step))


def test_nothing_is_kept_on_the_way_where_that_is_not_wanted(tmp_path: Path) -> None:
    train(tiny.plan(steps=4), tiny.TinyBase(), RunStore(tmp_path), keep_every=0)
    (run,) = Store(tmp_path).runs()
    assert [kept.step for kept in run.kept()] == [4]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_another_file_dtype_is_made_of_what_is_there(dtype: str, tmp_path: Path) -> None:
    trained(tmp_path / "a", 3, file_dtype="float16")
    again = trained(tmp_path / "a", 3, watch=no_watch, file_dtype=dtype)
    assert same(again, trained(tmp_path / "b", 3, file_dtype=dtype)) and again.facts.file_dtype == dtype


def test_numbers_that_a_file_dtype_cannot_hold_are_named_by_their_layer_and_another_one_holds_them() -> None:
    adapter = tiny.small_adapter()
    with torch.no_grad():
        adapter.layers[tiny.OTHER_LAYER].D[0, 0] = 1e6
    with pytest.raises(B4MError, match=rf"Layer {tiny.OTHER_LAYER} D has numbers that float16 cannot hold: choose file_dtype = float32"):
        asked_for(adapter, {"file_dtype": "float16"})
    assert asked_for(adapter, {"file_dtype": "bfloat16"}).facts.file_dtype == "bfloat16"


@pytest.mark.parametrize("role", ["together"])
def test_what_a_stopped_training_learned_can_be_taken_and_gone_on_with(role: str, tmp_path: Path) -> None:
    with pytest.raises(tiny.Cancelled):
        trained(tmp_path / "a", 6, role, Steps(cancel_at=3))
    taken = take(tiny.plan(role, steps=6), tiny.TinyBase(), RunStore(tmp_path / "a"), no_watch)
    assert taken.facts.steps == 3 and same(taken, trained(tmp_path / "b", 3, role))
    assert same(trained(tmp_path / "a", 3, role, no_watch), taken)
    steps = Steps()
    assert same(trained(tmp_path / "a", 6, role, steps), trained(tmp_path / "b", 6, role)) and steps.done == [4, 5, 6]


def test_what_a_killed_training_learned_is_made_of_its_state_without_a_step(tmp_path: Path) -> None:
    with pytest.raises(tiny.Cancelled):
        trained(tmp_path / "a", 6, watch=Steps(cancel_at=3))
    (file,) = tmp_path.rglob("adapter-*.safetensors")
    file.unlink()
    steps = Steps()
    taken = take(tiny.plan(steps=6), tiny.TinyBase(), RunStore(tmp_path / "a"), steps)
    assert same(taken, trained(tmp_path / "b", 3)) and steps.done == []


def test_no_more_is_taken_than_the_steps_that_are_asked_for(tmp_path: Path) -> None:
    train(tiny.plan(steps=6), tiny.TinyBase(), RunStore(tmp_path), keep_every=2)
    for most, step in ((5, 4), (3, 2), (100, 6)):
        assert take(tiny.plan(steps=most), tiny.TinyBase(), RunStore(tmp_path), no_watch).facts.steps == step


def test_where_nothing_is_trained_there_is_nothing_to_take(tmp_path: Path) -> None:
    with pytest.raises(B4MError, match="Nothing of this is trained yet: choose run = continue or reuse"):
        take(tiny.plan(), tiny.TinyBase(), RunStore(tmp_path))


def test_training_anew_counts_once_and_the_old_result_stays_until_the_new_one_is_there(tmp_path: Path) -> None:
    old, made, store = trained(tmp_path, 4), tiny.plan(steps=4), RunStore(tmp_path)
    with pytest.raises(tiny.Cancelled):
        train(made, tiny.TinyBase(), store, Steps(cancel_at=2), retrain=True)
    assert same(take(made, tiny.TinyBase(), store, no_watch), old), "it was not taken away"
    steps = Steps()
    assert same(train(made, tiny.TinyBase(), store, steps, retrain=True), old) and steps.done == [3, 4]
    (run,) = store.runs()
    assert [attempt.folder.name for attempt in run.attempts()] == ["2"]


def test_a_training_anew_that_was_stopped_before_its_first_step_never_was(tmp_path: Path) -> None:
    trained(tmp_path, 4)
    with pytest.raises(tiny.Cancelled):
        train(tiny.plan(steps=4), tiny.TinyBase(), RunStore(tmp_path), tiny.cancel_at(3), retrain=True)
    trained(tmp_path, 4, watch=no_watch)


def test_a_shorter_training_anew_leaves_the_longer_result(tmp_path: Path) -> None:
    trained(tmp_path, 4)
    train(tiny.plan(steps=2), tiny.TinyBase(), RunStore(tmp_path), retrain=True)
    trained(tmp_path, 4, watch=no_watch)
    trained(tmp_path, 2, watch=no_watch)
