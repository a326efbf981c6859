"""Prompts that follow the words of the sets: ``{content}`` is "snq bird", ``{style}`` is "w@z style"."""

import difflib
import re
from collections.abc import Mapping

from .errors import B4MError
from .metadata import Concept

_BRACES = re.compile(r"\{(\w+)\}")
DEFAULT = "a {content} in {style}"


def fill_prompt(text: str, words: Mapping[str, str | None], where: str) -> str:
    """``text`` with the words of the sets in place of {content}, {style} and whatever else ``words`` has by name.

    Other braces stay, as other nodes may know them. Raises :class:`B4MError`, which says ``where``, for a word that is
    None (nothing there has it) or empty, and for a name that is misspelt.
    """

    def filled(found: re.Match[str]) -> str:
        name = found[1].lower()
        if name not in words:
            near = difflib.get_close_matches(name, words, 1, 0.7)
            if near:
                raise B4MError(f"Nothing fills in {{{found[1]}}} in {where}: write {{{near[0]}}}.")
            return found[0]
        value = words[name]
        if value is None:
            raise B4MError(f"There is no {name} whose words stand for {{{name}}} in {where}: connect its pictures, or write the words.")
        if not value and name in ("content", "style"):
            raise B4MError(f"The {name} has neither a trigger nor a class word, so {{{name}}} in {where} would be empty: give it one.")
        return value

    return " ".join(_BRACES.sub(filled, text).split()) if _BRACES.search(text) else text


def words_of(content: Concept | None, style: Concept | None) -> dict[str, str | None]:
    """The words that stand for {content} and {style}; None for what is not there."""
    return {"content": None if content is None else content.words(), "style": None if style is None else style_words(style)}


def style_words(style: Concept) -> str:
    """A style as a prompt says it: "w@z style"; by its class word where it has no trigger."""
    word = style.trigger or style.class_word
    return word if not word or word.lower().endswith("style") else f"{word} style"
