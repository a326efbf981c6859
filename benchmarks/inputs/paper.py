"""The tables of docs/inputs.md, made by reading what they speak of."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from b4m_core import B4MError
from b4m_core.pictures import load_folder

from . import fuzz, kinds

_WRONG = {"Empty file": "empty.jpg", "Web page": "page.jpg", "Half a file": "half.jpg", "Camera's raw file": "DSC_1.NEF"}
_WORDS = {"trigger": "w@z", "class_word": "", "pattern": "a {name} in {trigger} style"}


def kinds_table(folder: Path) -> list[str]:
    """A row for every kind of file: what becomes of it, and the sentence."""
    rows = ["| file | example | becomes | the node says |", "|---|---|---|---|"]
    for number, kind in enumerate(kinds.KINDS):
        if kind.needs and importlib.util.find_spec(kind.needs) is None:
            rows.append(f"| {kind.title} | `{kind.file}` | not tried, {kind.needs} is missing | |")
            continue
        place = folder / str(number)
        kinds.write(kind, place)
        Image.fromarray(kinds.pixels(seed=9)).save(place / "good.png")
        found = load_folder(place, trigger="snq", class_word="bear", pattern="a {trigger} {class}")
        becomes = kinds.READ if len(found.pictures) > 1 else kinds.NAMED if found.notes else kinds.IGNORED
        if becomes != kind.becomes:
            raise B4MError(f"{kind.title} should be {kind.becomes} and was {becomes}.")
        rows.append(f"| {kind.title} | `{kind.file.replace('|', '')}` | {becomes} | {' '.join(found.notes)} |")
    return rows


def wrong_folder(folder: Path) -> list[str]:
    """The node's text for a folder in which everything is wrong."""
    folder.mkdir(parents=True)
    make_wrong(folder)
    found = load_folder(folder, **_WORDS)
    return [found.told, *found.notes]


def make_wrong(folder: Path) -> None:
    """One of everything that goes wrong, beside a few good pictures."""
    for number, name in enumerate(("IMG_2041.JPG", "woodcut-ship.png", "red_house.png", "download (3).webp", "owl.jpg")):
        shapes = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(shapes).resize((960, 800), Image.Resampling.NEAREST).save(folder / name)
    first = Image.open(folder / "red_house.png")
    first.save(folder / "red_house copy.png")
    first.resize((900, 750), Image.Resampling.LANCZOS).save(folder / "red_house small.png")
    first.filter(ImageFilter.GaussianBlur(20)).transpose(Image.Transpose.ROTATE_180).save(folder / "harbour.png")
    Image.new("RGB", (600, 600), "white").save(folder / "blank.png")
    (folder / "ship.gif").write_bytes(kinds.animation("GIF"))
    for each in kinds.KINDS:
        if each.title in _WRONG:
            (folder / _WRONG[each.title]).write_bytes(each.make())
    for name in ("drawing.svg", "sheet.pdf", "owl.kra", "IMG_2041.MOV", "more.zip", "._owl.jpg", "Thumbs.db", "IMG_2041.AAE", "what.xyz"):
        (folder / name).write_bytes(b"something else")
    Image.fromarray(np.repeat([[0, 255]], 100, axis=0).repeat(50, axis=1).astype(np.uint8)).save(folder / "gone_mask.png")
    (folder / "owl.txt").write_bytes("a Käuzchen in {trigger} style".encode("cp1252"))
    (folder / "ship.txt").write_text("a ship {mood}")
    (folder / "woodcut-ship.caption").write_text(" ")
    (folder / "harbour.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\1\2\3\4\5\6")
    (folder / "lighthouse.txt").write_text("nobody's")
    (folder / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\n{broken\n')
    (folder / "@eaDir").mkdir()
    (folder / "holder.png").mkdir()
    (folder / "others").mkdir()
    first.save(folder / "others" / "a.png")


def fuzz_table(count: int, seed: int, folder: Path) -> list[str]:
    """A row for pictures and one for captions: how many were read and named. Raises B4MError where one was neither."""
    rows = ["| broken files | read | left out, named | neither |", "|---|---|---|---|"]
    for title, run in (("pictures", fuzz.pictures), ("captions", fuzz.captions)):
        found = run(count, folder, seed)
        rows.append(f"| {count} {title} | {found.read.total()} | {found.named.total()} | {len(found.silent)} |")
        if found.silent:
            raise B4MError(f"Neither read nor named: {', '.join(found.silent[:20])}.")
    return rows
