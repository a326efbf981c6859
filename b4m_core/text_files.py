"""Text as artists have it: any encoding, with or without a mark, cleaned of what no one sees."""

import unicodedata
from collections.abc import Mapping, Sequence

from charset_normalizer import from_bytes

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)  # fmt: skip
_COMMON = {
    "gb18030": (0xB0, 0xD7), "cp932": (0x88, 0x97), "big5": (0xA4, 0xC6), "cp949": (0xB0, 0xC8), "euc_jp": (0xB0, 0xCF),
}  # fmt: skip
"""Lead bytes of the everyday characters of each encoding; the rest are rare ones, which a wrong guess is full of."""
_CODE_PAGES = ("cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "cp874")
_WESTERN = ("cp1252", "cp1250", "latin-1")
_GUESSED = 4096  # bytes that a guess is made from


def decoded(raw: Mapping[str, bytes]) -> tuple[dict[str, str], dict[str, list[str]], list[str]]:
    """Texts by file name as they stand, the files that were read in an old encoding by its name, and those that are no text.

    What is not Unicode is guessed from all such files together: they come from one person's machine.
    """
    texts: dict[str, str] = {}
    old: dict[str, bytes] = {}
    broken: list[str] = []
    for name, content in raw.items():
        text = _unicode(content)
        if text is not None:
            texts[name] = text
        elif content.startswith(tuple(mark for mark, _ in _MARKS)):
            broken.append(name)
        else:
            old[name] = content
    guessed: dict[str, list[str]] = {}
    if old:
        order = encodings(b"\n".join(old.values())[:_GUESSED])
        for name, content in old.items():
            found = next((each for each in order if (text := _decode(content, each)) is not None and is_text(text)), None)
            if found is None:
                broken.append(name)
            else:
                texts[name] = content.decode(found)
                guessed.setdefault(found, []).append(name)
    broken += [name for name, text in texts.items() if not is_text(text)]
    return {name: text for name, text in texts.items() if name not in broken}, guessed, broken


def encodings(content: bytes) -> Sequence[str]:
    """Old encodings that bytes may be in, the likeliest first."""
    high = [byte >= 0x80 for byte in content]
    beside = sum(here and (before or after) for before, here, after in zip([False, *high], high, [*high[1:], False], strict=False))
    if beside * 2 < sum(high):  # single letters among plain ones: a Western language
        return _WESTERN
    matches = [match.encoding for match in from_bytes(content, cp_isolation=[*_COMMON, *_CODE_PAGES], threshold=0.6)]
    likely = {each: place + 2 * (each == "big5") for place, each in enumerate(matches)}  # of two that fit, the one that more people use
    ranked = sorted(_COMMON, key=lambda each: (-_everyday(content, each), likely.get(each, 99)))
    if _everyday(content, ranked[0]) >= 0.7 and not (matches and matches[0] in _CODE_PAGES):
        return (*ranked, *matches, *_WESTERN)
    return (*matches, *_WESTERN, *ranked)


def clean(text: str) -> str:
    """On one line with single spaces, without what cannot be seen and without halves of characters."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    seen = "".join(
        " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in whole
        if letter not in "\ufeff\u200b\u2060\ufffd"
    )
    return " ".join(seen.split())


def is_text(text: str) -> bool:
    """Whether it reads as text: hardly any control characters or unknown ones."""
    odd = sum(unicodedata.category(letter) in ("Cc", "Cn", "Co") and letter not in "\t\n\r\f\v\0" for letter in text[:_GUESSED])
    return odd * 20 <= min(len(text), _GUESSED) and not text.startswith("{\\rtf")


def _unicode(content: bytes) -> str | None:
    """The text of bytes in UTF-8, UTF-16 or UTF-32, marked or not; None for others."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            marked = content.decode(encoding, "replace")
            return marked if marked.count("\ufffd") * 20 <= len(marked) else None
    zeros = [content[start::2].count(0) for start in (0, 1)]
    if len(content) >= 4 and max(zeros) * 4 > len(content) and min(zeros) * 8 < len(content):
        return _decode(content, "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be")
    text = _decode(content, "utf-8")
    return None if text is not None and _mixed(text) else text


def _mixed(text: str) -> bool:
    """Whether a text of few letters is in three scripts at once: two-byte characters of an old encoding that happen to be UTF-8."""
    scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in text if "\x7f" < letter < "\u0800" and letter.isalpha()}
    marks = any("\u0590" < letter < "\u0800" and unicodedata.category(letter) == "Mn" for letter in text)
    return len(scripts) + marks >= 3


def _decode(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _everyday(content: bytes, encoding: str) -> float:
    """The share of everyday characters among those beyond ASCII; 0 where the bytes are not in this encoding."""
    text = _decode(content, encoding)
    letters = [letter for letter in text or "" if ord(letter) > 127]
    first, last = _COMMON[encoding]
    common = 0
    for letter in letters:
        if "\u3000" <= letter <= "\u30ff" or "\uff01" <= letter <= "\uff5e":
            common += 1
        elif len(code := letter.encode(encoding, "ignore")) == 2:
            common += first <= code[0] <= last
    return common / len(letters) if letters else 0.0
