"""Training and painting without a graph: the same files, and a sentence for every mistake."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from PIL import Image
from tiny_folder import write_folder

from b4m_core import Plan, load_adapter, merge, save_adapter
from b4m_core.commandline import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two folders of pictures, and what comes out."""
    place = tmp_path_factory.mktemp("commandline")
    write_folder(place / "model")
    for name, seeds in (("bear", (1, 2)), ("drawing", (3, 4)), ("aux/owl", (5,)), ("aux/car", (6,))):
        (place / name).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(tiny.picture(seed).pixels).save(place / name / f"{seed}.png")
    return place


def call(place: Path, *words: str, steps: str = "1") -> int:
    options = ["--model", str(place / "model"), "--device", "cpu", "--dtype", "float32"]
    if words[0] == "train":
        options += ["--steps", steps, "--rank", "2", "--gradient-accumulation-steps", "1", "--store", str(place / "store")]
    return main([*words, *options])


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """The three trainings, as a user would call them."""
    aux = ["--auxiliary", str(place / "aux")]
    content = ["--pictures", str(place / "bear"), "--trigger", "snq", "--class", "bear", "--out", str(place / "bear.safetensors")]
    style = ["--pictures", str(place / "drawing"), "--trigger", "w@z", "--class", "drawing", "--out", str(place / "drawing.safetensors")]
    assert call(place, "train", "content", *content, *aux) == 0
    assert call(place, "train", "style", *style, "--auxiliary-sets", "0") == 0
    joint = ["--content-pictures", str(place / "bear"), "--content-trigger", "snq", "--content-class", "bear"]
    joint += ["--style-pictures", str(place / "drawing"), "--style-trigger", "w@z", "--out", str(place / "both.safetensors")]
    adapters = ["--content-adapter", str(place / "bear.safetensors"), "--style-adapter", str(place / "drawing.safetensors")]
    assert call(place, "train", "joint", *joint, *adapters, "--content-auxiliary", str(place / "aux"), "--auxiliary-sets", "0") == 0
    return place


def test_the_three_trainings_write_adapters_of_their_roles(trained: Path) -> None:
    facts = {name: load_adapter(trained / f"{name}.safetensors").facts for name in ("bear", "drawing", "both")}
    assert [facts[name].role for name in facts] == ["content", "style", "together"]
    assert facts["bear"].content is not None and facts["bear"].content.prompts == ("a photo of a snq bear",)
    assert facts["drawing"].style is not None and facts["drawing"].style.trigger == "w@z"
    assert facts["both"].content is not None and facts["both"].content.trigger == "snq"


def test_the_resolution_is_the_model_s_own_unless_it_is_given(trained: Path) -> None:
    assert load_adapter(trained / "bear.safetensors").facts.settings["resolution"] == 64


def test_the_same_training_again_writes_the_same_bytes_without_training(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "drawing.safetensors").read_bytes()
    options = ["--pictures", str(trained / "drawing"), "--trigger", "w@z", "--class", "drawing", "--auxiliary-sets", "0"]
    capsys.readouterr()
    assert call(trained, "train", "style", *options, "--out", str(trained / "drawing.safetensors")) == 0
    captured = capsys.readouterr()
    assert (trained / "drawing.safetensors").read_bytes() == before
    assert captured.out.strip() == str(trained / "drawing.safetensors") and "step" not in captured.err


def test_progress_and_the_path_of_the_file_are_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pictures", str(place / "bear"), "--trigger", "new", "--auxiliary-sets", "0", "--out", str(place / "new.safetensors")]
    assert call(place, "train", "content", *options, steps="2") == 0
    captured = capsys.readouterr()
    assert "step 2 of 2: loss " in captured.err and captured.out.strip().endswith("new.safetensors")


def test_a_corrupt_picture_is_named_as_a_note_and_training_goes_on(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(tiny.picture(1).pixels).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert (
        call(place, "train", "content", "--pictures", str(tmp_path), "--auxiliary-sets", "0", "--out", str(tmp_path / "x.safetensors")) == 0
    )
    assert "note: bad.png was left out" in capsys.readouterr().err


def test_generating_paints_a_picture_with_the_adapter(trained: Path, tmp_path: Path) -> None:
    pictures = []
    for name, options in {"base": [], "with": ["--adapter", str(trained / "both.safetensors"), "--style", "2"]}.items():
        assert call(trained, "generate", "a bear", "--seed", "3", "--out", str(tmp_path / f"{name}.png"), *options) == 0
        pictures.append(Image.open(tmp_path / f"{name}.png").tobytes())
    assert Image.open(tmp_path / "base.png").size == (64, 64) and pictures[0] != pictures[1]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error, without the progress bars of other libraries."""
    return [line for line in capsys.readouterr().err.strip().splitlines() if "it/s]" not in line and "/s]" not in line]


@pytest.mark.parametrize(
    "words,sentence",
    [
        (["--model", "MISSING"], "is not a model folder in diffusers' layout"),
        (["--pictures", "MISSING"], "The folder missing is not there any more"),
        (["--steps", "0"], "steps is 0: it must be at least 1"),
        (["--out", "MISSING"], "missing needs the ending .safetensors, so that LoRA loaders look for it: name it missing.safetensors"),
        (["--rank", "4000"], "Rank 4000 does not fit layer"),
        (["--learning-rate", "nan"], "learning_rate is nan"),
        (["--start", "zero"], "start is 'zero': choose one of"),
        (["--auxiliary", "MISSING"], "The folder missing is not there any more"),
    ],
)
def test_every_mistake_is_one_sentence_and_exit_code_one(
    words: list[str], sentence: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "--out": str(tmp_path / "x.safetensors"),
        "--model": str(place / "model"),
        "--pictures": str(place / "bear"),
        "--store": str(tmp_path / "store"),
        "--steps": "1",
        "--auxiliary-sets": "0",
        "--trigger": "snq",
    }
    options |= {words[0]: words[1].replace("MISSING", str(tmp_path / "missing"))}
    arguments = [text for pair in options.items() for text in pair]
    assert main(["train", "content", "--device", "cpu", "--dtype", "float32", *arguments]) == 1
    lines = said(capsys)
    assert len(lines) == 1 and lines[0].startswith("b4m: ") and sentence in lines[0]
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("wrong", [["--size", "100"], ["--out", "MISSING/deep/x.png"], ["--out", "x.unknown"], ["--adapter", "MISSING"]])
def test_a_mistake_while_generating_is_one_sentence_too(
    wrong: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--out": str(tmp_path / "x.png")} | {wrong[0]: str(tmp_path / wrong[1]) if wrong[0] != "--size" else wrong[1]}
    code = call(place, "generate", "a bear", *[text for pair in options.items() for text in pair])
    lines = said(capsys)
    made = wrong[1].startswith("MISSING/") and Path(options["--out"]).exists()
    assert made or (code == 1 and len(lines) == 1 and lines[0].startswith("b4m: "))


def test_an_adapter_of_another_model_is_refused_while_generating(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_adapter(tiny.small_adapter("merged"), tmp_path / "other.safetensors")
    assert call(place, "generate", "a bear", "--adapter", str(tmp_path / "other.safetensors"), "--out", str(tmp_path / "x.png")) == 1
    assert "trained on a model of another kind" in capsys.readouterr().err


def test_an_adapter_of_another_network_paints_with_a_note(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = load_adapter(trained / "both.safetensors").with_facts(base="n1-" + "0" * 64, base_name="another")
    for name, adapter, notes in (("other", other, 1), ("same", load_adapter(trained / "both.safetensors"), 0)):
        save_adapter(adapter, tmp_path / f"{name}.safetensors")
        capsys.readouterr()
        options = ["--adapter", str(tmp_path / f"{name}.safetensors"), "--out", str(tmp_path / "x.png")]
        assert call(trained, "generate", "a bear", *options) == 0
        assert capsys.readouterr().err.count("was trained on another (00000000), not on model") == notes


def test_a_compact_file_is_small_and_paints_and_trains_on(trained: Path, tmp_path: Path) -> None:
    """The finished training is reused; only what is written differs."""
    words = ["--pictures", str(trained / "drawing"), "--trigger", "w@z", "--class", "drawing", "--auxiliary-sets", "0", "--compact"]
    assert call(trained, "train", "style", *words, "--out", str(tmp_path / "small.b4m")) == 0
    small, whole = load_adapter(tmp_path / "small.b4m"), load_adapter(trained / "drawing.safetensors")
    assert small.facts.compact and small.digest() == whole.digest()
    assert (tmp_path / "small.b4m").stat().st_size < (trained / "drawing.safetensors").stat().st_size
    options = ["--adapter", str(tmp_path / "small.b4m"), "--out", str(tmp_path / "x.png")]
    assert call(trained, "generate", "a bear", *options) == 0
    joint = ["--content-pictures", str(trained / "bear"), "--style-pictures", str(trained / "drawing")]
    joint += ["--content-adapter", str(trained / "bear.safetensors"), "--style-adapter", str(tmp_path / "small.b4m")]
    joint += ["--auxiliary-sets", "0"]
    assert call(trained, "train", "joint", *joint, "--out", str(tmp_path / "both.safetensors")) == 0
    assert not load_adapter(tmp_path / "both.safetensors").facts.compact


def test_a_joint_training_takes_rank_and_split_from_its_adapters(trained: Path, tmp_path: Path) -> None:
    files = {}
    for role, pictures in (("content", "bear"), ("style", "drawing")):
        files[role] = tmp_path / f"{role}.safetensors"
        words = ["--pictures", str(trained / pictures), "--auxiliary-sets", "0", "--split", "full", "--out", str(files[role])]
        assert call(trained, "train", role, *words) == 0
    joint = ["--content-pictures", str(trained / "bear"), "--style-pictures", str(trained / "drawing"), "--split", "halves"]
    joint += ["--auxiliary-sets", "0"]
    joint += [word for role, file in files.items() for word in (f"--{role}-adapter", str(file))]
    assert call(trained, "train", "joint", *joint, "--out", str(tmp_path / "both.safetensors")) == 0
    facts = load_adapter(tmp_path / "both.safetensors").facts
    assert facts.split == facts.settings["split"] == "full" and facts.rank == facts.settings["rank"] == 2


@pytest.mark.parametrize(
    "words,classes",
    [
        ("--content-auxiliary AUX --style-auxiliary AUX", ["car", "owl", "car", "owl"]),
        ("--style-auxiliary AUX --auxiliary-sets 0", ["car", "owl"]),
        ("--auxiliary-sets 2 --auxiliary-pictures 1", ["", ""] * 2),
        ("--auxiliary-sets 0", []),
        ("--correspondence multi_correspondence", []),
    ],
)
def test_a_joint_training_keeps_the_auxiliary_pictures_of_both_kinds(
    words: str, classes: list[str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr("b4m_core.commandline.train", lambda made, *others, **named: plans.append(made) or made.start)
    joint = ["--content-pictures", str(trained / "bear"), "--style-pictures", str(trained / "drawing"), "--style-trigger", "w@z"]
    joint += ["--content-adapter", str(trained / "bear.safetensors"), "--style-adapter", str(trained / "drawing.safetensors")]
    joint += ["--out", str(tmp_path / "both.safetensors"), *words.replace("AUX", str(trained / "aux")).split()]
    assert call(trained, "train", "joint", *joint) == 0
    style, *auxiliary = plans[0].others
    assert style.trigger == "w@z" and [pictures.class_word for pictures in auxiliary] == classes
    captions = [pictures.pictures[0].caption for pictures in auxiliary]
    if classes == [""] * 4:
        assert ["style" in caption for caption in captions] == [True, True, False, False]


def test_a_joint_training_that_would_not_keep_its_auxiliary_pictures_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joint = ["--content-pictures", str(trained / "bear"), "--style-pictures", str(trained / "drawing")]
    joint += ["--out", str(tmp_path / "x.safetensors")]
    joint += ["--content-adapter", str(trained / "bear.safetensors"), "--style-adapter", str(trained / "drawing.safetensors")]
    assert (
        call(trained, "train", "joint", *joint, "--content-auxiliary", str(trained / "aux"), "--correspondence", "multi_correspondence")
        == 1
    )
    assert "choose correspondence = output_preservation, or leave them out" in capsys.readouterr().err


def test_stopping_with_the_keyboard_says_that_the_work_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("b4m_core.commandline.train", interrupt)
    options = ["--pictures", str(place / "bear"), "--auxiliary-sets", "0", "--out", str(place / "never.safetensors")]
    assert call(place, "train", "content", *options) == 130
    assert "what was trained is kept" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["content", "joint"])
def test_pictures_that_are_not_there_are_named_before_anything_is_painted(
    kind: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    painted: list[object] = []
    monkeypatch.setattr("b4m_core.commandline.sample_auxiliary", lambda *given, **named: painted.append(given) or ())
    missing, out = str(tmp_path / "nowhere"), ["--out", str(tmp_path / "x.safetensors")]
    joint = ["--content-pictures", missing, "--style-pictures", str(trained / "drawing")]
    joint += ["--content-adapter", str(trained / "bear.safetensors"), "--style-adapter", str(trained / "drawing.safetensors")]
    assert call(trained, "train", kind, *(joint if kind == "joint" else ["--pictures", missing, "--trigger", "snq"]), *out) == 1
    assert "nowhere" in capsys.readouterr().err and not painted


def test_a_part_that_is_missing_is_one_sentence_without_a_line_of_a_library(place: Path, tmp_path: Path) -> None:
    """In a process of its own: the libraries' handlers write to the real standard error."""
    shutil.copytree(place / "model", tmp_path / "model")
    for part in ("vae", "text_encoder_2"):
        next((tmp_path / "model" / part).glob("*.safetensors")).rename(tmp_path / "model" / part / "weights.bin")
    words = ["generate", "a bear", "--model", str(tmp_path / "model"), "--device", "cpu", "--out", str(tmp_path / "x.png")]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-m", "b4m_core.commandline", *words], cwd=root, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("b4m: model cannot be read: its ")


def painted(trained: Path, out: Path, *options: object) -> bytes:
    assert call(trained, "generate", "a bear", "--seed", "3", "--out", str(out), *map(str, options)) == 0
    return Image.open(out).tobytes()


def test_several_adapters_are_added_up_each_at_its_own_strength(trained: Path, tmp_path: Path) -> None:
    bear, drawing = (("--adapter", trained / f"{name}.safetensors") for name in ("bear", "drawing"))
    merged = tmp_path / "merged.safetensors"
    save_adapter(merge(load_adapter(trained / "bear.safetensors"), load_adapter(trained / "drawing.safetensors")), merged)
    one = painted(trained, tmp_path / "1.png", "--adapter", merged, "--content", 0.5, "--style", 2)
    two = painted(trained, tmp_path / "2.png", *bear, *drawing, "--content", 0.5, "--style", 2)
    differ = [abs(left - right) for left, right in zip(one, two, strict=True)]
    assert max(differ) <= 1
    each = painted(trained, tmp_path / "3.png", *bear, *drawing, "--content", 0.5, "--content", 7, "--style", 7, "--style", 2)
    assert max(abs(left - right) for left, right in zip(one, each, strict=True)) <= 1


def test_strengths_that_are_neither_one_nor_one_for_each_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--adapter", str(trained / "bear.safetensors"), "--content", "1", "--content", "2", "--out", str(tmp_path / "x.png")]
    capsys.readouterr()
    assert call(trained, "generate", "a bear", *words) == 1
    assert said(capsys) == ["b4m: --content is there 2 times for 1 adapters: give it once, or once for each."]
