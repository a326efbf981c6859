"""100,000 damaged and hostile files through every reader: our error or a right answer, at once, in little memory.

Time is that of the processor, since a busy machine is no fault of a file; a file that takes longer than 20 s by the clock counts as a hang.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from b4m_core import B4MError

from .readers import READERS, Reader
from .row import Row

FILES, QUICK = 100_000, 1_500
_MOST_SECONDS, _HANG = 1.0, 20
_SLACK = 48 << 20  # bytes: what a library loads when it is first used


@dataclass
class Tally:
    """What the files of one reader came to."""

    files: int = 0
    refused: int = 0
    raw: Counter[str] = field(default_factory=Counter)
    slow: int = 0
    large: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        return sum(self.raw.values()) + self.slow + self.large


class _Hang(BaseException):
    pass


def _alarm(number: int, frame: FrameType | None) -> None:
    raise _Hang


def peak_megabytes() -> float:
    """The most memory since the last :func:`reset_peak`, in MB."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak() -> None:
    """Linux forgets the peak when it is told so; elsewhere only the first of two equal peaks is seen."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def run(files: int, seed: int = 0, only: list[str] | None = None, keep: Path | None = None) -> dict[str, Tally]:
    """``files`` in all, by the readers' shares. ``keep``: a folder for one example of each fault."""
    names = only or list(READERS)
    whole = sum(READERS[name].share for name in names)
    tallies: dict[str, Tally] = {}
    signal.signal(signal.SIGALRM, _alarm)
    for name in names:
        reader = READERS[name]
        tallies[name] = _one_reader(name, reader, max(1, round(files * reader.share / whole)), random.Random(f"{seed}{name}"), keep)
    return tallies


def _one_reader(name: str, reader: Reader, count: int, draw: random.Random, keep: Path | None) -> Tally:
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="b4m-fuzz-") as place:
        folder = Path(place)
        (folder / "seeds").mkdir()
        seeds = reader.seeds(folder / "seeds")
        file = folder / "files" / f"file{reader.suffix}"
        file.parent.mkdir()
        file.write_bytes(seeds[0])
        reader.read(file)  # the whole one: what is loaded once is loaded now
        for number in range(count):
            raw = draw.choice(reader.changes)(draw, draw.choice(seeds), seeds)
            if number % 500 == 0:  # what readers leave beside the file, such as a cache, is met by the next ones
                shutil.rmtree(file.parent)
                file.parent.mkdir()
            file.write_bytes(raw)
            _one_file(file, reader, tally, keep and keep / f"{name.replace(':', '').replace(' ', '_')}{reader.suffix}")
    return tally


def _one_file(file: Path, reader: Reader, tally: Tally, keep: Path | None) -> None:
    reset_peak()
    before, began = peak_megabytes(), time.process_time()
    fault = ""
    signal.alarm(_HANG)
    try:
        reader.read(file)
    except B4MError as error:
        tally.refused += 1
        sentence = str(error)
        fault = "" if "\n" not in sentence and len(sentence) < 5000 else "not one sentence"
    except _Hang:
        fault = "hang"
    except Exception as error:
        fault = type(error).__name__
        tally.examples.setdefault(fault, str(error)[:200])
    finally:
        signal.alarm(0)
    seconds, grown = time.process_time() - began, peak_megabytes() - before
    tally.files += 1
    tally.seconds, tally.megabytes = max(tally.seconds, seconds), max(tally.megabytes, grown)
    if fault:
        tally.raw[fault] += 1
    elif seconds > _MOST_SECONDS:
        tally.slow += 1
        fault = "slow"
    elif grown * 2**20 > 2 * file.stat().st_size + _SLACK:
        tally.large += 1
        fault = "large"
    if fault and keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.with_stem(f"{keep.stem}_{fault.replace(' ', '_')}").write_bytes(file.read_bytes())


def row(tallies: dict[str, Tally]) -> Row:
    """All readers in one line."""
    raw = sum((tally.raw for tally in tallies.values()), Counter[str]())
    worst = f"{max(tally.seconds for tally in tallies.values()):.2f} s, +{max(tally.megabytes for tally in tallies.values()):.0f} MB"
    told = ", ".join(f"{count} {kind}" for kind, count in raw.most_common(5))
    files = sum(tally.files for tally in tallies.values())
    refused = sum(tally.refused for tally in tallies.values())
    return Row(
        f"damaged and hostile files through {len(tallies)} readers ({refused:,} refused in a sentence)",
        files,
        sum(tally.lost for tally in tallies.values()),
        f"{worst}{'; ' + told if told else ''}",
    )


def rows(quick: bool) -> list[Row]:
    """The table's line."""
    return [row(run(QUICK if quick else FILES))]


def written(tallies: dict[str, Tally]) -> str:
    """As JSON, reader by reader."""
    return json.dumps({name: {**vars(tally), "raw": dict(tally.raw)} for name, tally in tallies.items()}, indent=1) + "\n"
