"""A training of a node, from its wires and widgets to the adapter and the last sample; what happens meanwhile is told on the node.

The faces are in train.py and train_all.py; what a training does is b4m_core's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..b4m_core import Adapter, B4MError, Plan, Progress, RunStore, TrainingSettings, lora_state_dict, merge, take, thumbnail, train
from ..b4m_core.attempts import Attempt
from ..b4m_core.carried import Carried
from ..b4m_core.compose import base_note, sum_note
from ..b4m_core.concepts import check_apart, check_together
from ..b4m_core.keeping import KEEP_EVERY
from ..b4m_core.layers import CONVOLUTIONS
from ..b4m_core.learned_words import shared_words_note
from ..b4m_core.pictures import PictureSet
from ..b4m_core.presets import DEFAULT, filled, kind_of, preset_named
from ..b4m_core.remarks import enlarged
from ..b4m_core.set_words import DEFAULT as BOTH
from ..b4m_core.set_words import fill_prompt, words_of
from ..b4m_core.trainings import training
from . import host
from .estimates import Clock
from .live import RUN_KEY, STORED_KEY, Phase, TrainingDisplay
from .training_widgets import RETRAIN, REUSE, TAKE
from .widgets import auxiliary_sets, require_adapter, require_pictures

Wires = tuple[Any, Any, Any]
"""The host's MODEL, CLIP and VAE of one checkpoint."""

_retrained: dict[str | None, set[str]] = {}
"""What a node with run = retrain has trained anew, by the keys of its runs: each counts once, until the node runs otherwise."""


class Session:
    """One training that a press of Run asks for: its samples and what its node tells.

    `sample` (H, W, 3) in 0..1: the newest one. `trained`: a step was done, so that the result is no older one. `settled`: the base model
    was told that its first step is done.
    """

    def __init__(
        self, display: TrainingDisplay, base: host.HostBaseModel, settings: TrainingSettings, clock: Clock, widgets: dict[str, Any]
    ) -> None:
        self.display, self.base, self.settings, self.clock = display, base, settings, clock
        self.every: int = widgets["sample_every"]
        self.prompt: str = widgets["sample_prompt"]
        self.mode: str = widgets["run"]
        self.progress = host.Progress(settings.steps, display.node_id)
        self.sample: Tensor | None = None
        self.settled = self.trained = False
        self._attempt: Attempt | None = None

    def run(self, plan: Plan, notes: Sequence[str] = ()) -> Adapter:
        """Train, or load what was trained; `notes` and a good end are told on the node, the last sample is painted where none was."""
        self.prompt = in_words(self.prompt, plan)
        for note in (*notes, *(note for pictures in (plan.pictures, *plan.others) for note in pictures.notes)):
            self.display.say(note)
        try:
            adapter = self._trained(plan)
        finally:
            self.base.release()
        if not self.trained:
            self.display.show_losses([int(step) for step, *_ in adapter.facts.losses], [own for _, own, *_ in adapter.facts.losses])
        if self.every and self.sample is None:
            self._paint(adapter, adapter.facts.steps)
        if self.trained:
            self.clock.keep()
            self.display.finish("done", "Done.")
        elif self.mode == TAKE:
            self.display.finish("reused", f"Taken as it is at step {adapter.facts.steps}; nothing was trained.")
        else:
            self.display.finish("reused", "This was trained before, so the result was reused.")
        return adapter

    def _trained(self, plan: Plan) -> Adapter:
        store, key = RunStore(host.run_store_folder()), plan.key(self.base)
        run = store.open(key)
        self.display.stored_as(run.key, run.reach())
        if self.mode == TAKE:
            return take(plan, self.base, store, self._watch, tell=self.display.say)
        retrain = self.mode == RETRAIN and key not in _retrained.get(self.display.node_id, ())
        if self.mode == RETRAIN and not retrain:
            self.display.say(f"It was trained anew already: to do that once more, run it with {REUSE} in between.")
        if self.mode != RETRAIN:
            _retrained.pop(self.display.node_id, None)
        every = self.every or KEEP_EVERY
        adapter = train(plan, self.base, store, self._watch, retrain=retrain, keep_every=every, tell=self.display.say)
        if retrain:
            _retrained.setdefault(self.display.node_id, set()).add(key)
        return adapter

    def _watch(self, progress: Progress) -> None:
        host.stop_if_cancelled()
        if progress.encoded is not None:
            self.display.encoding(*progress.encoded)
        if progress.adapter is None or not progress.step_done:
            return
        self.trained, self._attempt = True, progress.attempt
        if not self.settled:
            self.base.settle()
            self.settled = True
        self.clock.step()
        self.progress.update(progress.step)
        self.display.update(progress.step, [own for _, own, _ in progress.losses], progress.seconds_left)
        if self.every and (progress.step % self.every == 0 or progress.step == progress.total):
            self._paint(progress.adapter, progress.step, progress.losses[-1][1])

    def last_sample(self) -> Tensor:
        """(1, H, W, 3): the newest sample, black where none was painted."""
        return torch.zeros(1, 64, 64, 3) if self.sample is None else self.sample[None]

    def _paint(self, adapter: Adapter, step: int, loss: float | None = None) -> None:
        """A sample from the adapter as it would be saved, by the host's own sampler; one of a training is kept beside it."""
        side = self.base.native_size  # what was trained smaller is used at the model's own size
        try:
            with self.clock.painting(self.base.sampling.steps):
                with host.fits("The sample's adapter"):
                    weights = lora_state_dict(adapter.rounding_carried())
                self.sample = self.base.sample_with(weights, self.prompt, width=side, height=side, seed=self.settings.seed)
            self.display.show_sample(self.sample, step)
        except host.PictureDoesNotFit as error:
            return self.display.say(f"The sample at step {step} was skipped: {error}")
        if self._attempt is not None:
            try:
                self._attempt.keep_sample(self.sample, step, loss=loss, prompt=self.prompt)
            except B4MError as error:
                self.display.say(f"The sample at step {step} is shown, but could not be kept: {error}")


def in_words(prompt: str, plan: Plan) -> str:
    """What the samples show, in the words of the sets; the first caption where nothing is said, the subject in the style for both."""
    own, style = plan.pictures.concept(), plan.others[0].concept() if plan.role == "together" else None
    content = own if plan.role != "style" else None
    words = words_of(content, own if plan.role == "style" else style)
    if not prompt.strip():
        if style is None:
            return plan.pictures.pictures[0].caption
        prompt = BOTH if words["style"] else "a {content}"
    trigger = {} if style is not None else {"trigger": own.trigger, "class": own.class_word}
    return fill_prompt(prompt.strip(), {**words, **trigger}, "sample_prompt")


def display_of(node: type[io.ComfyNode], phase: Phase = ()) -> TrainingDisplay:
    """The live display of a training that begins on `node`; `phase` names it where a node has several."""
    return TrainingDisplay(node.hidden.unique_id, node.__name__, 0, node.hidden, phase)


def _opened(
    node: type[io.ComfyNode],
    role: str,
    display: TrainingDisplay,
    wires: Wires,
    widgets: dict[str, Any],
    other_sets: int,
    carried: Sequence[Carried] = (),
    **fixed: Any,
) -> Session:
    """The session of one training: its base model, settings and clock. ``fixed`` settings count more than the widgets' values."""
    sampling = host.Sampling(steps=widgets["sample_steps"], guidance=widgets["sample_cfg"])
    name = host.checkpoint_name(node.hidden.prompt, node.hidden.unique_id)
    base = host.HostBaseModel(*wires, name=name, sampling=sampling, carried=carried)
    for note in (*host.training_note(node.hidden, sampling), *host.carried_note(carried)):
        display.say(note)
    kind = kind_of(base.family.name, base.native_size)
    preset = preset_named(widgets.get("preset", DEFAULT), kind)
    widgets = filled(widgets, preset, role)
    names = TrainingSettings.__dataclass_fields__.keys() & widgets.keys()
    settings = TrainingSettings(
        **{key: widgets[key] for key in names} | {"resolution": min(widgets["resolution"], base.native_size)} | fixed
    )
    if settings.textual_inversion:
        base.expect_words()
    display.expect(settings.steps)
    rows = settings.batch_size * (1 + training(role, settings.correspondence).rows_beside(other_sets))
    convolutions = settings.layers == CONVOLUTIONS
    base.expect(settings.rank, rows, settings.resolution, convolutions=convolutions)
    trained, painted = ((side // 8) ** 2 for side in (settings.resolution, base.native_size))
    passes, words = settings.gradient_accumulation_steps, settings.textual_inversion
    clock = Clock(kind, rows, trained, painted, passes, convolutions=convolutions, words=words)
    return Session(display, base, settings, clock, widgets)


def result(session: Session, *adapters: Adapter) -> io.NodeOutput:
    """The adapters and the last sample; the page learns by the run's name which display belongs to them."""
    return io.NodeOutput(*adapters, session.last_sample(), ui={RUN_KEY: [session.display.run], STORED_KEY: [session.display.stored]})


def _shown_by_sample(session: Session, adapter: Adapter) -> Adapter:
    """With the last sample as what LoRA browsers show, where one was painted."""
    return adapter if session.sample is None else adapter.shown_by(thumbnail.data_url(session.sample))


def train_apart(
    node: type[io.ComfyNode],
    role: str,
    display: TrainingDisplay,
    wires: Wires,
    pictures: PictureSet,
    auxiliary: tuple[PictureSet, ...] | None,
    widgets: dict[str, Any],
    known: Sequence[str] = (),
) -> tuple[Session, Adapter]:
    """Train the content or the style alone, shown on `display`. `known`: notes to be told there besides."""
    with display.ending():
        require_pictures(pictures, "pictures")
        others = auxiliary_sets(auxiliary, "auxiliary")
        off = host.switched_off(node.hidden, "auxiliary")
        notes = [f"{off}, so this trains without auxiliary pictures."] if off and not others else []
        notes += check_apart(role, pictures, others, widgets.get("correspondence", TrainingSettings.correspondence))
        session = _opened(node, role, display, wires, widgets, other_sets=len(others))
        notes += enlarged(pictures.pictures, session.settings.resolution)
        plan, told = Plan(role, pictures, others, session.settings), list(dict.fromkeys((*known, *notes)))
        return session, _shown_by_sample(session, session.run(plan, told))


def train_together(
    node: type[io.ComfyNode],
    display: TrainingDisplay,
    wires: Wires,
    adapters: tuple[Adapter, Adapter],
    pictures: tuple[PictureSet, PictureSet],
    auxiliary: tuple[Any, Any],
    widgets: dict[str, Any],
    known: Sequence[str] | None = None,
) -> tuple[Session, Adapter]:
    """Merge a content and a style and train both on both sets, shown on `display`; all pairs are of the content and of the style.

    `known`: the notes of a check of these sets that was made before; None has them checked here.
    """
    with display.ending():
        for name, adapter in zip(("content", "style"), adapters, strict=True):
            require_adapter(adapter, name)
        for name, each in zip(("content_pictures", "style_pictures"), pictures, strict=True):
            require_pictures(each, name)
        beside = auxiliary_sets(auxiliary[0], "content_auxiliary"), auxiliary_sets(auxiliary[1], "style_auxiliary")
        others = (pictures[1], *beside[0], *beside[1])
        taught = adapters[0].facts.content, adapters[1].facts.style
        notes = check_together(*pictures, taught, *beside) if known is None else [*known]
        start = merge(*adapters)
        session = _opened(
            node, "together", display, wires, widgets, other_sets=len(others), carried=start.carried, **start.facts.common(),
            textual_inversion=False,
        )
        notes += [note for each in adapters for note in base_note(each, session.base.network_fingerprint, session.base.name)]
        notes += [*sum_note(*adapters), *shared_words_note(*adapters)]
        notes += enlarged((*pictures[0].pictures, *pictures[1].pictures), session.settings.resolution)
        plan = Plan("together", pictures[0], others, session.settings, start)
        return session, _shown_by_sample(session, session.run(plan, notes).carrying(start.carried))
