"""Nodes: the three trainings. They gather the inputs, show what happens, and leave the rest to b4m_core."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
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
from ..b4m_core.pictures import PictureSet
from ..b4m_core.presets import DEFAULT, filled, kind_of, preset_named
from ..b4m_core.remarks import enlarged
from ..b4m_core.set_words import DEFAULT as BOTH
from ..b4m_core.set_words import fill_prompt, words_of
from ..b4m_core.trainings import training
from . import host
from .estimates import Clock
from .live import RUN_KEY, STORED_KEY, TrainingDisplay, unfinished
from .training_widgets import RETRAIN, REUSE, TAKE, apart_widgets, preset_widget, training_widgets
from .widgets import (
    CATEGORY,
    AdapterWire,
    Auxiliary,
    Pictures,
    advanced,
    auxiliary_sets,
    model_clip_vae,
    rate_widget,
    rates_accepted,
    require_adapter,
    require_pictures,
    schema,
)

_retrained: dict[str | None, set[str]] = {}
"""What a node with run = retrain has trained anew, by the keys of its runs: each counts once, until the node runs otherwise."""


def _outputs() -> list[Any]:
    return [
        AdapterWire.Output(display_name="adapter", tooltip="What was learned: to be saved, applied, merged or trained together."),
        io.Image.Output(display_name="last_sample", tooltip="The last sample picture."),
    ]


class _Session:
    """One press of Run on one training node: its samples and what it tells."""

    def __init__(self, display: TrainingDisplay, base: host.HostBaseModel, settings: TrainingSettings, widgets: dict[str, Any]) -> None:
        self.display, self.base, self.settings = display, base, settings
        self.every: int = widgets["sample_every"]
        self.prompt: str = widgets["sample_prompt"]
        self.mode: str = widgets["run"]
        self.progress = host.Progress(settings.steps, display.node_id)
        self.sample: Tensor | None = None
        self.settled = self.trained = False
        self._attempt: Attempt | None = None
        self.clock: Clock | None = None

    def run(self, plan: Plan, notes: Sequence[str] = ()) -> Adapter:
        """Train, or load what was trained; `notes` and a good end are told on the node."""
        self.prompt = _in_words(self.prompt, plan)
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
            if self.clock:
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
        if self.clock:
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
        side = self.settings.resolution
        try:
            with self.clock.painting(self.base.sampling.steps) if self.clock else nullcontext():
                with host.fits("The sample's adapter"):
                    weights = lora_state_dict(adapter)
                self.sample = self.base.sample_with(weights, self.prompt, width=side, height=side, seed=self.settings.seed)
            self.display.show_sample(self.sample, step)
        except host.PictureDoesNotFit as error:
            return self.display.say(f"The sample at step {step} was skipped: {error}")
        if self._attempt is not None:
            try:
                self._attempt.keep_sample(self.sample, step, loss=loss, prompt=self.prompt)
            except B4MError as error:
                self.display.say(f"The sample at step {step} is shown, but could not be kept: {error}")


def _in_words(prompt: str, plan: Plan) -> str:
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


def display_of(node: type[io.ComfyNode], node_type: str, phase: str = "") -> TrainingDisplay:
    """The live display of a training that begins on `node`; `phase` names it where a node has several."""
    return TrainingDisplay(node.hidden.unique_id, node_type, 0, node.hidden, phase)


def _session(
    node: type[io.ComfyNode],
    role: str,
    display: TrainingDisplay,
    wires: tuple[Any, Any, Any],
    widgets: dict[str, Any],
    other_sets: int,
    carried: Sequence[Carried] = (),
    **fixed: Any,
) -> tuple[_Session, TrainingSettings]:
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
    display.expect(settings.steps)
    rows = settings.batch_size * (1 + training(role, settings.correspondence).rows_beside(other_sets))
    base.expect(settings.rank, rows, settings.resolution)
    session = _Session(display, base, settings, widgets)
    session.clock = Clock(kind, rows, (settings.resolution // 8) ** 2, settings.gradient_accumulation_steps)
    return session, settings


def _result(session: _Session, adapter: Adapter) -> io.NodeOutput:
    """The adapter and the last sample; the page learns by the run's name which display belongs to them."""
    return io.NodeOutput(adapter, session.last_sample(), ui={RUN_KEY: [session.display.run], STORED_KEY: [session.display.stored]})


def _shown_by_sample(session: _Session, adapter: Adapter) -> Adapter:
    """With the last sample as what LoRA browsers show, where one was painted."""
    return adapter if session.sample is None else adapter.shown_by(thumbnail.data_url(session.sample))


def train_apart(
    node: type[io.ComfyNode],
    role: str,
    display: TrainingDisplay,
    wires: tuple[Any, Any, Any],
    pictures: PictureSet,
    auxiliary: tuple[PictureSet, ...] | None,
    widgets: dict[str, Any],
) -> tuple[_Session, Adapter]:
    """Train the content or the style alone, shown on `display`."""
    with display.ending():
        require_pictures(pictures, "pictures")
        others = auxiliary_sets(auxiliary, "auxiliary")
        off = host.switched_off(node.hidden, "auxiliary")
        notes = [f"{off}, so this trains without auxiliary pictures."] if off and not others else []
        notes += check_apart(role, pictures, others, widgets.get("correspondence", TrainingSettings.correspondence))
        session, settings = _session(node, role, display, wires, widgets, other_sets=len(others))
        notes += enlarged(pictures.pictures, settings.resolution)
        return session, _shown_by_sample(session, session.run(Plan(role, pictures, others, settings), notes))


def train_together(
    node: type[io.ComfyNode],
    display: TrainingDisplay,
    wires: tuple[Any, Any, Any],
    adapters: tuple[Adapter, Adapter],
    pictures: tuple[PictureSet, PictureSet],
    auxiliary: tuple[Any, Any],
    widgets: dict[str, Any],
) -> tuple[_Session, Adapter]:
    """Merge a content and a style and train both on both sets, shown on `display`; all pairs are of the content and of the style."""
    with display.ending():
        for name, adapter in zip(("content", "style"), adapters, strict=True):
            require_adapter(adapter, name)
        for name, each in zip(("content_pictures", "style_pictures"), pictures, strict=True):
            require_pictures(each, name)
        beside = auxiliary_sets(auxiliary[0], "content_auxiliary"), auxiliary_sets(auxiliary[1], "style_auxiliary")
        others = (pictures[1], *beside[0], *beside[1])
        notes = check_together(*pictures, (adapters[0].facts.content, adapters[1].facts.style), *beside)
        start = merge(*adapters)
        session, settings = _session(
            node, "together", display, wires, widgets, other_sets=len(others), carried=start.carried, **start.facts.common()
        )
        notes += [note for each in adapters for note in base_note(each, session.base.network_fingerprint, session.base.name)]
        notes += sum_note(*adapters)
        notes += enlarged((*pictures[0].pictures, *pictures[1].pictures), settings.resolution)
        plan = Plan("together", pictures[0], others, settings, start)
        return session, _shown_by_sample(session, session.run(plan, notes).carrying(start.carried))


def _apart_schema(node_id: str, name: str, description: str, pictures: str, auxiliary: str) -> io.Schema:
    """The face of a stage-one training; content and style differ in words alone."""
    return schema(
        node_id=node_id,
        display_name=name,
        category=CATEGORY,
        description=description,
        inputs=[
            *model_clip_vae(),
            Pictures.Input("pictures", tooltip=pictures),
            Auxiliary.Input("auxiliary", optional=True, tooltip=auxiliary),
            *training_widgets(),
            *apart_widgets(),
            preset_widget(optional=True),
        ],
        outputs=_outputs(),
        hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        is_output_node=True,
    )


class B4MTrainContent(io.ComfyNode):
    """Stage one, content: what is content's learns the subject, beside other styles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _apart_schema(
            "B4MTrainContent",
            "B4M Train Content LoRA (Subject, DreamBooth)",
            "Learns a subject from a few pictures, into the content part of an adapter. Cancel keeps it; Run goes on.",
            "Pictures of the subject.",
            "Other styles, so that the subject does not stick to one.",
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return unfinished(cls.hidden and cls.hidden.unique_id)

    @classmethod
    def validate_inputs(cls, learning_rate: Any = None, weight_decay: Any = None, auxiliary_learning_rate: Any = None) -> bool | str:
        return rates_accepted(
            learning_rate=learning_rate, weight_decay=weight_decay, auxiliary_learning_rate=auxiliary_learning_rate
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, pictures: PictureSet, auxiliary: Any = None, **widgets: Any) -> io.NodeOutput:
        display = display_of(cls, "B4MTrainContent")
        return _result(*train_apart(cls, "content", display, (model, clip, vae), pictures, auxiliary, widgets))


class B4MTrainStyle(io.ComfyNode):
    """Stage one, style: what is style's learns the style, beside other contents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _apart_schema(
            "B4MTrainStyle",
            "B4M Train Style LoRA (Finetune)",
            "Learns a style from a few pictures, into the style part of an adapter. Cancel keeps it; Run goes on.",
            "Pictures in the style, each captioned with what it shows.",
            "Other contents, so that the style does not stick to one.",
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return unfinished(cls.hidden and cls.hidden.unique_id)

    @classmethod
    def validate_inputs(cls, learning_rate: Any = None, weight_decay: Any = None, auxiliary_learning_rate: Any = None) -> bool | str:
        return rates_accepted(
            learning_rate=learning_rate, weight_decay=weight_decay, auxiliary_learning_rate=auxiliary_learning_rate
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, pictures: PictureSet, auxiliary: Any = None, **widgets: Any) -> io.NodeOutput:
        display = display_of(cls, "B4MTrainStyle")
        return _result(*train_apart(cls, "style", display, (model, clip, vae), pictures, auxiliary, widgets))


class B4MTrainTogether(io.ComfyNode):
    """Stage two: content and style on both sets, with the Riemannian optimiser."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MTrainTogether",
            display_name="B4M Train Together LoRA",
            category=CATEGORY,
            description="Merges a content and a style adapter and trains both on both sets of pictures, so that they get along.",
            inputs=[
                *model_clip_vae(),
                AdapterWire.Input("content", tooltip="From Train Content."),
                AdapterWire.Input("style", tooltip="From Train Style."),
                Pictures.Input("content_pictures", tooltip="The pictures of the subject again."),
                Pictures.Input("style_pictures", tooltip="The pictures of the style again."),
                Auxiliary.Input("content_auxiliary", optional=True, tooltip=_again("Train Content")),
                Auxiliary.Input("style_auxiliary", optional=True, tooltip=_again("Train Style")),
                *training_widgets(),
                advanced(
                    rate_widget(
                        "preconditioner_damping",
                        "Leave it. Raise it to 1e-3 when training together makes the loss jump at once.",
                        "1e-4",
                    )
                ),
                preset_widget(optional=True),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return unfinished(cls.hidden and cls.hidden.unique_id)

    @classmethod
    def validate_inputs(cls, learning_rate: Any = None, weight_decay: Any = None, preconditioner_damping: Any = None) -> bool | str:
        return rates_accepted(
            learning_rate=learning_rate, weight_decay=weight_decay, preconditioner_damping=preconditioner_damping
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        content: Adapter,
        style: Adapter,
        content_pictures: PictureSet,
        style_pictures: PictureSet,
        content_auxiliary: tuple[PictureSet, ...] | None = None,
        style_auxiliary: tuple[PictureSet, ...] | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        display = display_of(cls, "B4MTrainTogether")
        pictures, auxiliary = (content_pictures, style_pictures), (content_auxiliary, style_auxiliary)
        return _result(*train_together(cls, display, (model, clip, vae), (content, style), pictures, auxiliary, widgets))


def _again(node: str) -> str:
    return f"What {node} got: on these, what is taught must not change the model. Doubles the rows of every step."
