"""The run store: keyed by content, whole or not at all, one holder at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from b4m_core import B4MError, Concept, NoiseSchedule, Plan, RunStore
from b4m_core.objective import linear_beta_schedule
from b4m_core.pictures import PictureSet
from b4m_core.runs import content_key

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef" * 4


def test_equal_content_gives_equal_keys_in_any_order() -> None:
    assert content_key({"a": 1, "b": [2, "é"]}) == content_key({"b": [2, "é"], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_the_revision_of_the_method_is_part_of_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_key({"a": 1})
    monkeypatch.setattr("b4m_core.runs.METHOD_REVISION", 10**6)
    assert content_key({"a": 1}) != before


def test_equal_plans_have_equal_keys_and_file_names_do_not_matter() -> None:
    first, second = tiny.plan(), tiny.plan()
    renamed = PictureSet(tuple(tiny.Picture("other name", p.pixels, p.caption) for p in first.pictures.pictures), "snq", "bear")
    assert (
        first.key(tiny.TinyBase())
        == second.key(tiny.TinyBase())
        == Plan("content", renamed, first.others, first.settings).key(tiny.TinyBase())
    )


SETTING_CHANGES: list[dict[str, object]] = [
    {"steps": 5},
    {"rank": 5},
    {"learning_rate": 2e-3},
    {"auxiliary_learning_rate": 2e-4},
    {"weight_decay": 0.02},
    {"max_grad_norm": 2.0},
    {"preconditioner_damping": 1e-3},
    {"batch_size": 2},
    {"gradient_accumulation_steps": 3},
    {"resolution": 96},
    {"flip": True},
    {"seed": 2},
    {"basis_seed": 1},
    {"start": "published"},
    {"split": "full"},
    {"correspondence": "output_preservation"},
    {"file_dtype": "float16"},
]


@pytest.mark.parametrize("change", SETTING_CHANGES, ids=lambda change: next(iter(change)))
def test_every_setting_is_part_of_the_key(change: dict[str, object]) -> None:
    base = tiny.TinyBase(torch.nn.Linear(1, 1))  # a key asks nothing of the network
    assert tiny.plan(**change).key(base) != tiny.plan().key(base)  # type: ignore[arg-type]


def test_no_setting_was_forgotten_in_the_list_above() -> None:
    assert {name for change in SETTING_CHANGES for name in change} == set(tiny.SETTINGS.as_dict())


def v_model() -> tiny.TinyBase:
    return tiny.TinyBase(schedule=NoiseSchedule(linear_beta_schedule(), "v_prediction"))


def zero_terminal() -> tiny.TinyBase:
    alphas = linear_beta_schedule()
    alphas[-1] = 0
    return tiny.TinyBase(schedule=NoiseSchedule(alphas, "v_prediction"))


def test_base_weights_and_schedule_and_prediction_are_part_of_the_key() -> None:
    bases = [tiny.TinyBase(), tiny.TinyBase(fingerprint="0" * 64), v_model(), zero_terminal()]
    assert len({tiny.plan().key(base) for base in bases}) == 4


def test_device_and_dtype_of_the_arithmetic_are_part_of_the_key() -> None:
    on_gpu, in_half = tiny.TinyBase(), tiny.TinyBase()
    on_gpu.device, in_half.dtype = torch.device("cuda"), torch.bfloat16
    assert len({tiny.plan().key(base) for base in (tiny.TinyBase(), on_gpu, in_half)}) == 3


def changed_plans() -> dict[str, Plan]:
    plain = tiny.plan()
    own, partners, settings = plain.pictures, plain.others, plain.settings
    first = own.pictures[0]
    return {
        "role": Plan("style", own, partners, settings),
        "picture": Plan("content", tiny.picture_set(1, 2, 4), partners, settings),
        "order": Plan("content", tiny.picture_set(2, 1, 3), partners, settings),
        "caption": Plan(
            "content", PictureSet((tiny.Picture("1", first.pixels, "another"), *own.pictures[1:]), "snq", "bear"), partners, settings
        ),
        "trigger": Plan("content", PictureSet(own.pictures, "other", "bear"), partners, settings),
        "class": Plan("content", PictureSet(own.pictures, "snq", "cat"), partners, settings),
        "fewer partners": Plan("content", own, partners[:1], settings),
        "no partners": Plan("content", own, (), settings),
        "other partners": Plan("content", own, partners[::-1], settings),
    }


@pytest.mark.parametrize("what", changed_plans())
def test_every_part_of_a_plan_is_part_of_the_key(what: str) -> None:
    base = tiny.TinyBase()
    assert changed_plans()[what].key(base) != tiny.plan().key(base)


def test_what_a_training_together_starts_from_is_part_of_the_key() -> None:
    other = tiny.filled(tiny.merged_adapter(), seed=9)
    assert tiny.plan("together").key(tiny.TinyBase()) != tiny.plan("together", adapter=other).key(tiny.TinyBase())


def test_auxiliary_sets_of_a_training_together_are_part_of_the_key_and_without_them_it_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans = [tiny.plan("together", auxiliary=count, correspondence="output_preservation") for count in (0, 1, 2)]
    assert len({made.key(tiny.TinyBase()) for made in plans}) == 3
    said: list[dict[str, object]] = []
    monkeypatch.setattr("b4m_core.plan.content_key", lambda parts: str(said.append(parts)))
    plans[0].key(tiny.TinyBase())
    assert list(said[0]) == ["role", "sets", "settings", "start", "base", "schedule", "arithmetic"]
    assert [(each["trigger"], each["class"]) for each in said[0]["sets"]] == [("snq", "bear"), ("w@z", "drawing")]  # type: ignore[attr-defined]


def test_pictures_moved_from_one_set_to_another_give_another_key() -> None:
    own, settings, base = tiny.picture_set(1), tiny.settings(), tiny.TinyBase()
    one = Plan("content", own, (tiny.picture_set(2, 3), tiny.picture_set(4)), settings)
    two = Plan("content", own, (tiny.picture_set(2), tiny.picture_set(3, 4)), settings)
    assert one.key(base) != two.key(base)


def test_a_state_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    run = RunStore(tmp_path).open(KEY)
    tensors = {"0.up": torch.randn(2, 3), "losses": torch.randn(4, 3, dtype=torch.float64)}
    with run.locked():
        assert run.load_state() is None
        run.save_state(tensors, 7)
        found = run.load_state()
    assert found is not None and found[0] == 7
    assert found[1].keys() == tensors.keys() and all(torch.equal(found[1][name], tensors[name]) for name in tensors)


def test_a_damaged_state_is_set_aside_and_counts_as_none(tmp_path: Path) -> None:
    run = RunStore(tmp_path).open(KEY)
    with run.locked():
        run.save_state({"x": torch.ones(3)}, 7)
        raw = (run.folder / "state.safetensors").read_bytes()
        (run.folder / "state.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        assert run.load_state() is None
    assert not (run.folder / "state.safetensors").exists() and (run.folder / "state.damaged").exists()


def test_a_damaged_result_is_set_aside_and_trained_again(tmp_path: Path) -> None:
    run = RunStore(tmp_path).open(KEY)
    with run.locked():
        run.finish(tiny.small_adapter())
        (run.folder / "adapter.safetensors").write_bytes(b"half")
        assert run.finished() is None


def test_a_finished_run_keeps_the_adapter_and_drops_the_state(tmp_path: Path) -> None:
    run, adapter = RunStore(tmp_path).open(KEY), tiny.small_adapter(content=Concept("snq"))
    with run.locked():
        run.save_state({"x": torch.ones(3)}, 7)
        result = run.finish(adapter)
    assert result.digest() == adapter.digest() and result.facts == adapter.facts
    assert sorted(file.name for file in run.folder.iterdir()) == ["adapter.safetensors", "lock"]


def test_a_run_that_is_held_refuses_a_second_holder_in_a_sentence(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.open(KEY).locked():
        with (
            pytest.raises(B4MError, match="This very training is already running in another ComfyUI: wait for it"),
            store.open(KEY).locked(),
        ):
            pass
        with store.open("f" * 64).locked():
            pass
    with store.open(KEY).locked():
        pass


def test_a_stray_half_file_of_a_killed_process_is_swept_away(tmp_path: Path) -> None:
    run = RunStore(tmp_path).open(KEY)
    run.folder.mkdir(parents=True)
    (run.folder / ".state.safetensors.partial").write_bytes(b"half")
    with run.locked():
        pass
    assert [file.name for file in run.folder.iterdir()] == ["lock"]


def test_a_store_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(B4MError, match="cannot be written"), RunStore(tmp_path).open(KEY).locked():
        pass


def refusing(number: int) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


NO_LOCKS = [errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK]


@pytest.mark.skipif(os.name == "nt", reason="locks are taken by another call there")
@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_trained_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(number))
    run = RunStore(tmp_path).open(KEY)
    with run.locked():
        run.save_state({"x": torch.ones(3)}, 7)
    assert run.load_state() is not None


@pytest.mark.skipif(os.name == "nt", reason="locks are taken by another call there")
@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES], ids=errno.errorcode.get)
def test_a_lock_that_another_holds_is_told_from_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(number))
    with pytest.raises(B4MError, match="already running in another ComfyUI"), RunStore(tmp_path).open(KEY).locked():
        pass


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "may be written to"), (errno.EROFS, "may be written to")]
)
def test_a_run_folder_that_cannot_be_written_says_what_to_do(
    number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.open", refusing(number))
    with pytest.raises(B4MError, match=f"cannot be written.*{advice}"), RunStore(tmp_path).open(KEY).locked():
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE], ids=errno.errorcode.get)
def test_a_result_that_cannot_be_read_now_is_not_taken_for_damaged(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunStore(tmp_path).open(KEY)
    with run.locked():
        run.finish(tiny.small_adapter())
        run.save_state({"x": torch.ones(3)}, 7)
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", refusing(number))
            for read in (run.finished, run.load_state):
                with pytest.raises(B4MError, match=f"cannot be read .{os.strerror(number)}.: check its disk"):
                    read()
        assert run.finished() is not None and run.load_state() is not None
