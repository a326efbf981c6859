"""A studio on one machine: the tasks of a plan one after the other, into a library that other tools read, and its accidents."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_studio import PLAN, write_studio

from b4m_core import RunStore, load_adapter
from b4m_core.commandline import main
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.studio import library, stopping, tasks
from b4m_core.studio.place import Place, worn
from b4m_core.studio.plan_file import read_plan


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studio whose plan was carried out."""
    plan = write_studio(tmp_path_factory.mktemp("studio"))
    assert studio(plan) == 0
    return plan


@pytest.fixture
def fresh(done: Path, tmp_path: Path) -> Path:
    """The same pictures and model with a library and a store of their own, nothing done yet, one content and one style."""
    text = PLAN.replace('"library"', f"'{tmp_path / 'library'}'").replace('"store"', f"'{tmp_path / 'store'}'")
    start = text.index("[content.owl]")
    plan = done.parent / f"{tmp_path.name}.toml"
    plan.write_text(text[:start] + text[text.index("[style.ink]") : text.index("[style.oil]")])
    return plan


def studio(plan: Path, *words: str) -> int:
    return main(["studio", str(plan), "--cpu", "1", *words])


def test_the_library_holds_every_adapter_as_an_ordinary_lora_with_its_words_and_picture(done: Path) -> None:
    out = done.parent / "library"
    words_of = {"content/bear": "snq bear", "content/owl": "snq owl", "style/ink": "w@z", "style/oil": "kprs"}
    for file, words in words_of.items():
        role, _, name = file.partition("/")
        adapter = load_adapter(library.path_of(out, role, name))
        assert adapter.facts.role == role and adapter.thumbnail
        assert json.loads((out / role / f"{name}.json").read_text())["activation text"] == words
        assert Image.open(out / role / f"{name}.preview.png").size == (64, 64)
    assert load_adapter(library.path_of(out, "style", "oil")).facts.steps == 2


def test_the_index_says_what_there_is_and_of_which_run_it_is(done: Path) -> None:
    lines = [json.loads(line) for line in (done.parent / "library" / library.INDEX).read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"{name}.safetensors" for name in ("content/bear", "content/owl", "style/ink", "style/oil")]
    store = RunStore(done.parent / "store")
    assert all(store.find(line["run"]) is not None for line in lines)
    assert lines[1]["class"] == "owl" and lines[3]["steps"] == 2 and lines[0]["bytes"] > 1000


def test_the_sheet_shows_every_content_in_every_style(done: Path) -> None:
    out = done.parent / "library"
    assert len(list((out / "pairs").glob("*/*.png"))) == 4
    sheet = Image.open(out / "sheets" / "prompt_1_seed_0.jpg")
    assert sheet.width > 3 * 192 and sheet.height > 3 * 192


def test_the_same_plan_again_does_nothing_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = done.parent / "library"
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.rglob("*.safetensors")}
    pictures = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    assert studio(done) == 0
    said = capsys.readouterr().err
    assert said.count("there already") == 4 and said.count("painted before") == 4 and "begun" not in said
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in before} == before
    assert {file: file.stat().st_mtime_ns for file in pictures} == pictures


def test_a_check_says_what_is_to_be_done_and_does_nothing(fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert studio(fresh, "--check") == 0
    assert "1 contents and 1 styles: 2 trainings; 1 pairs to paint, 1 pictures" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_tokenizer_is_told_once_before_anything_is_begun(
    done: Path, fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done.parent / "model", tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    fresh.write_text(fresh.read_text().replace('"model"', f"'{tmp_path / 'mute'}'"))
    assert studio(fresh) == 1
    said = capsys.readouterr().err
    assert said.count("mute has no tokenizer") == 1 and "FAILED" not in said and not (tmp_path / "library").exists()


def test_a_failed_task_is_named_and_does_not_stop_the_rest(fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x.png").write_bytes(b"no picture")
    fresh.write_text(fresh.read_text().replace('folder = "bear"', f"folder = '{bad}'"))
    assert studio(fresh) == 1
    said = capsys.readouterr().err
    assert "training content bear: FAILED: " in said and "training style ink: 3 steps trained" in said
    assert "pair bear + ink: FAILED: It needs training content bear" in said and "2 of 5 tasks failed" in said
    assert (tmp_path / "library/style/ink.safetensors").is_file() and (tmp_path / "library/sheets/prompt_1_seed_0.jpg").is_file()


def test_a_file_of_somebody_else_is_never_replaced(fresh: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "library/content/bear.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes((done.parent / "library/content/owl.safetensors").read_bytes())
    before = theirs.read_bytes()
    assert studio(fresh) == 1
    assert theirs.read_bytes() == before and "is there already and is not in library.jsonl" in capsys.readouterr().err


def test_a_changed_plan_replaces_what_the_library_made(fresh: Path, tmp_path: Path) -> None:
    assert studio(fresh) == 0
    fresh.write_text(fresh.read_text().replace("steps = 3", "steps = 2"))
    assert studio(fresh) == 0
    assert load_adapter(tmp_path / "library/content/bear.safetensors").facts.steps == 2


def test_a_stopped_plan_goes_on_with_the_same_command_to_the_same_bytes(
    fresh: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from b4m_core.studio import training_task

    def interrupted(watch: training_task._Watch, progress: object) -> None:
        if getattr(progress, "step_done", False) and progress.step == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_task._Watch, "__call__", interrupted)
        assert studio(fresh) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert studio(fresh) == 0
    assert "training content bear: step 2 of 3: begun" in capsys.readouterr().err
    name = "content/bear.safetensors"
    assert (tmp_path / "library" / name).read_bytes() == (done.parent / "library" / name).read_bytes()


def test_a_full_disk_is_told_and_the_same_command_goes_on(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("b4m_core.studio.library.save_adapter", full)
        assert studio(fresh) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and "2 of 5" not in said
    assert studio(fresh) == 0
    assert "training content bear: 3 steps reused" in capsys.readouterr().err


def test_painting_leaves_the_base_model_as_it_was_bit_for_bit(done: Path) -> None:
    base = DiffusersFolder(done.parent / "model", steps=1)
    before = {name: weight.clone() for name, weight in base.unet.named_parameters()}
    with worn(base, load_adapter(done.parent / "library/style/ink.safetensors")):
        assert any(not torch.equal(weight, before[name]) for name, weight in base.unet.named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in base.unet.named_parameters())


def test_two_names_for_one_training_wait_for_each_other_and_train_once(done: Path, tmp_path: Path) -> None:
    twin = done.parent / "twin.toml"
    twin.write_text(PLAN.replace("[content.owl]", '[content.twin]\nfolder = "bear"\ntrigger = "snq"\nclass = "bear"\n[content.owl]'))
    plan = read_plan(twin)
    made = {task.name: task.needs for task in tasks.tasks_of(plan, DiffusersFolder(plan.model))}
    assert "training content bear" in made["training content twin"] and "training content bear" not in made["training content owl"]


def test_a_second_command_for_one_library_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from b4m_core.locks import holding

    with holding(done.parent / "library" / ".studio.lock"):
        assert studio(done) == 1
    assert "Another command is filling" in capsys.readouterr().err


def test_a_drive_without_locks_is_noted_and_worked_on(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(file: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("b4m_core.locks._take", no_locks)
    assert studio(done) == 0
    assert "has no locks: start no second command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cards", "0"], "There is no card 0: PyTorch sees no graphics card here"),
        (["--cards", "a"], "write their numbers with commas"),
        (["--cpu", "0"], "--cpu is 0"),
        (["--cpu", "2"], "pip install distributed bokeh"),
        (["--scheduler", "tcp://127.0.0.1:1"], "pip install distributed bokeh"),
    ],
)
def test_workers_that_cannot_be_are_refused_before_anything_is_done(
    fresh: Path, tmp_path: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    import b4m_core.studio

    monkeypatch.delattr(b4m_core.studio, "cluster", raising=False)
    monkeypatch.setitem(sys.modules, "b4m_core.studio.cluster", None)  # as where Dask is not installed
    assert main(["studio", str(fresh), *words]) == 1
    assert says in capsys.readouterr().err and not list(tmp_path.glob("library/*"))


def test_a_card_that_is_not_there_is_named_beside_those_that_are(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main(["studio", str(fresh), "--cards", "0,5"]) == 1
    assert "There is no card 5: this machine has 0, 1." in capsys.readouterr().err


def test_a_worker_that_was_asked_to_stop_takes_up_nothing_more(done: Path) -> None:
    plan = read_plan(done)
    place = Place(plan.model, None, plan.store, plan.output, "cpu", session="stopped")
    stopping.stop("stopped")
    result = tasks.perform(tasks.tasks_of(plan, DiffusersFolder(plan.model))[0], place, [], lambda line: None)
    assert result.done == "" and result.error == ""
