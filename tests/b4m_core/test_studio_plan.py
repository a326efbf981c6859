"""The plan of a studio: what it may say, and one sentence for everything that is wrong with it, before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_studio import PLAN, write_studio

from b4m_core import B4MError
from b4m_core.studio.plan_file import MOST_PAIRS, read_plan


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a plan."""
    return write_studio(tmp_path_factory.mktemp("plan"), model=False).parent


def refused(studio: Path, plan: str | bytes) -> str:
    """The sentence that a plan is refused with."""
    file = studio / "wrong.toml"
    file.write_bytes(plan if isinstance(plan, bytes) else plan.encode())
    with pytest.raises(B4MError) as caught:
        read_plan(file)
    sentence = str(caught.value)
    assert "wrong.toml" in sentence and "\n" not in sentence
    return sentence


def test_a_plan_is_read_with_its_words_settings_and_paths(studio: Path) -> None:
    plan = read_plan(studio / "plan.toml")
    assert [(each.role, each.name) for each in plan.entries] == [
        ("content", "bear"), ("content", "owl"), ("style", "ink"), ("style", "oil"),
    ]  # fmt: skip
    bear, _, ink, oil = plan.entries
    assert bear.folder == studio / "bear" and (bear.trigger, bear.class_word, bear.preset) == ("snq", "bear", "normal")
    assert (ink.settings["steps"], oil.settings["steps"], oil.settings["rank"]) == (3, 2, 2)
    assert plan.output == studio / "library" and plan.store == studio / "store" and plan.auxiliary_sets == 1
    assert len(plan.pairs()) == 4 and plan.notes == []


def test_settings_are_given_for_all_and_changed_for_one(studio: Path) -> None:
    own = 'trigger = "w@z"\npreset = "quick"\nsettings.flip = true\nsettings.rank = 4'
    (studio / "own.toml").write_text(PLAN.replace('trigger = "w@z"', own))
    _, _, ink, oil = read_plan(studio / "own.toml").entries
    assert (ink.preset, ink.settings["flip"], ink.settings["rank"]) == ("quick", True, 4)
    assert oil.preset == "normal" and "flip" not in oil.settings


def test_sheets_show_those_that_are_named(studio: Path) -> None:
    some = '[sheets]\ncontents = "owl"\nstyles = ["oil", "ink", "oil"]\nseeds = [1, 2]'
    (studio / "some.toml").write_text(PLAN.replace("[sheets]", some))
    plan = read_plan(studio / "some.toml")
    assert [(content.name, style.name) for content, style in plan.pairs()] == [("owl", "ink"), ("owl", "oil")]
    assert plan.sheets.seeds == (1, 2)


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_plan_of_windows_notepad_is_read(studio: Path, mark: str) -> None:
    (studio / "notepad.toml").write_bytes(PLAN.replace("\n", "\r\n").encode(mark))
    assert len(read_plan(studio / "notepad.toml").entries) == 4


def test_only_contents_are_trained_without_sheets_and_that_is_said(studio: Path) -> None:
    (studio / "half.toml").write_text(PLAN[: PLAN.index("[style.ink]")])
    plan = read_plan(studio / "half.toml")
    assert plan.pairs() == [] and "no contact sheets" in plan.notes[0]


def test_one_word_for_a_content_and_a_style_is_noted(studio: Path) -> None:
    (studio / "same.toml").write_text(PLAN.replace("w@z", "snq"))
    assert any("the same trigger" in note for note in read_plan(studio / "same.toml").notes)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('model = "model"', 'modle = "model"', "there is no key modle here: did you mean model?"),
        ('model = "model"', 'model = "model"\nzzz = 1', "there is no key zzz here: it may have "),
        ('folder = "bear"', 'folder = "bear"\ntrigerr = "x"', "[content.bear]: there is no key trigerr here: did you mean trigger?"),
        ("steps = 3", "stesp = 3", "[settings]: there is no key stesp here: did you mean steps?"),
        ("[sheets]", "[sheet]", "there is no key sheet here: did you mean sheets?"),
        ("[sheets]", "[sheets]\nsede = 3", "[sheets]: there is no key sede here: did you mean seeds?"),
        ("[content.owl]", "[contents.owl]", "there is no key contents here: did you mean content?"),
        ('folder = "bear"', 'folder = "lion"', "lion, which is no folder"),
        ('folder = "bear"', 'folder = "plan.toml"', "plan.toml, which is no folder"),
        ('folder = "bear"', 'folder = "model"', "which holds no picture"),
        ('folder = "bear"', "", "[content.bear]: folder is missing"),
        ('folder = "bear"', "folder = 3", "folder in [content.bear] of wrong.toml is 3: write a text"),
        ('folder = "bear"', 'folder = "bear"\nauxiliary = "none"', "auxiliary is"),
        ('model = "model"', 'model = "sdxl.safetensors"', "sdxl.safetensors, which is not there"),
        ('output = "library"', "", "output is missing"),
        ('output = "library"', 'output = ""', "output in wrong.toml is '': write a path"),
        ('model = "model"', 'model = "' + "m" * 300 + '"', "which is not there"),
        ('output = "library"', 'output = "plan.toml"', "output is"),
        ('store = "store"', 'store = "bear/0.png"', "store is"),
        ("[content.owl]", "[content.Bear]", "bear and Bear would be one file on some systems"),
        ("[content.owl]", "[content.bear]", "stands there twice"),
        ("[content.owl]", '[content."a/b"]', "cannot be a file name on every system"),
        ("[content.owl]", '[content."aux"]', "cannot be a file name on every system"),
        ("[content.owl]", '[content."owl."]', "cannot be a file name on every system"),
        ("[content.owl]", '[content.""]', "cannot be a file name on every system"),
        ("[content.owl]", '[content."o\\u0000l"]', "cannot be a file name on every system"),
        ("[style.oil]", '[style.INK]', "ink and INK would be one file"),
        ("steps = 3", "steps = 0", "[settings]: steps is 0: it must be at least 1"),
        ("steps = 3", 'steps = "3"', "[settings]: steps is '3': it must be a whole number from 1 to"),
        ("steps = 3", "steps = true", "[settings]: steps is of another kind (bool): it must be a whole number"),
        ("steps = 3", "steps = 2.5", "[settings]: steps is 2.5: it must be a whole number"),
        ("steps = 3", "resolution = 100", "choose a multiple of 32"),
        ("settings.steps = 2", 'settings.split = "fulll"', "[style.oil.settings]: "),
        ("settings.steps = 2", "settings.split = 3", "split in [style.oil.settings] of wrong.toml is 3: write a text"),
        ("settings.steps = 2", "settings = 2", "settings in [style.oil] of wrong.toml is 2: write a table, [style.oil.settings]"),
        ('trigger = "w@z"', 'trigger = "w@z"\npreset = "fast"', "choose one of quick, normal, thorough"),
        ("auxiliary_sets = 1", 'preset = ["quick"]', "preset in wrong.toml is of another kind (list): choose one of quick"),
        ("auxiliary_sets = 1", "auxiliary_sets = -1", "auxiliary_sets in wrong.toml is -1"),
        ("auxiliary_sets = 1", 'dtype = "float16"', "dtype in wrong.toml is 'float16': choose one of"),
        ('prompts = ["a {content} in {style}"]', "prompts = []", "prompts in [sheets] of wrong.toml is an empty list"),
        ('prompts = ["a {content} in {style}"]', "prompts = [1]", "prompts in [sheets] of wrong.toml has 1: write a list of texts"),
        ('prompts = ["a {content} in {style}"]', 'prompts = ["a {contnet}"]', "Nothing fills in {contnet}"),
        ('prompts = ["a {content} in {style}"]', "seeds = []", "seeds in [sheets] of wrong.toml is an empty list"),
        ('prompts = ["a {content} in {style}"]', "seeds = [1.5]", "seeds in [sheets] of wrong.toml is 1.5: it must be a whole number"),
        ('prompts = ["a {content} in {style}"]', "seeds = [99999999999999999999]", "and at most 9223372036854775807"),
        ('prompts = ["a {content} in {style}"]', "size = 100", "choose a multiple of 32"),
        ('prompts = ["a {content} in {style}"]', 'contents = ["cat"]', "contents names cat, and the plan has no content of that name"),
        ('trigger = "w@z"', "", "neither a trigger nor a class word"),
        ('trigger = "w@z"', "trigger = 2026-11-26", "trigger in [style.ink] of wrong.toml is 2026-11-26: write a text"),
        ('class = "owl"', 'class = "owl"\ncaption = "a {foo} {trigger"', "[content.owl]: "),
        ("[content.owl]", "[content.owl", "is no TOML: "),
        ('output = "library"', 'output = "D:\\library"', "single quotes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence_with_its_place(studio: Path, old: str, new: str, says: str) -> None:
    assert old in PLAN
    assert says in refused(studio, PLAN.replace(old, new, 1))


def test_a_syntax_error_names_its_line(studio: Path) -> None:
    assert "line 3" in refused(studio, 'model = "model"\noutput = "library"\nstore = \n')


def test_a_plan_without_anything_to_train_is_refused(studio: Path) -> None:
    assert "names no content and no style" in refused(studio, 'output = "library"\n')
    assert "names no content and no style" in refused(studio, 'output = "library"\n[content]\n')


def test_what_is_no_text_is_refused(studio: Path) -> None:
    assert "is no text" in refused(studio, b"\x00\x01\x02\x00" * 50)


def test_a_plan_that_is_not_there_or_a_folder_is_refused(studio: Path) -> None:
    with pytest.raises(B4MError, match="is not there: check its name and its folder"):
        read_plan(studio / "nowhere.toml")
    with pytest.raises(B4MError, match="is a folder"):
        read_plan(studio)


def test_more_pairs_than_anybody_can_look_at_are_refused(studio: Path) -> None:
    side = int(MOST_PAIRS**0.5) + 1
    entries = [f'[{role}.n{number}]\nfolder = "bear"\ntrigger = "{role}"\n' for role in ("content", "style") for number in range(side)]
    assert f"{side * side} pairs" in refused(studio, 'output = "library"\n' + "".join(entries))


def test_a_python_without_a_reader_says_what_to_install(studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(B4MError, match="pip install tomli"):
        read_plan(studio / "plan.toml")
