"""What a training node shows while it runs: step, time left, loss curve, newest sample, notes.

The page gets each change as the event "b4m.training"; what it asks for later (after a reload, with another graph) shown.py answers.

Every display has a name, its run, which the node's result carries too (RUN_KEY): the host may hand out an older result without asking the
node, and then what that run came to is shown. Where a run did not come to its end, the host is told to ask the node again (`unfinished`).
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..b4m_core import B4MError, thumbnail
from . import host, shown
from .dataset import folder_fingerprint

EVENT, RUN_KEY, STORED_KEY = "b4m.training", "b4m_run", "b4m_stored"
_LEAST_SECONDS = 0.25  # between two events: the page need not draw faster
_CURVE_POINTS = 200
_SAMPLE_SIDE = 512  # pixels; a sample is shown at the width of a node

Phase = tuple[()] | tuple[str] | tuple[str, int, int]
"""Which of its trainings a node is at, for the page to say in its own language: the part, its number, and of how many."""

_unfinished: dict[str, int] = {}
"""How many runs of a node were stopped or failed."""


def unfinished(node_id: str | None) -> str:
    """Changes whenever a run of the node was stopped or failed: part of what the host goes by when it reuses a result.

    Older hosts do not say which node they ask about; they keep the results of the last prompt alone.
    """
    return str(_unfinished.get(node_id or "", 0))


class TrainingDisplay:
    """The live display of one training on one node; a display without a node id shows nothing."""

    def __init__(self, node_id: str | None, node_type: str, total: int, hidden: Any = None, phase: Phase = ()) -> None:
        """node_id: the hidden unique_id ("7", in subgraphs "1:2:7"); node_type: the node's id, e.g. "B4MTrainContent"; total: steps, 0
        until they are known.

        hidden: the node's, with the prompt and the page's workflow, by which a page finds the display later. phase: said before the step
        by a node that trains several times.
        """
        self.node_id, self._total, self._sent_at = node_id, total, -math.inf
        self.run = uuid.uuid4().hex
        self.goes_on = "What was trained is kept: Run goes on from here."
        self.stored, self.before_first = "", "It had not come to its first step."
        self._step = 0
        self._notes: list[str] = []
        self._unsent: dict[str, Any] = {}
        kind = node_type.removesuffix("Clone")  # the host runs a copy of the node's class, named after it
        self._send(
            {"state": "started", "type": kind, "step": 0, "total": total, "note": "", "phase": phase, **_whereabouts(node_id, hidden)}
        )

    def expect(self, total: int) -> None:
        """The training will have `total` steps."""
        self._total = total
        self._send({"total": total})

    def later(self, seconds: float) -> None:
        """Trainings of the same node that come after this one will take about so long."""
        self._send({"later": round(seconds, 1)})

    def earlier(self, trainings: Sequence[tuple[str, str]]) -> None:
        """The node's trainings before this one: the part, and the run in the run store whose samples stay in sight."""
        self._send({"earlier": [list(each) for each in trainings]})

    def auxiliary(self, done: int, total: int) -> None:
        """Show that auxiliary picture `done` + 1 of `total` is being painted."""
        self.before_first = "The auxiliary pictures painted so far are kept: Run paints the rest."
        self._send({"state": "auxiliary", "encoding": [min(done + 1, total), total]})

    def stored_as(self, key: str, reach: int = 0) -> None:
        """Name the run in the run store, by which what is kept of it is asked for (kept.py), and the step that it has come to before."""
        self.stored = key
        if reach:
            self.before_first = f"It had not come to a further step; step {reach} is kept: Run goes on from there."
        self._send({"stored": key})

    def encoding(self, done: int, total: int) -> None:
        """Show that picture `done` + 1 of `total` is being encoded; at most four times a second."""
        if time.monotonic() - self._sent_at >= _LEAST_SECONDS:
            self._send({"state": "encoding", "encoding": [done + 1, total]})
            self._sent_at = time.monotonic()

    def update(self, step: int, losses: Sequence[float], seconds_left: float | None) -> None:
        """Show `step` of the total and the curve of all losses so far (one a step); at most four times a second."""
        self._step = step
        self._unsent = {"state": "training", "step": step, "seconds_left": seconds_left, "losses": losses}
        if time.monotonic() - self._sent_at >= _LEAST_SECONDS or step >= self._total:
            self._flush()

    def show_losses(self, steps: Sequence[int], losses: Sequence[float]) -> None:
        """Show the curve of a training that was done before, from the losses that its adapter kept; its sample is painted next."""
        self._step = int(steps[-1]) if steps else self._total
        self.goes_on = "The training itself was done before and is kept."
        self._send({"state": "painting", "step": self._step, "curve": curve(losses, steps)})

    def show_sample(self, picture: Tensor, step: int) -> None:
        """Show a picture (H, W, 3) in 0..1 as the newest sample."""
        self._send({"sample": {"url": data_url(picture), "step": step}})

    def say(self, sentence: str) -> None:
        """Add a note, e.g. about a picture that was left out."""
        self._notes.append(sentence)
        self._send({"note": "\n".join(self._notes)})

    def finish(self, state: str, sentence: str) -> None:
        """End with state "done", "reused", "stopped" or "failed" and a closing sentence."""
        self._flush()
        self._send({"state": state, "seconds_left": None, "end": sentence})
        if self.node_id is not None and state not in ("done", "reused"):
            _unfinished[self.node_id] = _unfinished.get(self.node_id, 0) + 1

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Whatever ends the block early ends the display, with what happened in words."""
        try:
            yield
        except host.Cancelled:
            self.finish("stopped", f"Stopped. {self._kept()}")
            raise
        except B4MError as error:
            self.finish("failed", str(error))
            raise
        except Exception as error:
            self.finish("failed", f"Stopped by an error: {in_words(error)}. {self._kept()}")
            raise
        except BaseException:
            self.finish("stopped", f"ComfyUI was ended. {self._kept()}")
            raise

    def _kept(self) -> str:
        return self.goes_on if self._step else self.before_first

    def _flush(self) -> None:
        """Send the newest update if it was held back."""
        if self._unsent:
            losses = self._unsent.pop("losses")
            last = self._unsent["step"]
            self._send({**self._unsent, "curve": curve(losses, range(last - len(losses) + 1, last + 1))})
            self._unsent, self._sent_at = {}, time.monotonic()

    def _send(self, payload: dict[str, Any]) -> None:
        if self.node_id is not None:
            told = {**payload, "node": self.node_id, "run": self.run, "at": time.time()}
            shown.remember(told)
            host.send_event(EVENT, told)


def _whereabouts(node_id: str | None, hidden: Any) -> dict[str, str]:
    """What a page finds a run by: the content of the graph that leads to its node; the workflow and the page that it was started from."""
    graph = host.ask(hidden, "prompt")
    extra = host.ask(hidden, "extra_pnginfo")
    workflow = extra.get("workflow") if isinstance(extra, dict) else None
    key = shown.graph_key(graph, node_id, folder_fingerprint) if node_id and isinstance(graph, dict) and node_id in graph else ""
    workflow_id = str(workflow.get("id") or "") if isinstance(workflow, dict) else ""
    return {"key": key, "graph": workflow_id, "page": host.running_page()}


def curve(losses: Sequence[float], steps: Sequence[int]) -> dict[str, list[Any]]:
    """The losses of `steps`, thinned to at most 200 points: steps, raw values and their smoothed course (None for NaN)."""
    smooth, average, weight = [], 0.0, 0.0
    keep = max(1 - 20 / max(len(losses), 1), 0.8)  # forgets within about a twentieth of the run
    for loss in losses:
        if math.isfinite(loss):
            average, weight = keep * average + (1 - keep) * loss, keep * weight + 1 - keep
        smooth.append(average / weight if weight else math.nan)
    shown = _spread(len(losses), _CURVE_POINTS)
    return {
        "steps": [int(steps[index]) for index in shown],
        "raw": [_number(losses[index]) for index in shown],
        "smooth": [_number(smooth[index]) for index in shown],
    }


def data_url(picture: Tensor) -> str:
    """A picture (H, W, 3) in 0..1 as a JPEG data URL no larger than 512 pixels."""
    return thumbnail.data_url(picture, _SAMPLE_SIDE)


def in_words(error: BaseException) -> str:
    """An error that is not ours, on one short line."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "memory ran out"
    lines = str(error).strip().splitlines() or ["without a word"]
    return f"{lines[0][:200].rstrip('.')} ({type(error).__name__})"


def _spread(count: int, most: int) -> list[int]:
    """Indices spread evenly over `count` values, the last one always among them."""
    if count <= most:
        return list(range(count))
    return [round((index + 1) * count / most) - 1 for index in range(most)]


def _number(value: float) -> float | None:
    """JSON has no NaN: browsers refuse a message that holds one."""
    return round(float(value), 6) if math.isfinite(value) else None
