"""When a training keeps what it has, and what it does when it cannot.

A disk that is full, or away, ends no training: what could not be kept is told once and tried again. What is not a
number is never kept.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from .adapter import Adapter
from .attempts import STATES, Attempt
from .engine import Engine
from .errors import B4MError
from .memory import is_out_of_memory

SAVE_SECONDS = 60.0
KEEP_EVERY = 100
"""Steps between two adapters that are kept."""
LAST_TRIES, LAST_PAUSE = 6, 10.0
"""How often the result is tried to be kept at the end, and the seconds between two tries."""
_ROOM_FOR_SAMPLES = 20 * 10**6

Losses = Sequence[Sequence[float]]


class KeptElsewhere:
    """In place of a :class:`Keeper`, beside the first of several processes: that one keeps what all of them learned. ``adapter`` is
    the live one.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def require_room(self) -> None:
        """Nothing is written here."""

    def due(self, step: int) -> bool:
        """Never."""
        return False

    def keep(self, step: int) -> None:
        """Nothing is due."""

    def stop(self) -> int:
        """No step is kept here."""
        return 0

    def finish(self) -> Adapter:
        """The adapter as it stands here; the first process has the one that was kept and read back."""
        return self.adapter


class Keeper:
    """Keeps one training: the state every minute and at its end, the adapter every ``every`` steps and at its end.

    ``losses`` gives the thinned and the whole losses so far. ``tell`` gets sentences for the artist.
    """

    def __init__(
        self,
        attempt: Attempt,
        engine: Engine,
        adapter: Adapter,
        losses: Callable[[], tuple[Losses, Losses]],
        every: int,
        tell: Callable[[str], None],
    ) -> None:
        self.attempt, self.engine, self.adapter, self.losses = attempt, engine, adapter, losses
        self.every, self._tell = every, tell
        self._tried = time.monotonic()
        self._kept = engine.steps  # the newest step whose state is there
        self._troubled = self._stopping = False

    def require_room(self) -> None:
        """Raise :class:`B4MError` unless the disk has room for the states, the adapter and the samples of a training."""
        numbers = sum(part.numel() for half in self.engine.learned.halves for part in half)
        whole = self.adapter.learned_numbers() + self.adapter.frozen_numbers()
        wanted = 4 * (3 * (STATES + 1) * numbers + 2 * whole) + _ROOM_FOR_SAMPLES
        folder = next(place for place in (self.attempt.folder, *self.attempt.folder.parents) if place.exists())
        there = sum(file.stat().st_size for file in self.attempt.folder.glob("*-*.*"))
        with contextlib.suppress(OSError):  # a file system that does not say how much is free is tried
            free = shutil.disk_usage(folder).free
            if free + there < wanted:
                raise B4MError(
                    f"The disk of {folder} has {free / 1e6:.0f} MB free, and this training keeps up to "
                    f"{wanted / 1e6:.0f} MB there while it goes: free some space, then run it again."
                )

    def due(self, step: int) -> bool:
        """Whether something is to be kept after ``step``."""
        return self._state_is_due() or self._adapter_is_due(step)

    def _state_is_due(self) -> bool:
        return time.monotonic() - self._tried > SAVE_SECONDS

    def _adapter_is_due(self, step: int) -> bool:
        return bool(self.every) and step % self.every == 0

    def keep(self, step: int) -> None:
        """Keep what is due after ``step``. Raises :class:`B4MError` for what is not a number, and for nothing else."""
        self.engine.require_finite(self._kept)
        if self._adapter_is_due(step):
            self._keep_adapter()
        if self._state_is_due():
            self._keep_state()
            self._tried = time.monotonic()

    def stop(self) -> int:
        """Keep what there is of a training that is stopped; the step that it can go on from, 0 for none."""
        if self.engine.consistent and self.engine.steps > self._kept and self._is_finite():
            self._stopping, self._troubled = True, False
            self._keep_state()
            self._keep_adapter()
        return self._kept

    def finish(self) -> Adapter:
        """Keep the result, and the state from which more steps can be trained; the adapter as it was read back, or as
        it is where the disk has no room even after some tries.
        """
        self.engine.require_finite(self._kept)
        for pause in (*[LAST_PAUSE] * (LAST_TRIES - 1), None):
            if self._keep_adapter() and (result := self.attempt.adapter(self.engine.steps)) is not None:
                if self.engine.steps > self._kept:
                    self._keep_state()
                return result
            if pause is not None:
                time.sleep(pause)
        self._tell("The result could not be kept for another time: save it now with B4M Save LoRA.")
        return self._adapter().clone()

    def _adapter(self) -> Adapter:
        return self.adapter.with_facts(losses=self.losses()[0], steps=self.engine.steps)

    def _keep_adapter(self) -> bool:
        with self._trouble_told():
            self.attempt.keep(self._adapter())
            return True
        return False

    def _keep_state(self) -> None:
        thinned, whole = self.losses()
        with self._trouble_told():
            tensors = {"losses": torch.tensor(whole, dtype=torch.float64), **self.engine.state_dict()}
            self.attempt.save_state(tensors, self.engine.steps, thinned)
            self._kept = self.engine.steps

    def _is_finite(self) -> bool:
        with contextlib.suppress(B4MError):
            self.engine.require_finite(self._kept)
            return True
        return False

    @contextlib.contextmanager
    def _trouble_told(self) -> Iterator[None]:
        """Within: what cannot be written is told, once until something can be written again."""
        try:
            yield
        except (B4MError, MemoryError, RuntimeError) as error:
            if not isinstance(error, (B4MError, MemoryError)) and not is_out_of_memory(error):
                raise
            if not self._troubled:
                what = error if isinstance(error, B4MError) else "Memory ran out: close other programs."
                kept = f"Run goes on from step {self._kept}" if self._kept else "no step is kept"
                then = kept if self._stopping else "training goes on, and it is tried again"
                self._tell(f"Step {self.engine.steps} could not be kept; {then}. {what}")
            self._troubled = True
        else:
            if self._troubled:
                self._tell(f"Step {self.engine.steps} was kept: what was in the way is gone.")
            self._troubled = False
