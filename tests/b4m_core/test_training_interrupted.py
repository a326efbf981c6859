"""Trainings that are cancelled, killed or out of numbers: stopped in that step, gone on later, to the same bytes."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from tiny_training import ROLES, answering, assert_all_finite, calls_of, no_watch, poisoned, result

from b4m_core import Adapter, B4MError, Progress, RunStore, save_adapter, train

ROOT = Path(__file__).resolve().parents[2]


def result_adapter(store: Path) -> Adapter:
    return train(tiny.plan(), tiny.TinyBase(), RunStore(store))


FREE = {"split": "free", "correspondence": "output_preservation"}


LOCON = {**FREE, "layers": "attention_and_convolutions"}
MORE = [("together", {**FREE, "auxiliary": 2}), ("style", LOCON)]


@pytest.mark.parametrize("role,kind", [*itertools.product(ROLES, ({}, FREE)), *MORE], ids=str)
def test_a_cancelled_run_goes_on_to_the_same_bytes(role: str, kind: dict[str, object], tmp_path: Path) -> None:
    """Cancelled at random calls, once and three times in a row: at encoding, in the middle of a step, between two, at the very end."""
    made = tiny.plan(role, steps=3, gradient_accumulation_steps=2, **kind)  # type: ignore[arg-type]
    last, draw = calls_of(made) - 1, random.Random(role)
    whole = result(tmp_path / "whole", made)
    for number, cancels in enumerate([[draw.randrange(last)], draw.sample(range(8, last), 3), [last]]):
        for call in sorted(cancels):
            with contextlib.suppress(tiny.Cancelled):
                result(tmp_path / str(number), made, watch=tiny.cancel_at(call))
        assert result(tmp_path / str(number), made) == whole


def test_going_on_repeats_no_step_that_was_done(tmp_path: Path) -> None:
    done: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.step_done:
            done.append(progress.step)
            if len(done) == 2:
                raise tiny.Cancelled

    for _ in range(2):
        with contextlib.suppress(tiny.Cancelled):
            result(tmp_path, tiny.plan(), watch=watch)
    assert done == [1, 2, 3, 4]


def test_a_cancel_before_the_first_step_keeps_nothing_and_does_no_harm(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    for call in (0, 3, 7):
        with pytest.raises(tiny.Cancelled):
            result(tmp_path, tiny.plan(), watch=tiny.cancel_at(call))
    assert not list(tmp_path.rglob("state-*.safetensors"))
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


@pytest.mark.parametrize("role,value", [*((role, float("nan")) for role in ROLES), ("content", float("inf"))])
def test_a_loss_that_is_no_number_stops_in_that_step_and_keeps_the_last_good_state(
    role: str, value: float, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    base = tiny.TinyBase()
    words = r"The loss is not a number at step 3 of 4: training stopped and step 2 is kept; lower learning_rate \(now 0.003\)"
    with poisoned(base.unet, after=2, value=value), pytest.raises(B4MError, match=words):
        result(tmp_path, tiny.plan(role), base)
    assert [file.name for file in tmp_path.rglob("adapter-*.safetensors")] == ["adapter-00000002.safetensors"]
    assert_all_finite(tmp_path)
    assert result(tmp_path, tiny.plan(role), base) == uninterrupted[role]


def test_a_loss_that_is_no_number_at_the_very_first_step_keeps_no_file(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    with poisoned(base.unet, after=0), pytest.raises(B4MError, match="not a number at step 1 of 4"):
        result(tmp_path, tiny.plan(), base)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_gradient_that_is_no_number_stops_in_that_step(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    """The forward pass is good and the backward pass is not, as float16 does it."""
    base, calls = tiny.TinyBase(), itertools.count()

    def spoil(output: torch.Tensor) -> torch.Tensor:
        if next(calls) >= 2:
            output.register_hook(lambda gradient: gradient * float("nan"))
        return output

    words = "The gradient is not a number at step 3 of 4: training stopped and step 2 is kept"
    with answering(base.unet, spoil), pytest.raises(B4MError, match=words):
        result(tmp_path, tiny.plan(), base)
    assert_all_finite(tmp_path)
    assert result(tmp_path, tiny.plan(), base) == uninterrupted["content"]


@pytest.mark.parametrize("role", ROLES)
def test_a_learning_rate_that_explodes_ends_in_a_sentence_and_never_in_a_file(role: str, tmp_path: Path) -> None:
    with pytest.raises(B4MError, match="learning.rate"):
        train(tiny.plan(role, learning_rate=1e30, auxiliary_learning_rate=1e30, steps=6), tiny.TinyBase(), RunStore(tmp_path))
    from safetensors.torch import load_file

    for file in tmp_path.rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())


def test_latents_that_are_no_numbers_name_their_picture(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    plain = base.encode_pictures
    base.encode_pictures = lambda pixels: plain(pixels) * (float("nan") if len(base.encoded) == 2 else 1)  # type: ignore[method-assign]
    with pytest.raises(B4MError, match=r"2\.png"):
        result(tmp_path, tiny.plan(), base)


OTHER_PROCESS = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import tiny
from pathlib import Path
from b4m_core import RunStore, train
import b4m_core.keeping
b4m_core.keeping.SAVE_SECONDS = 0.0
def watch(progress):
    if progress.step == 3 and not progress.step_done:
        print("in step 4", flush=True)
        sys.stdin.read()
train(tiny.plan(), tiny.TinyBase(), RunStore(Path(sys.argv[2])), watch)
"""


@pytest.mark.skipif(os.name == "nt", reason="no such signal there")
def test_a_killed_process_holds_its_run_until_then_and_goes_on_to_the_same_bytes(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    command = [sys.executable, "-c", OTHER_PROCESS, str(Path(__file__).parent), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in step 4\n"
        with pytest.raises(B4MError, match="This very training is already running in another ComfyUI: wait for it"):
            result(tmp_path, tiny.plan(), watch=no_watch)
        other.send_signal(signal.SIGKILL)
        assert other.wait() == -signal.SIGKILL
    steps: list[int] = []
    assert result(tmp_path, tiny.plan(), watch=lambda progress: steps.append(progress.step)) == uninterrupted["content"]
    assert min(steps[7:]) == 3


def test_a_kill_in_the_middle_of_saving_the_state_loses_one_save_at_most(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes before the third state is renamed: the second one is there, and the stray half is swept away."""

    class PowerCut(BaseException):
        pass

    monkeypatch.setattr("b4m_core.keeping.SAVE_SECONDS", 0.0)
    replace, renames = os.replace, itertools.count()

    def cut(old: Path, new: Path) -> None:
        if next(renames) >= 3:  # the first is the record of the run
            raise PowerCut
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # a dead process tidies nothing up
        with pytest.raises(PowerCut):
            result(tmp_path, tiny.plan())
    assert list(tmp_path.rglob(".*.partial"))
    steps: list[int] = []
    assert result(tmp_path, tiny.plan(), watch=lambda progress: steps.append(progress.step)) == uninterrupted["content"]
    assert steps[7] == 2 and not list(tmp_path.rglob(".*.partial"))


def test_a_disk_that_is_full_at_the_very_end_costs_no_step(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise B4MError("The disk is full.")

    told: list[str] = []
    base, whole = tiny.TinyBase(), result_adapter(tmp_path / "whole")
    monkeypatch.setattr("b4m_core.keeping.LAST_PAUSE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("b4m_core.attempts.save_adapter", full)
        trained = train(tiny.plan(), base, RunStore(tmp_path), tell=told.append)
    assert trained.digest() == whole.digest() and trained.facts == whole.facts
    assert "could not be kept; training goes on, and it is tried again. The disk is full." in told[0]
    assert "save it now" in told[-1] and len(told) == 2
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


def test_a_disk_that_has_room_again_at_the_very_end_keeps_the_result(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    saves, save, told = itertools.count(), save_adapter, []

    def full_at_first(adapter: Adapter, path: Path) -> Path:
        if next(saves) < 3:
            raise B4MError("The disk is full.")
        return save(adapter, path)

    monkeypatch.setattr("b4m_core.keeping.LAST_PAUSE", 0.0)
    monkeypatch.setattr("b4m_core.attempts.save_adapter", full_at_first)
    train(tiny.plan(), tiny.TinyBase(), RunStore(tmp_path), tell=told.append)
    assert len(told) == 2 and "what was in the way is gone" in told[1]
    assert result(tmp_path, tiny.plan(), watch=no_watch) == uninterrupted["content"]


def test_a_damaged_state_begins_anew_and_comes_to_the_same_bytes(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    with pytest.raises(tiny.Cancelled):
        result(tmp_path, tiny.plan(), watch=tiny.cancel_at(12))
    (state,) = tmp_path.rglob("state-*.safetensors")
    state.write_bytes(state.read_bytes()[:-7])
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("VRAM grow failed: 126484480 bytes"),
]


@contextlib.contextmanager
def out_of_memory_at(unet: torch.nn.Module, calls: set[int], error: Exception = OUT_OF_MEMORY[0]) -> Iterator[None]:
    """The network's passes of these numbers fail, whichever step they are made by."""
    count = itertools.count()

    def fail(*given: object) -> None:
        if next(count) in calls:
            raise error

    def failing(output: torch.Tensor) -> torch.Tensor:
        fail()
        return output

    handle = unet.register_forward_pre_hook(fail)
    with answering(unet, failing):
        yield
    handle.remove()


STEPS = ["fused", "reference"]


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either step, for what both must do."""
    if request.param == "reference":
        monkeypatch.setattr("b4m_core.engine.fused_step_for", lambda network, family: None)
    return str(request.param)


EACH_ERROR_AND_EACH_STEP = [*((STEPS[0], error) for error in OUT_OF_MEMORY), (STEPS[1], OUT_OF_MEMORY[0])]
"""What an error says is read in one place, whichever step it came from."""


@pytest.mark.parametrize(("step", "error"), EACH_ERROR_AND_EACH_STEP, indirect=["step"], ids=str)
def test_memory_that_runs_out_once_is_met_by_recomputing_activations(step: str, tmp_path: Path, error: Exception) -> None:
    base = tiny.TinyBase()
    with out_of_memory_at(base.unet, {3}, error):
        disturbed = result(tmp_path / "disturbed", tiny.plan(), base)
    assert disturbed == result(tmp_path / "undisturbed", tiny.plan())


@pytest.mark.parametrize(("step", "error"), EACH_ERROR_AND_EACH_STEP, indirect=["step"], ids=str)
def test_memory_that_runs_out_for_good_gives_advice_and_keeps_the_last_step(step: str, tmp_path: Path, error: Exception) -> None:
    base = tiny.TinyBase()
    words = "memory is too small at resolution 64 and rank 4: lower one of them"
    with out_of_memory_at(base.unet, set(range(2, 50)), error), pytest.raises(B4MError, match=words):
        result(tmp_path, tiny.plan(), base)
    assert list(tmp_path.rglob("state-*.safetensors"))
    assert result(tmp_path, tiny.plan()) == result(tmp_path / "undisturbed", tiny.plan())


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("failing", ["encode_pictures", "encode_text"])
def test_memory_that_runs_out_before_the_first_step_gives_advice_too(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, error: Exception, failing: str
) -> None:
    def fail(self: object, *given: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(tiny.TinyBase, failing, fail)
        with pytest.raises(B4MError, match="memory is too small at resolution 64 and rank 4"):
            result(tmp_path, tiny.plan())
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


def test_memory_that_runs_out_in_the_optimiser_gives_advice_too(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, closure: object = None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", fail)
        with pytest.raises(B4MError, match="memory is too small at resolution 64 and rank 4"):
            result(tmp_path, tiny.plan())
    assert result(tmp_path, tiny.plan()) == uninterrupted["content"]


def test_recomputing_activations_ends_with_the_training_that_needed_it(step: str, tmp_path: Path) -> None:
    base = tiny.TinyBase()
    with out_of_memory_at(base.unet, {1}):
        result(tmp_path, tiny.plan(), base)
    assert not base.unet.is_gradient_checkpointing
