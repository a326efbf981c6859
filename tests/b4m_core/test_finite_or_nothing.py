"""Finite or nothing: what is not a number is never kept, what is there stays good, and the sentence says what helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_training import ROLES, assert_all_finite, poisoned, result

from b4m_core import B4MError, Progress
from b4m_core.engine import Engine
from b4m_core.finite import first_not_finite

NAN, INF = float("nan"), float("inf")
KINDS: list[dict[str, object]] = [{}, {"split": "free", "correspondence": "output_preservation"}]


@pytest.fixture
def every_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b4m_core.keeping.SAVE_SECONDS", -1.0)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The engines of the trainings of a test, the newest last."""
    made: list[Engine] = []
    build = Engine.build.__func__  # type: ignore[attr-defined]

    def remembered(cls: type[Engine], *given: Any, **named: Any) -> Engine:
        made.append(build(cls, *given, **named))
        return made[-1]

    monkeypatch.setattr(Engine, "build", classmethod(remembered))
    return made


def spoiling(engines: list[Engine], step: int, what: str, value: float, last: BaseException | None = None) -> Callable[[Progress], None]:
    """A watcher that puts ``value`` into one number of a weight or of a moment when ``step`` is done, then raises ``last``."""

    def watch(progress: Progress) -> None:
        if progress.step_done and progress.step == step:
            learned = engines[-1].learned
            *_, (_, parameter) = learned._parameters()
            spoilt = parameter if what == "weight" else learned.optimiser.state[parameter][what]
            with torch.no_grad():
                spoilt.view(-1)[-1] = value
            if last is not None:
                raise last

    return watch


@pytest.mark.usefixtures("every_step_is_kept")
@pytest.mark.parametrize(
    ("kind", "role", "what", "value"),
    [
        *((kind, role, "weight", NAN) for kind, role in zip(KINDS * 2, ROLES, strict=False)),
        ({}, "content", "exp_avg", -INF),
        (KINDS[1], "together", "exp_avg_sq", INF),
    ],
    ids=str,
)
def test_a_learned_number_that_is_none_is_named_by_its_layer_and_the_last_good_state_stays(
    kind: dict[str, object], role: str, what: str, value: float, tmp_path: Path, engines: list[Engine]
) -> None:
    made = tiny.plan(role, **kind)  # type: ignore[arg-type]
    moment = "" if what == "weight" else rf"'s {what}"
    words = rf"layer (down|mid|up)_block\S+ [A-D]{moment} holds what is not a number after step 3 of 4: training stopped and step 2 is kept"
    with pytest.raises(B4MError, match=words + r"; lower learning_rate \(now 0.003\)"):
        result(tmp_path / "a", made, watch=spoiling(engines, 3, what, value))
    assert_all_finite(tmp_path)
    result(tmp_path / "a", made)


@pytest.mark.parametrize(("what", "at"), [("weight", 3), ("exp_avg", 4)])
def test_neither_a_cancel_nor_the_end_keeps_what_is_not_a_number(what: str, at: int, tmp_path: Path, engines: list[Engine]) -> None:
    with pytest.raises(tiny.Cancelled):
        result(tmp_path, tiny.plan(), watch=tiny.cancel_at(10))
    kept = {file.name: file.read_bytes() for file in tmp_path.rglob("*.safetensors")}
    assert kept
    last = tiny.Cancelled() if at == 3 else None
    with pytest.raises(tiny.Cancelled if at == 3 else B4MError):
        result(tmp_path, tiny.plan(), watch=spoiling(engines, at, what, NAN, last))
    assert {file.name: file.read_bytes() for file in tmp_path.rglob("*.safetensors")} == kept


def test_a_loss_that_learned_numbers_have_spoilt_names_their_layer(tmp_path: Path, engines: list[Engine]) -> None:
    words = r"loss is not a number at step [34] of 4: training stopped, and no step is kept; layer \S+ [A-D] holds .* lower learning_rate"
    with pytest.raises(B4MError, match=words):
        result(tmp_path, tiny.plan(), watch=spoiling(engines, 2, "weight", NAN))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("value", [INF])
def test_a_base_model_that_holds_what_is_not_a_number_is_named_and_the_rate_is_not_blamed(value: float, tmp_path: Path) -> None:
    base = tiny.TinyBase()
    name, weight = next(pair for pair in base.unet.named_parameters() if pair[0].endswith("attn1.to_v.weight"))
    weight.data[0, 0] = value
    with pytest.raises(B4MError, match=f"base model itself holds what is not a number in {name}: load another checkpoint") as caught:
        result(tmp_path, tiny.plan(), base)
    assert "learning_rate" not in str(caught.value)


def test_a_network_that_overflows_before_anything_is_learned_is_to_be_loaded_in_another_precision(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    with poisoned(base.unet, after=0), pytest.raises(B4MError, match=r"step 1 of 4.*in another precision \(bfloat16") as caught:
        result(tmp_path, tiny.plan(), base)
    assert "learning_rate" not in str(caught.value)


@pytest.mark.parametrize("place", [1])
def test_a_text_that_is_not_a_number_names_its_caption_and_the_text_encoders(place: int, tmp_path: Path) -> None:
    base, encode = tiny.TinyBase(), tiny.TinyBase.encode_text

    def spoilt(prompts: list[str]) -> tuple[torch.Tensor, ...]:
        found = encode(base, prompts)
        found[place].view(-1)[0] = NAN if prompts == ["a photo of a  partner 1"] else found[place].view(-1)[0]
        return found

    base.encode_text = spoilt  # type: ignore[method-assign,assignment]
    with pytest.raises(B4MError, match='text encoders turn the caption "a photo of a  partner 1" into values that are not numbers'):
        result(tmp_path, tiny.plan(), base)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_one_value_that_is_no_number_is_found_among_many_tensors_in_every_dtype(dtype: str) -> None:
    def tensors(spoilt: int, value: float) -> dict[str, torch.Tensor]:
        made = {f"t{number}": torch.full((3, 33), -1.5) for number in range(150)}
        made[f"t{spoilt}"][-1, -1] = value
        more = {"none": torch.zeros(0, 4), "one": torch.tensor(4.0)}
        return {name: tensor.to(getattr(torch, dtype)) for name, tensor in (more | made).items()} | {"shapes": torch.arange(3)}

    assert first_not_finite(tensors(0, 2.0)) is None
    infinite = NAN if dtype == "float8_e4m3fn" else INF  # it has no infinity
    for spoilt, value in ((0, NAN), (70, infinite), (149, -infinite)):
        assert first_not_finite(tensors(spoilt, value)) == f"t{spoilt}"
