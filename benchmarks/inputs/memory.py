"""Main memory that a photo of 200 megapixels takes while it is read, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 16_320, 12_240
FILES = {
    "JPEG": ("RGB", "a.jpg", {"quality": 30}),
    "JPEG, CMYK": ("CMYK", "a.jpg", {"quality": 30}),
    "PNG": ("RGB", "a.png", {"compress_level": 1}),
    "PNG with transparency": ("RGBA", "a.png", {"compress_level": 1}),
    "PNG, palette": ("P", "a.png", {"compress_level": 1}),
    "PNG, grey of 16 bit": ("I;16", "a.png", {"compress_level": 1}),
    "TIFF, floating point": ("F", "a.tif", {}),
    "TIFF": ("RGB", "a.tif", {"compression": "tiff_lzw"}),
}


def measure(titles: list[str] | None = None) -> list[tuple[str, float]]:
    """(kind, GB more than before at the highest) for every kind of file."""
    rows = []
    for title in titles or FILES:
        with tempfile.TemporaryDirectory() as folder:
            _child("make", title, folder)
            rows.append((title, json.loads(_child("read", title, folder)) / 1e9))
    return rows


def _child(task: str, title: str, folder: str) -> str:
    command = [sys.executable, "-m", "benchmarks.inputs.memory", task, title, folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _make(title: str, folder: Path) -> None:
    mode, name, options = FILES[title]
    noise = Image.effect_noise((255, 240), 80).convert("RGB")
    tile = Image.new(mode, noise.size, {"I;16": 9000, "F": 0.5}[mode]) if mode in ("I;16", "F") else noise.convert(mode)
    whole = Image.new(mode, (WIDTH, HEIGHT))
    if mode == "P":
        whole.putpalette(tile.getpalette() or [])
    for left in range(0, WIDTH, 255 * 4):
        whole.paste(tile, (left, 0))
        whole.paste(tile, (left, HEIGHT // 2))
    whole.save(folder / name, **options)  # type: ignore[arg-type]


def _read(folder: Path) -> int:
    """Bytes more than before, at the highest."""
    import resource  # not on Windows

    from b4m_core.pictures import load_folder

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pictures = load_folder(folder, trigger="snq", class_word="", pattern="a {trigger}")
    assert pictures.pictures[0].original == (HEIGHT, WIDTH), pictures.notes
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make(sys.argv[2], Path(sys.argv[3]))
    else:
        print(_read(Path(sys.argv[3])))
