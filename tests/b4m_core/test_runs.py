"""The run store: keyed by content, whole or not at all, one holder at a time."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors import SafetensorError

from b4m_core import Adapter, B4MError, Concept, NoiseSchedule, Plan, RunStore
from b4m_core.attempts import Attempt
from b4m_core.container import UnreadableFile
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
]


@pytest.mark.parametrize("change", SETTING_CHANGES, ids=lambda change: next(iter(change)))
def test_every_setting_that_a_step_depends_on_is_part_of_the_key(change: dict[str, object]) -> None:
    base = tiny.TinyBase(torch.nn.Linear(1, 1))  # a key asks nothing of the network
    assert tiny.plan(**change).key(base) != tiny.plan().key(base)  # type: ignore[arg-type]


def test_no_setting_was_forgotten_in_the_list_above() -> None:
    assert {name for change in SETTING_CHANGES for name in change} | {"steps", "file_dtype"} == set(tiny.SETTINGS.as_dict())


@pytest.mark.parametrize("change", [{"steps": 5}, {"file_dtype": "float16"}], ids=lambda change: next(iter(change)))
def test_how_far_a_training_goes_and_how_it_is_stored_are_no_part_of_the_key(change: dict[str, object]) -> None:
    base = tiny.TinyBase(torch.nn.Linear(1, 1))
    assert tiny.plan(**change).key(base) == tiny.plan().key(base)  # type: ignore[arg-type]


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


def attempt_in(folder: Path, told: list[str] | None = None) -> Attempt:
    return Attempt(folder / "1", (told if told is not None else []).append)


def flip_last_bit(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


def kept_at(step: int) -> Adapter:
    return tiny.small_adapter(fill=step, content=Concept("snq"), steps=step)


def test_a_state_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    attempt = attempt_in(tmp_path)
    tensors = {"0.up": torch.randn(2, 3), "losses": torch.randn(4, 3, dtype=torch.float64)}
    assert attempt.load_state() is None
    attempt.save_state(tensors, 7)
    found = attempt.load_state()
    assert found is not None and found[0] == 7
    assert found[1].keys() == tensors.keys() and all(torch.equal(found[1][name], tensors[name]) for name in tensors)


def test_two_generations_of_states_are_kept_and_a_damaged_one_makes_way_for_the_older_and_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    attempt = attempt_in(tmp_path, told)
    for step in (3, 5, 7):
        attempt.save_state({"x": torch.full((3,), float(step))}, step)
    assert attempt.steps_of("state") == [5, 7]
    flip_last_bit(attempt.path("state", 7))
    found = attempt.load_state()
    assert found is not None and found[0] == 5 and found[1]["x"][0] == 5
    assert len(told) == 1 and "What was kept of step 7 cannot be used and was set aside as state-00000007.damaged" in told[0]
    assert (attempt.folder / "state-00000007.damaged").exists()


def test_a_training_of_fewer_steps_has_states_of_its_own_below_those_that_there_are(tmp_path: Path) -> None:
    attempt = attempt_in(tmp_path)
    for step in (50, 60):
        attempt.save_state({"x": torch.ones(3)}, step)
    below = attempt_in(tmp_path)
    for step in (10, 20, 30):
        below.save_state({"x": torch.ones(3)}, step)
        assert step in below.steps_of("state") and {50, 60} < set(below.steps_of("state"))
    assert below.steps_of("state") == [20, 30, 50, 60]
    found = below.load_state(45)
    assert found is not None and found[0] == 30


def test_a_kept_adapter_comes_back_in_float32_whatever_was_asked_for(tmp_path: Path) -> None:
    attempt, adapter = attempt_in(tmp_path), kept_at(7).with_facts(file_dtype="float16")
    attempt.keep(adapter)
    found = attempt.adapter(7)
    assert found is not None and found.digest() == adapter.digest() and found.facts.file_dtype == "float32"
    assert attempt.adapter(8) is None


def test_a_damaged_adapter_is_set_aside_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    attempt = attempt_in(tmp_path, told)
    attempt.keep(kept_at(7))
    attempt.path("adapter", 7).write_bytes(b"half")
    assert attempt.adapter(7) is None and "step 7 cannot be used" in told[0]


def test_kept_adapters_are_bounded_in_number_and_stay_spread_over_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b4m_core.attempts.MOST_ADAPTERS", 5)
    attempt = attempt_in(tmp_path)
    for step in range(1, 41):
        attempt.keep(kept_at(step))
        assert step in attempt.steps_of("adapter") and len(attempt.steps_of("adapter")) <= 5
    gaps = [after - before for before, after in itertools.pairwise([0, *attempt.steps_of("adapter")])]
    assert max(gaps) <= 20, gaps


def test_kept_adapters_are_bounded_in_bytes_but_the_newest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b4m_core.attempts.MOST_ADAPTER_BYTES", 1)
    attempt = attempt_in(tmp_path)
    for step in (1, 2, 3):
        attempt.keep(kept_at(step))
        assert attempt.steps_of("adapter") == [step]


def test_samples_are_pictures_with_their_step_and_loss_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b4m_core.attempts.MOST_SAMPLES", 3)
    attempt = attempt_in(tmp_path)
    for step in (10, 20, 30, 40):
        attempt.keep_sample(torch.rand(16, 24, 3), step, loss=step / 100, prompt="a snq bear")
    kept = attempt.kept()
    assert len(kept) == 3 and (kept[-1].step, kept[-1].loss, kept[-1].adapter) == (40, 0.4, False)
    with Image.open(kept[-1].sample) as picture:  # type: ignore[arg-type]
        assert picture.size == (24, 16) and picture.format == "JPEG"


def test_what_is_kept_of_a_run_is_listed_with_its_losses(tmp_path: Path) -> None:
    run = RunStore(tmp_path).open(KEY)
    attempt = run.begin()
    attempt.keep(kept_at(10).with_facts(losses=((1.0, 0.5, 0.0), (10.0, 0.25, 0.0))))
    attempt.save_state({"x": torch.ones(2)}, 12, [(1, 0.5, 0.0), (12, 0.2, 0.0)])
    attempt.keep_sample(torch.rand(8, 8, 3), 10, loss=0.25)
    assert [(kept.step, kept.loss, kept.sample is not None, kept.adapter, kept.state) for kept in run.kept()] == [
        (10, 0.25, True, True, False),
        (12, 0.2, False, False, True),
    ]
    assert run.losses() == [[1.0, 0.5, 0.0], [12.0, 0.2, 0.0]] and run.sample(10) == attempt.path("sample", 10) and run.sample(12) is None


def test_training_anew_begins_a_further_attempt_once_and_what_was_there_stays_until_it_came_as_far(tmp_path: Path) -> None:
    run = RunStore(tmp_path).open(KEY)
    run.begin().keep(kept_at(7))
    anew = run.begin(retrain=True)
    assert anew.retraining and not anew.folder.exists()
    anew.save_state({"x": torch.ones(3)}, 3)
    for retrain in (True, False):
        again = run.begin(retrain=retrain)
        assert again.folder == anew.folder and again.retraining and again.load_state() is not None
    run.settle(anew)
    assert len(run.attempts()) == 2 and run.adapter(7) is not None, "it has not come as far yet"
    anew.keep(kept_at(7))
    run.settle(anew)
    assert [attempt.folder.name for attempt in run.attempts()] == ["2"] and not run.begin().retraining
    assert run.begin(retrain=True).folder.name == "3"


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
    (run.folder / "1").mkdir(parents=True)
    (run.folder / "1" / ".state-00000003.safetensors.partial").write_bytes(b"half")
    with run.locked():
        pass
    assert sorted(file.name for file in run.folder.rglob("*")) == ["1", "lock"]


def test_a_store_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(B4MError, match="cannot be written"), RunStore(tmp_path).open(KEY).locked():
        pass


def refusing(number: int) -> Callable[..., None]:
    def call(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


NO_LOCKS = [errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK]


@pytest.mark.skipif(os.name == "nt", reason="locks are taken by another call there")
@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_trained_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(number))
    run = RunStore(tmp_path).open(KEY)
    with run.locked():
        run.begin().save_state({"x": torch.ones(3)}, 7)
    assert run.begin().load_state() is not None


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


SYSTEM = [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENXIO]


@pytest.mark.parametrize("number", SYSTEM, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["builtins.open", "b4m_core.container.safetensors.safe_open", "os.listdir"])
def test_what_cannot_be_read_now_is_told_and_moves_nothing(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempt_in(tmp_path)
    attempt.keep(kept_at(7))
    attempt.save_state({"x": torch.ones(3)}, 5)
    attempt.save_state({"x": torch.ones(3)}, 7)
    before = sorted(file.name for file in attempt.folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(call, refusing(number))
        for read in (lambda: attempt.adapter(7), attempt.load_state):
            with pytest.raises(UnreadableFile, match=f"cannot be read .{os.strerror(number)}.: check its disk"):
                read()
    assert sorted(file.name for file in attempt.folder.iterdir()) == before
    assert attempt.adapter(7) is not None and attempt.load_state() is not None


NO_MEMORY = [
    MemoryError(),
    SafetensorError("Cannot allocate memory (os error 12)"),
    RuntimeError("unable to mmap 240000192 bytes from file <state>: Cannot allocate memory (12)"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_while_a_state_is_read_is_not_taken_for_damage(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    attempt = attempt_in(tmp_path)
    attempt.save_state({"x": torch.ones(3)}, 7)
    with monkeypatch.context() as patch:
        patch.setattr("b4m_core.container.safetensors.safe_open", fail)
        with pytest.raises(UnreadableFile, match="state-00000007.safetensors cannot be read"):
            attempt.load_state()
    assert attempt.load_state() is not None
