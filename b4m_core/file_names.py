"""Names that are file names on every system: what Windows, macOS and Linux each refuse is refused everywhere."""

import os
import re
import unicodedata

LONGEST_NAME, MOST_BYTES = 150, 230
"""Letters of a name, and their bytes: file systems take 255, and an ending and a number come to them."""
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[\d¹²³])\s*(\..*)?", re.IGNORECASE)


def is_plain(stem: str) -> bool:
    """Whether it can be a name at all: something, short, without a dot or a space at its ends."""
    plain = stem.strip() and stem == stem.strip().rstrip(".") and not stem.startswith(".")
    return bool(plain) and len(stem) <= LONGEST_NAME and 0 < bytes_of(stem) <= MOST_BYTES


def is_legal(stem: str) -> bool:
    """Whether every system takes the letters of a name, and none has it for a device."""
    return not (_NOT_IN_NAMES.search(stem) or WINDOWS_DEVICES.fullmatch(stem))


def bytes_of(name: str) -> int:
    """The bytes of a name on disk, 0 for one that cannot be there: a half character of a text that was cut."""
    try:
        return len(os.fsencode(name))
    except UnicodeEncodeError:
        return 0


def same_file_name(name: str) -> str:
    """What two names have in common that are one file on some system: no capitals, one form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
