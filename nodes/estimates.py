"""What the trainings of an open graph will take, before they run; and the clock that the next estimates come from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..b4m_core import B4MError, TrainingSettings, read_facts
from ..b4m_core.estimate import Estimate, Machine, Speeds, Work, estimate, passes_with
from ..b4m_core.layers import CONVOLUTIONS
from ..b4m_core.presets import DEFAULT, Preset, filled, kind_of, preset_named
from ..b4m_core.trainings import training
from . import host
from .adapter import path_of

ROUTE = "/b4m/estimate"
_ROLES = {"B4MTrainContent": "content", "B4MTrainStyle": "style", "B4MTrainTogether": "together"}
_EMBEDDED, _EMBEDDED_SIZE, _REAL_SIZE = "B4MMiniModel", 192, 1024
_AUXILIARY_STEPS = 25  # sampler steps of an auxiliary picture
_SETS = 4  # of auxiliary pictures that come by wire
_OTHER_WIRES = ("model", "clip", "vae", "pictures", "content_pictures", "style_pictures")  # which bring no adapter
_WARM_UP = 2  # steps that are not counted: the first ones compile and allocate
_UNKNOWN = (B4MError, TypeError, ValueError, KeyError, RuntimeError)
"""What a value that no training can have, or a device that cannot be asked, ends in: then nothing is said."""

Graph = Mapping[str, Mapping[str, Any]]


def speeds() -> Speeds:
    """What was timed on this machine."""
    return Speeds(host.run_store_folder())


def add_route() -> None:
    """Register POST /b4m/estimate. Must be called while the host starts.

    Asked {"prompt": the open graph as /prompt takes it}, it answers {"nodes": {execution id: {"seconds", "gib", "measured", "machine"}}}.
    """
    host.add_json_route(ROUTE, _answer)


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    graph = asked.get("prompt")
    graph = {str(name): node for name, node in graph.items() if isinstance(node, dict)} if isinstance(graph, dict) else {}
    found = {name: _of_node(graph, name) for name in graph if graph[name].get("class_type") in (*_ROLES, "B4MTrain")}
    return {"nodes": {name: each for name, each in found.items() if each}}


def _of_node(graph: Graph, name: str) -> dict[str, Any] | None:
    """The estimate of one training node, None where a value is no number that a training can have."""
    try:
        works = works_of(graph, name)
        machine, known = host.machine(), speeds()
    except _UNKNOWN:
        return None
    each = [estimate(work, machine, known) for work in works]
    total = Estimate(sum(one.seconds for one in each), max(one.gib for one in each), all(one.measured for one in each))
    return {"seconds": round(total.seconds, 1), "gib": round(total.gib, 1), "measured": total.measured, "machine": machine.name}


def works_of(graph: Graph, name: str) -> list[Work]:
    """The trainings of one node, auxiliary pictures that it paints itself among them."""
    node = graph[name]
    inputs = {key: value for key, value in node.get("inputs", {}).items() if not isinstance(value, list)}
    wires = {key for key, value in node.get("inputs", {}).items() if isinstance(value, list)}
    embedded = _EMBEDDED in _types_upstream(graph, name)
    size = _EMBEDDED_SIZE if embedded else _REAL_SIZE
    kind = kind_of("sdxl", size)
    preset = preset_named(inputs.get("preset", DEFAULT), kind)
    if node["class_type"] in _ROLES:
        role = _ROLES[node["class_type"]]
        sets = _SETS * len(wires & {"auxiliary", "content_auxiliary", "style_auxiliary"}) + (role == "together")
        if role == "together" and _has_convolutions(graph, name):
            inputs = inputs | {"layers": CONVOLUTIONS}
        return [_work(role, inputs, preset, kind, size, sets)]
    return _works_of_all(inputs, wires, preset, kind, size, painted_before(graph, name, preset))


def _works_of_all(inputs: dict[str, Any], wires: set[str], preset: Preset, kind: str, size: int, painted: bool) -> list[Work]:
    """Those of B4M Train."""
    steps = int(inputs.get("together_steps", -1))
    together = inputs | {"steps": max(steps, 0), "learning_rate": inputs.get("together_learning_rate", "preset")}
    sets = {role: _SETS if f"{role}_auxiliary" in wires else preset.auxiliary_sets for role in ("content", "style")}
    works = [_work(role, inputs, preset, kind, size, sets[role]) for role in ("content", "style")]
    if preset.trains_together if steps == -1 else steps:
        works.append(_work("together", together, preset, kind, size, 1 + (sum(sets.values()) if preset.keeps_together else 0)))
    open_ends = 0 if painted else 2 - len(wires & {"content_auxiliary", "style_auxiliary"})
    pictures = open_ends * preset.auxiliary_sets * preset.auxiliary_pictures
    return [*works, Work(kind, 0, works[0].rows, works[0].latent_pixels, pictures * _AUXILIARY_STEPS, works[0].rank)]


def _work(role: str, inputs: Mapping[str, Any], preset: Preset, kind: str, size: int, other_sets: int) -> Work:
    blank = {"steps": 0, "batch_size": 0, "gradient_accumulation_steps": 0, "rank": 0, "resolution": 0, "sample_every": -1}
    chosen = filled({**blank, **inputs}, preset, role)
    rows = int(chosen["batch_size"]) * (1 + training(role, TrainingSettings.correspondence).rows_beside(other_sets))
    steps, every = int(chosen["steps"]), int(chosen["sample_every"])
    samples = -(-steps // every) if every > 0 else 0
    pixels = (min(int(chosen["resolution"]), size) // 8) ** 2
    passes, painted = steps * int(chosen["gradient_accumulation_steps"]), samples * int(inputs.get("sample_steps", 25))
    convolutions = inputs.get("layers") == CONVOLUTIONS
    words = steps if inputs.get("textual_inversion") is True and role != "together" else 0
    return Work(kind, passes, rows, pixels, painted, int(chosen["rank"]), (size // 8) ** 2, convolutions, words)


def _has_convolutions(graph: Graph, name: str) -> bool:
    """Whether an adapter that a node gets was trained with its convolutions, or will be: in the graph, or in a file."""
    seen, open_ends = set[str](), [name]
    while open_ends:
        node = graph[open_ends.pop()]
        wires = [value for key, value in node.get("inputs", {}).items() if isinstance(value, list) and value and key not in _OTHER_WIRES]
        above = {str(wire[0]) for wire in wires} & graph.keys() - seen
        if any(_layers_of(graph[each]) == CONVOLUTIONS for each in above):
            return True
        seen |= above
        open_ends += above
    return False


def _layers_of(node: Mapping[str, Any]) -> str:
    """What a node trains by its widget, or what the file that it loads was trained with; nothing where it does neither."""
    inputs = node.get("inputs", {})
    if node.get("class_type") == "B4MLoadAdapter":
        with suppress(*_UNKNOWN, OSError):
            return read_facts(path_of(inputs["filename"])).layers
    return str(inputs.get("layers", ""))


def _types_upstream(graph: Graph, name: str) -> list[str]:
    """The types of the nodes that a node's model comes through, the nearest first."""
    types: list[str] = []
    wire = graph[name].get("inputs", {}).get("model")
    while isinstance(wire, list) and str(wire[0]) in graph and len(types) <= len(graph):
        node = graph[str(wire[0])]
        types.append(str(node.get("class_type")))
        wire = node.get("inputs", {}).get("model")
    return types


def painted_before(graph: Graph | None, name: str | None, preset: Preset) -> bool:
    """Whether B4M Train has painted its auxiliary pictures with this model and preset on this machine."""
    return speeds().remembers(_painted_name(graph, name, preset))


def remember_painted(graph: Graph | None, name: str | None, preset: Preset) -> None:
    """They are painted now."""
    speeds().remember(_painted_name(graph, name, preset))


def _painted_name(graph: Graph | None, name: str | None, preset: Preset) -> str:
    model = host.checkpoint_name(graph, name) or " ".join(_types_upstream(graph, name) if graph and name and name in graph else [])
    return f"auxiliary of {model}|{preset.auxiliary_sets}x{preset.auxiliary_pictures}|{preset.resolution}"


class Clock:
    """Times the passes of one training, what is painted in between taken off."""

    def __init__(
        self,
        kind: str,
        rows: int,
        latent_pixels: int,
        painted_pixels: int,
        passes_a_step: int,
        *,
        convolutions: bool = False,
        words: bool = False,
    ) -> None:
        self.kind, self.rows, self.passes_a_step, self.called = kind, rows, passes_a_step, passes_with(convolutions, words)
        self.latent_pixels, self.painted_pixels = latent_pixels, painted_pixels
        self._last: float | None = None
        self._aside = 0.0
        self._steps: list[float] = []
        self._painted: list[float] = []

    def step(self) -> None:
        """A step is done."""
        now = time.monotonic()
        if self._last is not None:
            self._steps.append(now - self._last - self._aside)
        self._last, self._aside = now, 0.0

    @contextmanager
    def painting(self, sampler_steps: int) -> Iterator[None]:
        """A picture is painted in so many sampler steps."""
        before = time.monotonic()
        yield
        seconds = time.monotonic() - before
        self._aside += seconds
        self._painted.append(seconds / sampler_steps)

    def keep(self) -> None:
        """Keep what was timed for the next estimates."""
        with suppress(*_UNKNOWN):  # an estimate is no reason to end a training that is done
            self._keep(speeds(), host.machine())

    def _keep(self, known: Speeds, machine: Machine) -> None:
        steps = self._steps[_WARM_UP:]
        if len(steps) > _WARM_UP:
            known.note(machine, self.called, self.kind, self.rows, self.latent_pixels, statistics.mean(steps) / self.passes_a_step)
        if self._painted:
            known.note(machine, "paint", self.kind, 2, self.painted_pixels, statistics.median(self._painted))


def later(graph: Graph | None, name: str | None, done: int) -> float:
    """Seconds that the trainings of a B4M Train will take after its first `done`."""
    if not graph or not name or name not in graph:
        return 0.0
    try:
        trainings = [work for work in works_of(graph, name) if work.passes]
        machine, known = host.machine(), speeds()
    except _UNKNOWN:
        return 0.0
    return sum(estimate(work, machine, known).seconds for work in trainings[done:])
