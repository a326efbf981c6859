"""What a training node shows while it runs: step, time left, loss curve, newest sample, notes.

The page gets each change as the event "b4m.training"; a page that was reloaded asks GET /b4m/live for everything at once.

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
from . import host

EVENT, ROUTE, RUN_KEY, STORED_KEY = "b4m.training", "/b4m/live", "b4m_run", "b4m_stored"
_LEAST_SECONDS = 0.25  # between two events: the page need not draw faster
_CURVE_POINTS = 200
_SAMPLE_SIDE = 512  # pixels; a sample is shown at the width of a node
_REMEMBERED_NODES, _REMEMBERED_RUNS = 50, 20

_latest: dict[str, dict[str, Any]] = {}
_ended: dict[str, dict[str, Any]] = {}
"""Runs that came to their end, by name, as they stood then."""
_unfinished: dict[str, int] = {}
"""How many runs of a node did not."""


def add_routes() -> None:
    """Register GET /b4m/live (no parameters). Must be called while the host starts."""
    host.add_json_route(ROUTE, lambda: {"nodes": [_true_state(node) for node in list(_latest)], "ended": list(_ended.values())})


def _true_state(node_id: str) -> dict[str, Any]:
    """What a node shows: its newest run, or an older one whose result the host handed out after that."""
    newest = _latest[node_id]
    run, when = host.newest_result(node_id, RUN_KEY) or ("", 0.0)
    return _ended[run] if run in _ended and when > newest["at"] else newest


def unfinished(node_id: str | None) -> str:
    """Changes whenever a run of the node was stopped or failed: part of what the host goes by when it reuses a result.

    Older hosts do not say which node they ask about; they keep the results of the last prompt alone.
    """
    return str(_unfinished.get(node_id or "", 0))


def send(node_id: str, payload: dict[str, Any]) -> None:
    """Merge `payload` into what is known of a node and send it to all pages; a payload with "state": "started" replaces what was there."""
    before = {} if payload.get("state") == "started" else _latest.pop(node_id, {})
    _latest.pop(node_id, None)
    _latest[node_id] = {**before, **payload, "node": node_id, "at": time.time()}
    while len(_latest) > _REMEMBERED_NODES:
        del _latest[next(iter(_latest))]
    host.send_event(EVENT, {**payload, "node": node_id})


class TrainingDisplay:
    """The live display of one training on one node; a display without a node id shows nothing."""

    def __init__(self, node_id: str | None, node_type: str, total: int) -> None:
        """node_id: the hidden unique_id ("7", in subgraphs "1:2:7"); node_type: the node's id, e.g. "B4MTrainContent"; total: steps."""
        self.node_id, self._total, self._sent_at = node_id, total, -math.inf
        self.run = uuid.uuid4().hex
        self.goes_on = "What was trained is kept: Run goes on from here."
        self.stored = ""
        self._step = 0
        self._notes: list[str] = []
        self._unsent: dict[str, Any] = {}
        kind = node_type.removesuffix("Clone")  # the host runs a copy of the node's class, named after it
        self._send({"state": "started", "run": self.run, "type": kind, "step": 0, "total": total, "note": ""})

    def stored_as(self, key: str) -> None:
        """Name the run in the run store, by which what is kept of it is asked for (kept.py)."""
        self.stored = key
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
        if self.node_id is None:
            return
        if state in ("done", "reused"):
            _ended[self.run] = _latest[self.node_id]
            while len(_ended) > _REMEMBERED_RUNS:
                del _ended[next(iter(_ended))]
        else:
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
        return self.goes_on if self._step else "It had not come to its first step."

    def _flush(self) -> None:
        """Send the newest update if it was held back."""
        if self._unsent:
            losses = self._unsent.pop("losses")
            last = self._unsent["step"]
            self._send({**self._unsent, "curve": curve(losses, range(last - len(losses) + 1, last + 1))})
            self._unsent, self._sent_at = {}, time.monotonic()

    def _send(self, payload: dict[str, Any]) -> None:
        if self.node_id is not None:
            send(self.node_id, payload)


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
