"""What becomes of every kind of file, of a folder in which everything is wrong, and of files broken at random.

    python b4m.py bench inputs                    # tables of all kinds, the wrong folder, 500 broken pictures and 500 captions
    python b4m.py bench inputs --memory           # and the memory that photos of 200 megapixels take (some minutes)
    python b4m.py bench inputs --memory --paper   # and write docs/inputs.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from b4m_core import B4MError

from . import memory, paper

PAPER = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"
_BEGINNING = Path(__file__).with_name("inputs.md.txt")


def main(arguments: list[str]) -> int:
    """Print the tables, or write the paper."""
    parser = argparse.ArgumentParser(prog="b4m.py bench inputs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="how many pictures and captions are broken (500)")
    parser.add_argument("--seed", type=int, default=0, help="of what is broken (0)")
    parser.add_argument("--memory", action="store_true", help="measure photos of 200 megapixels too")
    parser.add_argument("--paper", action="store_true", help="write docs/inputs.md")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = _text(options, Path(folder))
    except B4MError as error:
        print(f"b4m: {error}", file=sys.stderr)
        return 1
    if options.paper:
        PAPER.write_text(text, encoding="utf-8")
    print(PAPER if options.paper else text)
    return 0


def _text(options: argparse.Namespace, folder: Path) -> str:
    wrong = "\n".join(f"    {line}" for line in _wrapped(paper.wrong_folder(folder / "wrong")))
    started = time.monotonic()
    fuzzed = "\n".join(paper.fuzz_table(options.count, options.seed, folder))
    seconds = time.monotonic() - started
    taken = "Not measured."
    if options.memory:
        rows = [f"| {title} | {more:.2f} GB |" for title, more in memory.measure()]
        taken = "\n".join(["| 16,320 x 12,240 pixels | more main memory, at the highest |", "|---|---|", *rows])
    table = "\n".join(paper.kinds_table(folder / "kinds"))
    words = {"KINDS": table, "WRONG": wrong, "FUZZ": fuzzed, "SEED": str(options.seed), "SECONDS": f"{seconds:.0f}", "MEMORY": taken}
    text = _BEGINNING.read_text(encoding="utf-8")
    for name, value in words.items():
        text = text.replace(f"<{name}>", value)
    return text


def _wrapped(lines: list[str], width: int = 112) -> list[str]:
    """Lines broken at words, those that go on set in."""
    found = []
    for line in lines:
        words = line.split(" ")
        current = words[0]
        for word in words[1:]:
            if len(current) + 1 + len(word) > width:
                found.append(current)
                current = "  " + word
            else:
                current += " " + word
        found.append(current)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
