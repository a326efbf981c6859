"""Hundreds of trainings in one process, as a queue overnight has them: what main memory and the run store grow by."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

from b4m_core import RunStore

from .small_training import plan, trained

Line = tuple[str, int, int, str, str]
MOST_BYTES = 30 * 10**6
SETTLED = 0.2  # of the trainings are over before memory is compared: libraries fill their caches


def rows(quick: bool) -> list[Line]:
    """The lines of the table."""
    count = 15 if quick else 500
    memory, store = [], []
    with tempfile.TemporaryDirectory(prefix="b4m-row-") as place:
        kept = RunStore(Path(place), most_bytes=MOST_BYTES)
        for number in range(count):
            trained(plan(steps=2, seed=number), kept, every_step=False)
            gc.collect()
            memory.append(_resident())
            store.append(sum(entry.bytes for entry in kept.entries()))
    settled = int(count * SETTLED)
    each = (memory[-1] - memory[settled]) / (count - 1 - settled)
    grown = f"{each / 1e6:+.3f} MB of main memory each after the first {settled + 1}, {(memory[-1] - memory[settled]) / 1e6:+.1f} MB in all"
    over = sum(size > MOST_BYTES for size in store)
    return [
        ("trainings in a row in one process: main memory", count, 0, grown, ""),
        ("the same: the store over its bound of 30 MB", count, over, f"{max(store) / 1e6:.1f} MB at most", ""),
    ]


def _resident() -> int:
    """Bytes of main memory that this process has; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
