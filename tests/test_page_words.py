"""What the page says has words in every language that the nodes have."""

from __future__ import annotations

import json
import re

import pytest

from launcher.locales import LANGUAGES
from tests.test_web_is_harmless import SCRIPTS, WEB, code_of

ROOT = WEB.parent
SOURCE = (WEB / "b4m_words.js").read_text(encoding="utf-8")
WORDS: dict[str, list[str]] = json.loads(re.search(r"const WORDS = (\{.*?\n\});", SOURCE, re.DOTALL)[1])  # type: ignore[index]
CODE = {script.name: code_of(script.read_text(encoding="utf-8")) for script in SCRIPTS if script.name != "b4m_words.js"}
SENTENCE = r"[A-Z{][^\"`\n]* [^\"`\n]*|[A-Z][a-z]+"


def literals(code: str) -> list[str]:
    """The strings of a script that are there for people: sentences, words with a capital, and what it asks words for."""
    found = re.findall(rf'"({SENTENCE})"|`({SENTENCE})`|\bwords\([^"()]*"([^"\n]+)"', code)
    return [text for each in found for text in each if text]


KEYS_AND_TYPES = {"Escape", "Enter"}
"""Names of the browser's that begin as sentences do."""


@pytest.mark.parametrize("name", CODE)
def test_what_a_script_says_to_people_has_words(name: str) -> None:
    assert set(literals(CODE[name])) - KEYS_AND_TYPES - WORDS.keys() == set()


def test_words_are_whole_in_every_language_and_none_is_left_over() -> None:
    languages = json.loads(re.search(r"const LANGUAGES = (\[.*?\]);", SOURCE)[1])  # type: ignore[index]
    assert tuple(languages) == LANGUAGES
    inside = SOURCE.partition("export function")[2]
    server = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "nodes").rglob("*.py"))
    for english, others in WORDS.items():
        assert len(others) == len(languages) and all(others), english
        assert len({tuple(sorted(re.findall(r"\{\w+\}", text))) for text in (english, *others)}) == 1, f"{english}: other names to fill in"
        by_server = english in server or (english.startswith("Stopped. ") and english.removeprefix("Stopped. ") in server)
        quoted = f'"{english}"'
        assert by_server or quoted in inside or any(quoted in code for code in CODE.values()), f"nothing says {english}"


@pytest.mark.parametrize("code", ['f("Add them")', "say(`Brought ${n} of them`)", 'words("no picture has it.")', 'f("ComfyUI is gone.")'])
def test_a_text_without_words_is_found(code: str) -> None:
    assert literals(code)
