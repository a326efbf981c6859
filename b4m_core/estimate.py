"""What a training will take, before it runs: minutes and memory.

The time of a pass through the network is what earlier trainings of this machine took, kept in the run store; for sizes
that were not measured it is scaled by the arithmetic in a pass. Where nothing was measured the arithmetic is divided by
what the machine should reach. docs/speed.md says how well that holds.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from .atomic import write_atomically
from .errors import B4MError
from .planner import ADAPTER, CONVOLUTIONS, GIB, MEMORY_MODES, fastest_way

_KEPT = 5  # of the newest measurements of one size
_LAUNCHES = {"cuda": 0.021}  # seconds of a pass that are not arithmetic: reading batches, launching, stepping
_CONVOLUTIONS = {"cuda": 0.004}  # what those of adapted convolutions add
_WORDS = {"cuda": 0.05}  # a step's launches of both text encoders: .04 to .06 on an H100 (docs/speed.md)
_TOKENS = 77
_REACHED = {"cuda": 0.45, "cpu": 0.75}  # of what a product of large matrices reaches, or of what the makers publish
_FORWARD = 0.45  # of a pass forward and back


@dataclass(frozen=True)
class Kind:
    """A kind of base model (see presets.kind_of): the TFLOP of one row forward and back, by latent pixels n as
    ``linear`` n + ``square`` n^2, and of the updates of its convolutions as ``convolution`` n for each rank, more than
    their arithmetic, since they read and write more than they multiply; its bytes: of the network, of one rank of an
    adapter with all that trains it, of what its ``convolutions`` add to that, what a step keeps beside, as a share of
    SDXL's, and of the ``text_encoders``, which learned words want on the card.
    """

    linear: float
    square: float
    convolution: float
    network: int
    adapter: int
    convolutions: int
    share: float
    text_encoders: int

    def read(self, prompts: float) -> float:
        """TFLOP of so many prompts twice forward and once back through the text encoders, of two bytes a weight."""
        return 3 * prompts * _TOKENS * self.text_encoders * 1e-12

    def work(self, rows: int, latent_pixels: int, rank: int = 0) -> float:
        """TFLOP of ``rows`` rows forward and back, with convolutions adapted at ``rank``, or not at all."""
        return rows * ((self.linear + self.convolution * rank) * latent_pixels + self.square * latent_pixels**2)


KINDS = {
    "sdxl": Kind(7.71e-4, 8.44e-9, 2e-6, int(4.8 * GIB), ADAPTER, CONVOLUTIONS, 1.0, int(1.52 * GIB)),
    "embedded": Kind(1.45e-5, 1.2e-9, 2.4e-7, int(0.06 * GIB), ADAPTER // 80, CONVOLUTIONS // 7, 0.05, int(0.016 * GIB)),
}
"""SDXL: 3.3 TFLOP at 512 and 14.9 at 1024 px (docs/speed.md). The embedded model: 8.7 GFLOP at 192 px."""


@dataclass(frozen=True)
class Machine:
    """What computes: its name and type ("cuda", "cpu", ...), what it reaches at best in TFLOP/s, and its bytes."""

    name: str
    type: str
    tflops: float
    memory: int


@dataclass(frozen=True)
class Work:
    """One training: ``passes`` forward and back of ``rows`` rows of ``latent_pixels``, and ``painted`` passes of two
    rows forward, of ``painted_pixels`` where that is not the trained size: those of sample and auxiliary pictures.
    ``convolutions``: whether these are adapted too. ``words``: in how many steps words are learned, 0 for none.
    """

    kind: str
    passes: int
    rows: int
    latent_pixels: int
    painted: int
    rank: int
    painted_pixels: int = 0
    convolutions: bool = False
    words: int = 0

    @property
    def trained(self) -> str:
        """What its passes are called among those that were timed."""
        return passes_with(self.convolutions, bool(self.words))


def passes_with(convolutions: bool, words: bool) -> str:
    """What the passes of a training are called among those that were timed."""
    beside = [name for name, there in (("convolutions", convolutions), ("words", words)) if there]
    return f"train with {' and '.join(beside)}" if beside else "train"


class Speeds:
    """What passes took on this machine: a small file of its own in the run store."""

    def __init__(self, root: Path) -> None:
        self._file = root / "speeds.json"

    def _read(self) -> dict[str, list[float]]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {
            key: [float(value) for value in values]
            for key, values in (found.items() if isinstance(found, dict) else ())
            if isinstance(values, list) and values and all(isinstance(value, (int, float)) and value > 0 for value in values)
        }

    def note(self, machine: Machine, what: str, kind: str, rows: int, latent_pixels: int, seconds: float) -> None:
        """Keep the seconds of one pass; ``what`` is one of :func:`passes_with`'s or "paint". A store that cannot be
        written keeps nothing.
        """
        known, key = self._read(), _key(machine, what, kind, rows, latent_pixels)
        known[key] = [*known.get(key, []), round(seconds, 6)][-_KEPT:]
        self._write(known)

    def seconds(self, machine: Machine, what: str, kind: str, rows: int, latent_pixels: int) -> float | None:
        """The seconds of one pass: of this size where it was measured, else scaled from the nearest; None without any."""
        start = _key(machine, what, kind, 0, 0).rsplit("|", 1)[0] + "|"
        sizes = {tuple(map(int, key[len(start) :].split("x"))): each for key, each in self._read().items() if key.startswith(start)}
        if not sizes:
            return None
        wanted = KINDS[kind].work(rows, latent_pixels)
        work = {size: KINDS[kind].work(size[0], size[1]) for size in sizes}
        nearest = min(sizes, key=lambda size: abs(work[size] - wanted))
        fixed = _LAUNCHES.get(machine.type, 0.0)
        measured = statistics.median(sizes[nearest])
        return fixed + max(measured - fixed, measured / 10) * wanted / work[nearest] if nearest != (rows, latent_pixels) else measured


    def remember(self, name: str) -> None:
        """Keep that something was done on this machine."""
        self._write(self._read() | {name: [1.0]})

    def remembers(self, name: str) -> bool:
        """Whether it was."""
        return name in self._read()

    def _write(self, known: dict[str, list[float]]) -> None:
        try:
            write_atomically(self._file, [json.dumps(known, indent=1).encode()], check=lambda partial: None)
        except B4MError:
            pass  # an estimate is no reason to end a training that is done


def _key(machine: Machine, what: str, kind: str, rows: int, latent_pixels: int) -> str:
    return f"{machine.name}|{what}|{kind}|{rows}x{latent_pixels}"


@dataclass(frozen=True)
class Estimate:
    """What a training will take; ``measured`` where it comes from passes that were timed on this machine."""

    seconds: float
    gib: float
    measured: bool


def estimate(work: Work, machine: Machine, speeds: Speeds) -> Estimate:
    """The time and the memory of a training."""
    kind = KINDS[work.kind]
    mode, gib = _memory(work, machine)
    trained = speeds.seconds(machine, work.trained, work.kind, work.rows, work.latent_pixels)
    painted_pixels = work.painted_pixels or work.latent_pixels
    painted = speeds.seconds(machine, "paint", work.kind, 2, painted_pixels)
    reached = machine.tflops * _REACHED.get(machine.type, 0.45)
    fixed = _LAUNCHES.get(machine.type, 0.0)
    if painted is None:
        painted = kind.work(2, painted_pixels) * _FORWARD / reached + fixed / 2
    computed = trained is None
    if trained is None:
        twice = 1.4 if MEMORY_MODES[mode].gradient_checkpointing else 1.0
        streamed = 0.12 if MEMORY_MODES[mode].offload else 0.0  # seconds for half of SDXL over the bus, there and back
        rank = work.rank * work.convolutions
        fixed += _CONVOLUTIONS.get(machine.type, 0.0) * work.convolutions
        trained = fixed + kind.work(work.rows, work.latent_pixels, rank) / reached * twice + streamed
        if work.words:  # no more prompts than rows; what a step adds to all of its passes
            steps = work.words * _WORDS.get(machine.type, 0.0)
            trained += kind.read(work.rows / 2) / reached + steps / max(work.passes, 1)
    return Estimate(work.passes * trained + work.painted * painted, gib, not computed)


def _memory(work: Work, machine: Machine) -> tuple[int, float]:
    """The number of the way that the planner will take, and the GiB that it holds."""
    kind = KINDS[work.kind]
    held = kind.network + work.rank * (kind.adapter + kind.convolutions * work.convolutions)
    held += kind.text_encoders if work.words else 0
    mode = 0
    if machine.type == "cuda" and kind.share == 1.0:
        mode = fastest_way(machine.memory - held - GIB, work.rows, work.latent_pixels, 0, work.convolutions)
    return mode, (held + max(0, MEMORY_MODES[mode].needed(work.rows, work.latent_pixels, work.convolutions)) * kind.share) / GIB
