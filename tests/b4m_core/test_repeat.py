"""A run's own record: written by every training, read back as options, and trained again to the same bytes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image
from tiny_folder import write_folder

from b4m_core import B4MError, RunStore, load_adapter, take, train
from b4m_core.atomic import write_whole
from b4m_core.commandline import main
from b4m_core.configuration import TRAININGS, keys_of
from b4m_core.options import parser
from b4m_core.record import FILE, joined
from b4m_core.toml_files import read_toml, toml_text


def pictures(folder: Path, *seeds: int) -> Path:
    folder.mkdir(parents=True)
    for seed in seeds:
        Image.fromarray(tiny.picture(seed).pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pictures, and a content that was trained by options and a file, with painted auxiliary pictures."""
    place = tmp_path_factory.mktemp("repeat")
    write_folder(place / "model")
    pictures(place / "bear", 1, 2), pictures(place / "drawing", 3), pictures(place / "aux" / "owl", 5)
    settings = {"steps": 9, "rank": 2, "gradient_accumulation_steps": 1, "flip": True, "learning_rate": 1}
    model = {"path": "model", "device": "cpu", "dtype": "float32"}
    subject = {"folder": "bear", "trigger": "snq", "class": "bear", "masks": False}
    auxiliary = {"sets": 1, "pictures": 1}
    values = {"settings": settings, "model": model, "pictures": subject, "auxiliary": auxiliary, "run": {"store": "store"}}
    write_whole(place / "cat.toml", toml_text(values).encode())
    words = ["--config", str(place / "cat.toml"), "--steps", "2", "--learning-rate", "1e-3", "--out", str(place / "bear.safetensors")]
    assert main(["train", "content", *words]) == 0
    return place


def run_of(place: Path, store: str = "store") -> Path:
    """The folder of the one run in a store."""
    (found,) = RunStore(place / store).runs()
    return found.folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_options_win_over_the_file_and_paths_in_it_begin_at_its_folder(place: Path) -> None:
    facts = load_adapter(place / "bear.safetensors").facts
    assert (facts.steps, facts.settings["learning_rate"], facts.settings["flip"], facts.rank) == (2, 1e-3, True, 2)
    assert facts.content is not None and facts.content.words() == "snq bear"


def test_the_record_says_all_that_the_training_was_told_and_found(place: Path) -> None:
    top = read_toml(run_of(place) / FILE).values
    assert top["role"] == "content" and top["settings"] == load_adapter(place / "bear.safetensors").facts.settings
    caption = "a photo of a {trigger} {class}"
    assert top["pictures"] == {"folder": str(place / "bear"), "trigger": "snq", "class": "bear", "caption": caption, "masks": False}
    assert top["auxiliary"] == {"sets": 1, "pictures": 1} and top["run"]["out"] == str(place / "bear.safetensors")
    assert top["model"] == {"path": str(place / "model"), "device": "cpu", "dtype": "float32"}
    was = top["was"]
    assert was["key"].startswith(run_of(place).name) and len(was["fingerprint"]) == 64 and was["network"].startswith("n1-")
    assert was["sets"]["pictures"]["names"] == ["1.png", "2.png"] and was["sets"]["pictures"]["prompts"] == ["a photo of a snq bear"]
    assert was["versions"].keys() >= {"b4m", "torch", "diffusers", "python"}


def test_a_run_is_repeated_from_its_folder_to_the_same_bytes_and_reused_where_it_is(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, anew = tmp_path / "again" / "bear.safetensors", tmp_path / "anew" / "bear.safetensors"  # its name is in the file
    assert main(["repeat", str(run_of(place)), "--out", str(again)]) == 0
    assert "step" not in said(capsys)
    copy = shutil.copy(run_of(place) / FILE, tmp_path / "kept.toml")
    assert main(["repeat", str(copy), "--out", str(anew), "--store", str(tmp_path / "store")]) == 0
    told = said(capsys)
    assert "step 2 of 2" in told and "another run" not in told
    assert again.read_bytes() == anew.read_bytes() == (place / "bear.safetensors").read_bytes()


@pytest.fixture
def record(place: Path, tmp_path: Path) -> Path:
    """A copy of the record, of pictures that may be changed."""
    shutil.copytree(place / "bear", tmp_path / "bear")
    shutil.copytree(place / "store" / "auxiliary", tmp_path / "store" / "auxiliary")  # painted once
    values = joined(read_toml(run_of(place) / FILE).values, {"pictures": {"folder": str(tmp_path / "bear")}})
    record = joined(values, {"run": {"store": str(tmp_path / "store")}})
    return write_whole(tmp_path / "record" / FILE, toml_text(record).encode())


def test_other_pictures_in_the_folder_are_one_sentence_that_names_them(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record.parents[1] / "bear"
    (folder / "1.png").unlink()
    Image.fromarray(tiny.picture(8).pixels).save(folder / "2.png")
    Image.fromarray(tiny.picture(9).pixels).save(folder / "3.png")
    assert main(["repeat", str(record)]) == 1
    told = said(capsys)
    assert "are not those of the record (1.png missing; 3.png new; 2.png changed)" in told and "Traceback" not in told
    assert not (record.parents[1] / "store" / "runs").exists()


def test_another_caption_or_mask_is_another_set_of_pictures_too(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record.parents[1] / "bear" / "1.txt").write_text("a snq bear on the moon")
    assert main(["repeat", str(record)]) == 1
    assert "(1.png changed)" in said(capsys)


def test_another_model_under_the_same_path_is_refused(
    record: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "model", tmp_path / "other")
    weights = next((tmp_path / "other" / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert main(["repeat", str(record), "--model", str(tmp_path / "other")]) == 1
    assert "The model other is not the one of the record, model: name that one with --model." in said(capsys)


def test_an_option_that_makes_it_another_run_is_noted(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(record), "--seed", "7", "--steps", "1", "--out", str(tmp_path / "x.safetensors")]) == 0
    assert "note: this is another run than the recorded one" in said(capsys)


def test_more_steps_go_on_from_the_recorded_run(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(record), "--steps", "3", "--out", str(tmp_path / "x.safetensors")]) == 0
    assert "another run" not in said(capsys) and load_adapter(tmp_path / "x.safetensors").facts.steps == 3


def test_a_joint_training_is_repeated_with_its_adapters(place: Path, tmp_path: Path) -> None:
    common = ["--model", str(place / "model"), "--device", "cpu", "--dtype", "float32", "--store", str(tmp_path / "store"), "--rank", "2"]
    common += ["--steps", "1", "--gradient-accumulation-steps", "1", "--auxiliary-sets", "0"]
    style = ["--pictures", str(place / "drawing"), "--trigger", "w@z", "--auxiliary", str(place / "aux")]
    style += ["--out", str(tmp_path / "s.safetensors")]
    assert main(["train", "style", *style, *common]) == 0
    both = ["--content-pictures", str(place / "bear"), "--content-trigger", "snq", "--style-pictures", str(place / "drawing")]
    both += ["--style-trigger", "w@z", "--content-adapter", str(place / "bear.safetensors")]
    both += ["--style-adapter", str(tmp_path / "s.safetensors")]
    both += ["--style-auxiliary", str(place / "aux"), "--out", str(tmp_path / "both.safetensors")]
    assert main(["train", "joint", *both, *common]) == 0
    records = {read_toml(run.folder / FILE).text("role"): run.folder for run in RunStore(tmp_path / "store").runs()}
    for role, file in (("style", "s"), ("joint", "both")):
        out = tmp_path / "again" / f"{file}.safetensors"
        assert main(["repeat", str(records[role]), "--out", str(out), "--retrain"]) == 0
        assert out.read_bytes() == (tmp_path / f"{file}.safetensors").read_bytes()


def test_other_auxiliary_pictures_of_one_s_own_are_one_sentence(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "aux" / "owl", 5)
    words = ["--config", str(place / "cat.toml"), "--steps", "1", "--auxiliary", str(tmp_path / "aux"), "--store", str(tmp_path / "store")]
    assert main(["train", "content", *words, "--out", str(tmp_path / "x.safetensors")]) == 0
    Image.fromarray(tiny.picture(6).pixels).save(tmp_path / "aux" / "owl" / "5.png")
    assert main(["repeat", str(run_of(tmp_path))]) == 1
    assert f"The auxiliary pictures in {tmp_path / 'aux'} are not those of the record" in said(capsys)


def test_what_only_the_first_caller_knew_stays_in_the_record(tmp_path: Path) -> None:
    plan, base, store = tiny.plan("content", partners=0, steps=1), tiny.TinyBase(), RunStore(tmp_path)
    train(plan, base, store, told={"run": {"out": "x.safetensors"}, "adapters": {"content": "c"}, "model": {"path": "m"}})
    take(plan, base, store)
    top = read_toml(run_of(tmp_path, ".") / FILE).values
    assert (top["run"], top["adapters"], top["model"]["path"]) == ({"out": "x.safetensors"}, {"content": "c"}, "m")
    (run_of(tmp_path, ".") / FILE).write_text("no = = toml")
    train(plan, base, store)
    assert read_toml(run_of(tmp_path, ".") / FILE).text("role") == "content"


def test_a_run_of_a_graph_says_what_is_missing_and_is_repeated_when_it_is_given(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The double of a host's base model and of pictures over a wire: neither has a file."""
    base, plan = tiny.TinyBase(), tiny.plan("content", partners=0, steps=1, rank=2, correspondence="output_preservation")
    train(plan, base, RunStore(tmp_path / "store"))
    top = read_toml(run_of(tmp_path) / FILE).values
    assert "folder" not in top["pictures"] and "path" not in top["model"]
    assert top["was"]["sets"]["pictures"]["names"] == ["1.png", "2.png", "3.png"]
    assert main(["repeat", str(run_of(tmp_path))]) == 1
    assert "ComfyUI or a script gave it without a file's name: add --out, --model, --pictures." in said(capsys)
    given = ["--pictures", str(pictures(tmp_path / "bear", 1, 2, 3)), "--out", str(tmp_path / "x.safetensors")]
    assert main(["repeat", str(run_of(tmp_path)), *given, "--model", str(place / "model")]) == 1
    assert "The model model is not the one of the record, tiny" in said(capsys)


def test_printed_options_are_a_file_that_gives_the_same_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pictures", "ink", "--no-masks", "--flip", "--rank", "7", "--resolution", "64", "--auxiliary", "aux", "--compact"]
    assert main(["train", "style", *words, "--print-config"]) == 0
    (tmp_path / "ink.toml").write_text(printed := capsys.readouterr().out)
    assert main(["train", "style", "--config", str(tmp_path / "ink.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    top = read_toml(tmp_path / "ink.toml").values
    assert top["settings"]["rank"] == 7 and top["settings"]["flip"] is True and top["pictures"]["folder"] == str(Path("ink").absolute())
    assert main(["train", "style", "--config", str(tmp_path / "ink.toml"), "--no-flip", "--print-config"]) == 0
    assert "flip = false" in capsys.readouterr().out


@pytest.mark.parametrize("role", ["content", "style", "joint"])
def test_every_option_of_a_training_has_a_place_in_the_file(role: str) -> None:
    def nothing(options: Any) -> None: ...

    options = parser(dict.fromkeys(("train", "repeat", "runs", "generate"), nothing)).parse_args(["train", role])
    about_the_call = {"run", "role", "parser", "was", "config", "print_config", "retrain", "take", "tensorboard"}
    assert vars(options).keys() - about_the_call == {key.option for key in keys_of(role)}


def test_every_table_and_key_of_the_file_stands_in_the_papers() -> None:
    paper = (Path(__file__).resolve().parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
    for key in (key for role in TRAININGS for key in keys_of(role)):
        assert f"`[{key.table}]`" in paper and (key.table == "settings" or f"`{key.key}`" in paper), key


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("[settings]\nlearning_rat = 1\n", "cat.toml, [settings]: there is no key learning_rat here: did you mean learning_rate?"),
        ("[setings]\nrank = 1\n", "cat.toml: there is no key setings here: did you mean settings?"),
        ("role = 'style'\n", "cat.toml is of a training of role style: say train style"),
        ("[settings]\nsteps = 'x'\n", "steps in [settings] of cat.toml is 'x'"),
        ("[settings]\nrank = 0\n", "rank is 0: it must be at least 1"),
        ("[model]\ndtype = 'float8'\n", "dtype in [model] of cat.toml is float8: choose one of float32, bfloat16"),
        ("[model]\ndevice = 'gpu'\n", "The device 'gpu' is none of PyTorch's: say cpu, cuda"),
        ("[adapters]\ncontent = 'x'\n", "there is no key adapters here"),
    ],
)
def test_a_mistake_in_a_file_of_options_is_one_sentence(
    text: str, sentence: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cat.toml").write_text(text)
    words = ["--pictures", str(place / "bear"), "--out", str(tmp_path / "x.safetensors"), "--auxiliary-sets", "0", "--store", str(tmp_path)]
    words += [] if "model" in text else ["--model", str(place / "model")]
    assert main(["train", "content", "--config", str(tmp_path / "cat.toml"), *words]) == 1
    told = said(capsys)
    assert sentence in told and told.count("\n") == 1


def test_what_a_training_needs_and_nobody_gave_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "joint", "--out", "x.safetensors"])
    assert "required: --content-pictures, --style-pictures, --content-adapter, --style-adapter" in said(capsys)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(tmp_path)]) == 1
    assert "holds no run.toml" in said(capsys)


def test_an_adapter_s_own_facts_are_a_file_to_train_by(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(place / "bear.safetensors"), "--toml"]) == 0
    (tmp_path / "facts.toml").write_text(capsys.readouterr().out)
    assert main(["train", "content", "--config", str(tmp_path / "facts.toml"), "--print-config"]) == 0
    (tmp_path / "full.toml").write_text(capsys.readouterr().out)
    facts, top = load_adapter(place / "bear.safetensors").facts, read_toml(tmp_path / "full.toml").values
    assert top["settings"] == {"layers": "attention", "textual_inversion": False, **facts.settings} and top["pictures"]["trigger"] == "snq"
    assert read_toml(tmp_path / "facts.toml").values["was"]["network"] == facts.base


def test_a_record_that_cannot_be_written_is_told_and_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise B4MError("The disk is full.")

    monkeypatch.setattr("b4m_core.runs.write_whole", full)
    told: list[str] = []
    adapter = train(tiny.plan("content", partners=0, steps=1), tiny.TinyBase(), RunStore(tmp_path), tell=told.append)
    assert adapter.facts.steps == 1
    assert told == ["How this was trained could not be noted in run.toml; training goes on. The disk is full."]


def test_the_record_of_a_training_that_goes_on_says_its_new_number_of_steps(tmp_path: Path) -> None:
    plan = tiny.plan("content", partners=0, steps=1)
    for steps in (1, 2):
        longer = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, steps=steps))
        train(longer, tiny.TinyBase(), RunStore(tmp_path))
        assert read_toml(run_of(tmp_path, ".") / FILE).table("settings").whole("steps") == steps
