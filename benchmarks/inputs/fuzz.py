"""Pictures and caption files broken at random, by a seed: each is read or named, and nothing but our own sentences comes out."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from b4m_core.pictures import PictureSet, load_folder

from . import kinds

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "cp932", "gb18030", "big5", "cp949", "cp1251", "utf-32")
TEXTS = (
    "a {trigger} {class} in the snow", "ein Bär auf der Straße, été, señor", "青いティーポット、木の上", "蓝色的茶壶在木桌上",
    "(snq:1.3), embedding:x, [trigger]", "a {trigerr} \\(bear\\), ((x)), <lora:y:1>", "синий чайник на столе", "tag, tag two, 1girl, " * 40,
    "", "\r\n", '"quoted", \t tabbed',
)  # fmt: skip
LISTS = (
    '{"file_name": "0.png", "text": "snq one"}\n{"file_name": "1.png", "text": "snq two"}\n',
    '[{"image": "0.png", "caption": "snq"}, {"image": "2.png", "caption": ["a", "b"]}]',
    "file_name,text\n0.png,snq one\n1.png,\"snq, two\"\n",
    '{"0.png": "snq one", "1.png": {"caption": "snq two"}}',
)
_WORDS = {"trigger": "snq", "class_word": "bear", "pattern": "what the node says"}
_AT_ONCE = 5  # files in a folder, so that all of them are named one by one


@dataclass
class Outcome:
    """How many broken files were read, named and left silent, by kind."""

    read: Counter[str]
    named: Counter[str]
    silent: list[str]


def broken(content: bytes, draw: random.Random) -> bytes:
    """The bytes of a file with something wrong: changed, cut, doubled, exchanged, or with large numbers in its header."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, length = draw.randrange(len(data) + 1), draw.randint(1, 64)
        match draw.randrange(7):
            case 0:
                for index in range(place, min(place + draw.randint(1, 8), len(data))):
                    data[index] = draw.randrange(256)
            case 1:
                del data[place:]
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = draw.randbytes(length)
            case 4:
                head = draw.randrange(min(len(data), 64) + 1)
                data[head : head + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\x40\0", b"\x40\0\0\0"))
            case 5:
                data += data[:length]
            case 6:
                other = draw.randrange(len(data) + 1)
                data[place : place + length], data[other : other + length] = data[other : other + length], data[place : place + length]
    return bytes(data)


def pictures(count: int, folder: Path, seed: int = 0) -> Outcome:
    """``count`` pictures of all kinds that are read, each broken."""
    draw, made = random.Random(f"pictures {seed}"), {}
    sources = [each for each in kinds.KINDS if each.becomes == kinds.READ and (not each.needs or importlib.util.find_spec(each.needs))]
    outcome = Outcome(Counter(), Counter(), [])
    for first in range(0, count, _AT_ONCE):
        place = folder / f"pictures {first}"
        place.mkdir(parents=True)
        _good(place / "good.png", first)
        chosen: dict[str, str] = {}
        for number in range(first, min(first + _AT_ONCE, count)):
            kind = draw.choice(sources)
            content = made.setdefault(kind.title, None) or kind.make()
            made[kind.title] = content
            name = f"{number:04}{Path(kind.file).suffix or '.jpg'}"
            (place / name).write_bytes(broken(content, draw))
            chosen[name] = kind.title
        found = load_folder(place, **_WORDS)
        _count(outcome, chosen, {picture.name for picture in found.pictures}, " ".join(found.notes))
    return outcome


def captions(count: int, folder: Path, seed: int = 0) -> Outcome:
    """``count`` caption files, one in five a list for all, each broken, in every encoding."""
    draw = random.Random(f"captions {seed}")
    outcome = Outcome(Counter(), Counter(), [])
    for first in range(0, count, _AT_ONCE):
        place = folder / f"captions {first}"
        place.mkdir(parents=True)
        chosen: dict[str, str] = {}
        for number in range(min(_AT_ONCE, count - first)):
            _good(place / f"{number}.png", first + number)
            listing = number == _AT_ONCE - 1
            encoding = draw.choice(ENCODINGS)
            text = draw.choice(LISTS if listing else TEXTS)
            ending = draw.choice((".txt", ".caption", ".TXT"))
            name = draw.choice(("metadata.jsonl", "meta.json", "rows.csv")) if listing else f"{number}{ending}"
            content = text.encode(encoding, "ignore")
            (place / name).write_bytes(broken(content, draw) if draw.random() < 0.9 else content)
            chosen[name] = f"{'list' if listing else 'caption'}, {encoding}"
        _count(outcome, chosen, *_captioned(load_folder(place, **_WORDS), chosen))
    return outcome


def _captioned(found: PictureSet, chosen: dict[str, str]) -> tuple[set[str], str]:
    """The caption files that were used, and what was said."""
    notes = " ".join(found.notes)
    told = {picture.name: picture.caption for picture in found.pictures}
    used = {name for name in chosen if told.get(f"{Path(name).stem}.png", _WORDS["pattern"]) != _WORDS["pattern"]}
    empty = {name for name in chosen if f"{Path(name).stem}.png" in notes.partition("are empty: ")[2]}
    lists = {name for name in chosen if not Path(name).stem.isdigit() and name not in notes}
    return used | lists, notes + " ".join(empty)


def _count(outcome: Outcome, chosen: dict[str, str], read: set[str], notes: str) -> None:
    for name, title in chosen.items():
        if name in read:
            outcome.read[title] += 1
        elif name in notes:
            outcome.named[title] += 1
        else:
            outcome.silent.append(f"{name} ({title})")


def _good(file: Path, seed: int) -> None:
    """A small picture that is like no other."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(file)
