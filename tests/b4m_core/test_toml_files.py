"""TOML: every kind of value, and one sentence for whatever a person can write wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from b4m_core import B4MError
from b4m_core.atomic import write_whole
from b4m_core.toml_files import read_toml, toml_text


def file_of(folder: Path, text: str | bytes) -> Path:
    file = folder / "cat.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def read_all(file: Path) -> dict[str, object]:
    """What a small format asks for."""
    top = read_toml(file)
    settings = top.table("settings")
    found = {
        "role": top.text("role", "content"), "steps": settings.whole("steps", 1, 100, 10), "rate": settings.number("rate", 0, 1, 0.5),
        "flip": settings.yes_or_no("flip", False), "folder": top.path("folder", None), "words": top.texts("words", []),
        "seeds": top.wholes("seeds", 0, 100, [0]),
        "contents": {name: each.text("trigger") for name, each in top.tables("content").items()},
        "pairs": [row.choice("split", ("free", "full")) for row in top.rows("pair")],
    }  # fmt: skip
    top.end()
    return found


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    text = (
        'role = "style"\nfolder = "pictures/ink"\nwords = ["a", "b", "a"]\nseeds = [2, 1, 2]\n[settings]\nsteps = 7\nrate = 1\n'
        'flip = true\n[content.cat]\ntrigger = "snq"\n[content."my dog"]\ntrigger = "dgq"\n[[pair]]\nsplit = "free"\n'
        '[[pair]]\nsplit = "full"\n'
    )
    assert read_all(file_of(tmp_path, text)) == {
        "role": "style", "steps": 7, "rate": 1.0, "flip": True, "folder": tmp_path / "pictures/ink", "words": ["a", "b"],
        "seeds": [2, 1],
        "contents": {"cat": "snq", "my dog": "dgq"}, "pairs": ["free", "full"],
    }  # fmt: skip


def test_one_value_alone_counts_as_a_list(tmp_path: Path) -> None:
    read = read_all(file_of(tmp_path, 'words = "a"\nseeds = 3\n'))
    assert (read["words"], read["seeds"]) == (["a"], [3])
    assert read_all(file_of(tmp_path, ""))["seeds"] == [0]


def test_a_path_is_whole_and_one_of_nobody_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file_of(tmp_path, 'folder = "../ink"\n')
    assert read_all(Path("cat.toml"))["folder"] == tmp_path.parent / "ink"
    assert read_all(file_of(tmp_path, 'folder = "~nobody-of-this-name/ink"\n'))["folder"] == tmp_path / "~nobody-of-this-name" / "ink"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_as_the_tools_of_any_system_write_it(tmp_path: Path, encoding: str) -> None:
    assert read_all(file_of(tmp_path, 'role = "Füße und Käse"\r\n'.encode(encoding)))["role"] == "Füße und Käse"


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("role = \n", "cat.toml is no TOML: invalid value (at line 1"),
        ('folder = "C:\\pictures\\ink"\n', "a path with \\ stands in single quotes"),
        ("[settings]\nsteps = 1\n[settings]\n", "is no TOML: cannot declare ('settings',) twice"),
        ("rolle = 'style'\n", "cat.toml: there is no key rolle here: did you mean role?"),
        ("[settings]\nstps = 3\n", "cat.toml, [settings]: there is no key stps here: did you mean steps?"),
        ("[settings]\nqqqq = 3\n", "there is no key qqqq here: it may have steps, rate, flip."),
        ("[content.cat]\ntrigger = 'a'\nsharpness = 3\n", "cat.toml, [content.cat]: there is no key sharpness here"),
        ("[content.cat]\n", "cat.toml, [content.cat]: trigger is missing: add a line trigger = ..."),
        ("role = 3\n", "role in cat.toml is 3: write a text, in quotes."),
        ("[settings]\nsteps = 'many'\n", "steps in [settings] of cat.toml is 'many': it must be a whole number from 1 to 100."),
        ("[settings]\nsteps = 1.5\n", "steps in [settings] of cat.toml is 1.5: it must be a whole number"),
        ("[settings]\nsteps = 101\n", "it must be at least 1 and at most 100"),
        ("[settings]\nrate = nan\n", "rate in [settings] of cat.toml is nan"),
        ("[settings]\nflip = 1\n", "flip in [settings] of cat.toml is 1: it must be true or false."),
        ("settings = 3\n", "settings in cat.toml is 3: write a table, [settings] and its keys below."),
        ("words = 3\n", "words in cat.toml has 3: write a list of texts"),
        ("words = []\n", "words in cat.toml is an empty list: write at least one into it"),
        ("seeds = [1, 101]\n", "seeds in cat.toml is 101: it must be at least 0 and at most 100."),
        ("seeds = true\n", "seeds in cat.toml is of another kind (bool): it must be a whole number"),
        ("folder = ' '\n", "folder in cat.toml is ' ': write a path, in quotes."),
        ("role = 2026-11-26\n", "role in cat.toml is 2026-11-26: write a text, in quotes."),
        ("role = false\n", "role in cat.toml is false: write a text, in quotes."),
        ("ROLE = 'style'\n", "there is no key ROLE here: did you mean role?"),
        ("role = 0x1" + "0" * 5000 + "\n", "role in cat.toml is "),
        ("role = 1" + "0" * 5000 + "\n", "cat.toml"),
        ('[content."a\\nb"]\n', "cat.toml, [content.a?b]: trigger is missing"),
        ("role = 'a'\nrole = 'b'\n", "a name or a key stands there twice, give one of them another"),
        ('folder = "D:\\pictures\\"', "a path with \\ stands in single quotes, such as 'D:\\pictures'"),
        ("words = ['a', 1]\n", "write a list of texts"),
        ("pair = 3\n", "pair in cat.toml is 3: write tables, each below a line [[pair]]."),
        ("[[pair]]\nsplit = 'fre'\n", "split in [pair 1] of cat.toml is 'fre': choose one of free, full."),
        (b"\x00\x01\x02\x03" * 40, "cat.toml is no text"),
        ("folder = 'Füße und Käse'\n".encode("cp1252"), "cat.toml is no text in UTF-8: save it again"),
        ("a" + ".a" * 5000 + " = 1\n", "cat.toml"),
    ],
)
def test_whatever_is_wrong_is_one_sentence(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(B4MError) as error:
        read_all(file_of(tmp_path, text))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_a_folder_or_far_too_large_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    large = file_of(tmp_path, b"#" * 5_000_000)
    for file, sentence in ((tmp_path / "no.toml", "is not there"), (tmp_path / "folder.toml", "is a folder"), (large, "larger than 4 MB")):
        with pytest.raises(B4MError, match=sentence):
            read_toml(file)


def test_a_python_without_a_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(B4MError, match="pip install tomli"):
        read_toml(file_of(tmp_path, ""))


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    values = {
        "role": "con\"tent\\\n é", "folder": Path("a") / "b", "gone": None,
        "settings": {"steps": 7, "rate": 1e-4, "flip": True, "no": None},
        "words": ["a", "b"], "content": {"my dog": {"trigger": "x"}},
    }  # fmt: skip
    read = read_toml(write_whole(tmp_path / "deep" / "cat.toml", toml_text(values, "about it\nin two lines").encode())).values
    assert read == {
        "role": values["role"], "folder": str(Path("a") / "b"), "settings": {"steps": 7, "rate": 1e-4, "flip": True},
        "words": ["a", "b"], "content": {"my dog": {"trigger": "x"}},
    }  # fmt: skip
    assert (tmp_path / "deep" / "cat.toml").read_text().startswith("# about it\n# in two lines\n")


def test_writing_without_the_package_for_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomli_w", None)
    with pytest.raises(B4MError, match="needs the package tomli-w: install what requirements.txt names"):
        toml_text({"a": 1})
