"""The one error of the method: a sentence that an artist can act on."""

import re

_LONGEST_WORD, _LONGEST = 400, 4000  # characters; a path may be long, a value from a hostile file longer


class B4MError(ValueError):
    """Bad input, said in one sentence: what is wrong, where, and what to do.

    Whatever a sentence quotes, it stays one: on one line, of letters that can be shown and written, and not long.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(_one_sentence(sentence))


def _one_sentence(text: str) -> str:
    quoted = re.sub(rf"(\S{{{_LONGEST_WORD // 2}}})\S{{{_LONGEST_WORD // 2},}}(\S{{40}})", r"\1…\2", text)[: _LONGEST + 1]
    line = "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in quoted)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
