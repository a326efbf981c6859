"""One training in several processes is the training of one, to rounding; and what happens to one of them happens to all, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image
from tiny_folder import write_folder
from tiny_processes import Case, free_port, on_cards, painted, together, trained

from b4m_core import Adapter, B4MError, Progress, RunStore, load_adapter, train
from b4m_core.process_group import Launch, joined
from b4m_core.several import ALONE, share_out

forked = pytest.mark.skipif(sys.platform == "win32", reason="the processes are forked from one that has imported the libraries")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no processes that speak to one another")
CASES: dict[str, Case] = {
    "content, AdamW": {"role": "content", "split": "free", "correspondence": "output_preservation", "gradient_accumulation_steps": 4},
    "style with other rows that teach": {"role": "style", "gradient_accumulation_steps": 3, "max_grad_norm": 1e-3},
    "together, Riemannian": {"role": "together", "gradient_accumulation_steps": 3, "split": "halves"},
    "together, preserving": {
        "role": "together", "auxiliary": 2, "split": "free", "correspondence": "output_preservation", "gradient_accumulation_steps": 3,
    },
    "rows of a micro-step": {"role": "content", "gradient_accumulation_steps": 1, "batch_size": 6},
    "rows together": {
        "role": "together", "auxiliary": 1, "split": "free", "correspondence": "output_preservation", "gradient_accumulation_steps": 1,
        "batch_size": 6,
    },
    "convolutions": {
        "role": "style", "split": "free", "correspondence": "output_preservation", "gradient_accumulation_steps": 3,
        "layers": "attention_and_convolutions",
    },
    "any network": {"role": "content", "gradient_accumulation_steps": 3, "plain": True},
}  # fmt: skip


SMALL = {**CASES["content, AdamW"], "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """What the small training gives when nothing happens."""
    return alone(tmp_path_factory.mktemp("undisturbed"), SMALL)[0]


def alone(folder: Path, case: Case) -> tuple[Adapter, list[tuple[float, float, float]]]:
    """The same training in this one process: what it gives, and its losses."""
    known: list[Progress] = []
    given = {name: value for name, value in case.items() if name not in ("plain", "where", "trouble", "dtype")}
    base = tiny.TinyBase(tiny.tiny_unet(dtype=case.get("dtype", torch.float64)))
    with pytest.MonkeyPatch.context() as patch:
        if case.get("plain"):
            patch.setattr("b4m_core.engine.fused_step_for", lambda network, family: None)
        adapter = train(tiny.plan(**given), base, RunStore(folder), known.append)
    return adapter, known[-1].losses if known else []


def assert_alike(found: Adapter, expected: Adapter) -> None:
    """Of two adapters, what was learned, as far as sums in another order let it be."""
    for name, layer in expected.layers.items():
        for part in "ABCD":
            torch.testing.assert_close(getattr(found.layers[name], part), getattr(layer, part), rtol=1e-4, atol=2e-6)


def kept(folder: Path, kind: str = "state") -> list[int]:
    """The steps of which there is something in a store."""
    return sorted(int(file.stem.split("-")[1]) for file in folder.rglob(f"{kind}-*.safetensors"))


@forked
@pytest.mark.parametrize("count,names", [(2, list(CASES)), (3, ["together, preserving", "rows of a micro-step"])])
def test_several_processes_learn_what_one_learns(count: int, names: list[str], tmp_path: Path) -> None:
    cases = [{**CASES[name], "steps": 3, "where": str(tmp_path / name)} for name in names]
    ended = together(count, trained, cases)
    assert [how for how, _ in ended] == ["done"] * count
    for place, (name, case) in enumerate(zip(names, cases, strict=True)):
        expected, losses = alone(tmp_path / f"{name} alone", case)
        torch.testing.assert_close(torch.tensor(ended[0][1][place]), torch.tensor(losses), rtol=1e-5, atol=1e-7)
        there, _ = alone(tmp_path / name, case)  # from the store, under the same key: nothing is trained
        assert len(kept(tmp_path / name, "adapter")) == 1 and ended[1][1][place] == []
        assert_alike(there, expected)


@forked
def test_a_run_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    case = CASES["together, preserving"]
    expected, _ = alone(tmp_path / "uninterrupted", {**case, "steps": 6})
    first = str(tmp_path / "first")
    assert together(2, trained, [{**case, "steps": 2, "where": first}])[0][0] == "done"
    alone(tmp_path / "first", {**case, "steps": 4})
    assert together(3, trained, [{**case, "steps": 6, "where": first}])[0][0] == "done"
    assert kept(tmp_path / "first")[-1] == 6
    again, losses = alone(tmp_path / "first", {**case, "steps": 6})
    assert losses == []
    assert_alike(again, expected)


@forked
@pytest.mark.parametrize(
    "trouble,ends,sentence,steps",
    [
        ({"who": 1, "what": "fails", "call": 2}, ["Elsewhere", "B4MError"], "The second card fell out.", 2),
        ({"who": 1, "what": "breaks", "call": 2}, ["Elsewhere", "RuntimeError"], "Process 1 ended by RuntimeError: a fault of ours", 2),
        ({"who": 1, "what": "not a number", "call": 1}, ["B4MError", "B4MError"], "is not a number at step 2", 1),
        ({"who": 1, "what": "interrupted", "call": 1}, ["KeyboardInterrupt", "KeyboardInterrupt"], "", 1),
        ({"who": 0, "what": "cancelled", "call": 13}, ["Cancelled", "Elsewhere"], "", 3),
        ({"who": 1, "what": "killed", "call": 2}, ["B4MError", "killed"], "start the same command again", 2),
        ({"who": 1, "what": "another seed"}, ["B4MError", "B4MError"], "Process 1 of this training has another value of a setting", 0),
    ],
)
def test_what_ends_one_process_ends_all_and_what_was_learned_is_kept(
    trouble: Mapping[str, Any], ends: list[str], sentence: str, steps: int, undisturbed: Adapter, tmp_path: Path
) -> None:
    case = {**SMALL, "where": str(tmp_path)}
    started = time.monotonic()
    found = together(2, trained, [{**case, "trouble": trouble}], seconds=240)
    assert [how for how, _ in found] == ends and sentence in found[0][1] and time.monotonic() - started < 200
    assert kept(tmp_path) == ([steps] if steps else [])
    assert_alike(alone(tmp_path, case)[0], undisturbed)  # the same command again, by one


@forked
def test_the_first_process_paints_and_the_others_get_its_pictures(tmp_path: Path) -> None:
    (_, first), (_, second) = together(2, painted, str(tmp_path))
    assert (first[0], first[1]) == (4, 4) and (second[0], second[1]) == (0, 0)
    assert first[2] == second[2]


@forked
def test_more_processes_than_cards_are_refused_by_all() -> None:
    found = together(2, on_cards, 1, "cuda")
    assert "1 can be used on this machine, so start 1 (torchrun --nproc-per-node 1" in found[0][1]
    assert found[0][0] in ("Elsewhere", "B4MError") and found[1][0] == "B4MError"
    assert "--device is cuda:1" in together(2, on_cards, 2, "cuda:1")[0][1]


@pytest.mark.parametrize(
    "accumulated,batch_size,count,pieces,cuts",
    [
        (4, 1, 2, 4, 1), (3, 1, 2, 3, 1), (3, 2, 2, 6, 2), (1, 2, 2, 2, 2), (1, 6, 3, 3, 3), (2, 3, 4, 6, 3), (1, 1, 1, 1, 1),
        (2, 4, 8, 8, 4),
    ],
)  # fmt: skip
def test_every_piece_of_a_step_is_somebody_s_once(accumulated: int, batch_size: int, count: int, pieces: int, cuts: int) -> None:
    settings = tiny.settings(gradient_accumulation_steps=accumulated, batch_size=batch_size)
    shares = [share_out(settings, index, count) for index in range(count)]
    assert {(share.pieces, share.cuts) for share in shares} == {(pieces, cuts)}
    assert sorted(piece for share in shares for piece in share.mine) == list(range(pieces)) and all(share.mine for share in shares)


def test_a_step_that_is_too_small_to_share_out_says_what_to_set() -> None:
    with pytest.raises(B4MError, match=r"4 processes cannot share out a step of 2 pictures .* to 2 with .* at most 2"):
        share_out(tiny.settings(gradient_accumulation_steps=1, batch_size=2), 0, 4)


WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "environment",
    [{}, {"WORLD_SIZE": "4"}, {**WHOLE, "LOCAL_RANK": None}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "WORLD_SIZE": "4", "RANK": "1"},
     {**WHOLE, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}],
)  # fmt: skip
def test_a_process_that_no_launcher_started_is_alone_whatever_the_cluster_says(environment: dict[str, str | None]) -> None:
    given = {name: value for name, value in environment.items() if value is not None}
    with joined(given) as processes:
        assert processes is ALONE and processes.device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    "changes",
    [{"RANK": None}, {"WORLD_SIZE": ""}, {"MASTER_PORT": None}, {"RANK": "2"}, {"RANK": "-1"}, {"LOCAL_RANK": "x"}, {"RANK": "0"}],
)
def test_half_an_environment_is_refused_in_a_sentence(changes: dict[str, str | None]) -> None:
    given = {name: value for name, value in {**WHOLE, **changes}.items() if value is not None}
    with pytest.raises(B4MError, match="start them by torchrun or accelerate launch, or unset LOCAL_RANK"):
        Launch.of(given)


def test_a_process_whose_others_never_come_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    monkeypatch.setattr("b4m_core.process_group.TO_MEET", timedelta(seconds=1))
    for name, value in {**WHOLE, "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(B4MError, match=r"did not meet at 127.0.0.1:0 within"), joined(os.environ):
        pass


@forked
def test_torchrun_trains_by_the_command_line_and_ctrl_c_keeps_what_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from b4m_core.commandline import main

    write_folder(tmp_path / "model", tiny_vae=True)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(tiny.picture(1).pixels).save(tmp_path / "pictures" / "1.png")
    words = ["train", "content", "--model", "model", "--pictures", "pictures", "--trigger", "snq", "--class", "bear", "--rank", "2",
             "--resolution", "64", "--auxiliary-sets", "1", "--auxiliary-pictures", "1", "--gradient-accumulation-steps", "2",
             "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    here = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    run = [sys.executable, "-m", *torchrun, "-m", "b4m_core", *words]
    endless = [*run, "--steps", "100000", "--out", "out.safetensors"]
    going = subprocess.Popen(endless, cwd=tmp_path, env=here, text=True, stderr=subprocess.PIPE)
    assert going.stderr is not None
    heard = []
    for line in going.stderr:
        heard.append(line)
        if line.startswith("step 10 of"):
            going.send_signal(signal.SIGINT)
            break
    heard += going.stderr.readlines()
    assert going.wait(60) != 0
    sentences = [line for line in heard if line.startswith("b4m:")]
    assert sentences == ["b4m: stopped; what was trained is kept, the same command goes on from there.\n"]
    (step,) = kept(tmp_path / ".b4m" / "store")
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--steps", str(step + 2), "--out", "out.safetensors"]) == 0  # goes on in this one process
    assert f"step {step + 2} of {step + 2}" in (said := capsys.readouterr().err) and f"step {step - step % 10} of" not in said
    assert load_adapter(tmp_path / "out.safetensors").facts.steps == step + 2
