"""A task that trains one content or style and puts it into the library. What was trained before is reused, and what was
stopped or killed goes on from its last save, on whatever worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapter import Adapter
from ..auxiliary import BESIDE, own_auxiliary, sample_auxiliary
from ..concepts import check_apart
from ..pictures import PictureSet, load_folder
from ..plan import Plan
from ..remarks import enlarged
from ..run_store import RunStore
from ..runs import KEY_LENGTH, RunHeld
from ..settings import TrainingSettings
from ..thumbnail import data_url
from ..training import Progress, train
from . import library, stopping
from .place import Place, Tell, worn
from .plan_file import Entry

if TYPE_CHECKING:
    from ..diffusers_folder import DiffusersFolder

_SAYS_EVERY = 10.0  # seconds between two lines of progress
_LOOKS_EVERY = 1.0  # seconds between two looks whether a run is free


@dataclass(frozen=True)
class TrainingWork:
    """``entry`` with its ``settings``; ``auxiliary_sets`` of ``auxiliary_pictures`` each are painted unless it has its own.

    ``ours``: the file of its name is the library's, and is replaced.
    """

    entry: Entry
    settings: TrainingSettings
    auxiliary_sets: int
    auxiliary_pictures: int
    ours: bool

    def do(self, base: DiffusersFolder, place: Place, tell: Tell) -> str:
        """Train, paint the thumbnail, save; what was done, in words."""
        plan = self._plan(base, place, tell)
        key = plan.key(base)[:KEY_LENGTH]
        path = library.path_of(place.output, self.entry.role, self.entry.name)
        before = library.held(path)
        adapter, first = self._trained(plan, base, place, tell)
        if before is not None and before.thumbnail and (before.digest(), before.facts) == (adapter.digest(), adapter.facts):
            return f"there already, {adapter.facts.steps} steps (run {key})"
        shown = adapter.shown_by(self._thumbnail(adapter, plan.pictures, base))
        library.save(shown, path, ours=self.ours)
        trained = adapter.facts.steps - first
        how = f"{trained} steps trained" if not first else f"{trained} steps trained after {first}"
        return f"{how if trained else f'{first} steps reused'} (run {key})"

    def _plan(self, base: DiffusersFolder, place: Place, tell: Tell) -> Plan:
        entry = self.entry
        pictures = load_folder(
            entry.folder, trigger=entry.trigger, class_word=entry.class_word, pattern=entry.caption
        )
        kind, resolution = BESIDE[entry.role], self.settings.resolution
        if entry.auxiliary is not None:
            others = own_auxiliary(entry.auxiliary, kind)
        else:
            others = sample_auxiliary(
                base, kind, sets=self.auxiliary_sets, pictures=self.auxiliary_pictures, resolution=resolution, cache=place.store
            )
        _tell_all(tell, pictures.notes, check_apart(entry.role, pictures, others, self.settings.correspondence))
        _tell_all(tell, enlarged(pictures.pictures, resolution))
        return Plan(entry.role, pictures, others, self.settings)

    def _trained(self, plan: Plan, base: DiffusersFolder, place: Place, tell: Tell) -> tuple[Adapter, int]:
        """The adapter, and how many of its steps were there before. A run that another holds is waited for."""
        store, waits = RunStore(place.store), False
        while True:
            stopping.check(place.session)
            reach = min(store.open(plan.key(base)).reach(), plan.settings.steps)
            watch = _Watch(tell, place.session)
            try:
                adapter = train(plan, base, store, watch, tell=tell)
            except RunHeld:
                if not waits:
                    tell("This training is being done elsewhere just now, and is waited for.")
                waits = True
                time.sleep(_LOOKS_EVERY)
            else:
                return adapter, adapter.facts.steps if watch.first is None else min(watch.first, reach)

    def _thumbnail(self, adapter: Adapter, pictures: PictureSet, base: DiffusersFolder) -> str:
        """A picture of the first caption, painted with the adapter alone."""
        side = min(self.settings.resolution, base.native_size)
        with worn(base, adapter):
            return data_url(base.sample(pictures.prompts()[0], width=side, height=side, seed=self.settings.seed))


class _Watch:
    """Says now and then how far a training is, and ends it when it is asked to. ``first``: the steps that were there when
    it began, None where nothing was trained.
    """

    def __init__(self, tell: Tell, session: str) -> None:
        self._tell, self._session, self._said = tell, session, time.monotonic()
        self.first: int | None = None

    def __call__(self, progress: Progress) -> None:
        stopping.check(self._session)
        if progress.encoded is not None:
            return
        if self.first is None:
            self.first = progress.step
            self._tell(f"step {progress.step} of {progress.total}: begun (process {os.getpid()})")
        if progress.step_done and time.monotonic() - self._said > _SAYS_EVERY:
            self._said = time.monotonic()
            left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
            self._tell(f"step {progress.step} of {progress.total}: loss {progress.losses[-1][1]:.4f}{left}")


def _tell_all(tell: Tell, *notes: Iterable[str]) -> None:
    for note in (each for some in notes for each in some):
        tell(f"note: {note}")
