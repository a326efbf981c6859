"""Nodes: the three trainings. They gather the inputs, show what happens, and leave the rest to b4m_core."""

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
from ..b4m_core.pictures import PictureSet
from ..b4m_core.remarks import enlarged
from ..b4m_core.set_words import DEFAULT, fill_prompt, words_of
from ..b4m_core.settings import CORRESPONDENCES
from ..b4m_core.splits import SPLITS
from ..b4m_core.trainings import training
from . import host
from .live import RUN_KEY, STORED_KEY, TrainingDisplay, unfinished
from .widgets import (
    CATEGORY,
    AdapterWire,
    Auxiliary,
    Pictures,
    advanced,
    auxiliary_sets,
    model_clip_vae,
    require_adapter,
    require_pictures,
    sampling_widgets,
)

REUSE, RETRAIN, TAKE = "continue or reuse", "retrain", "use what is trained"


_retrained: dict[str | None, str] = {}
"""What a node with run = retrain has trained anew, by the key of the run: that counts once, until the node runs otherwise."""


def _training_widgets() -> list[Any]:
    """The widgets of every training, in the order in which saved graphs keep them: new ones go last."""
    return [
        io.Int.Input("steps", default=1000, min=1, max=100_000, tooltip="Training steps."),
        io.Float.Input("learning_rate", default=1e-4, min=1e-7, max=1.0, step=1e-6, round=False, tooltip="How fast it learns."),
        io.Int.Input(
            "resolution", default=512, min=64, max=2048, step=32, tooltip="Side of the training pictures; lowered to the model's own."
        ),
        io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=False, tooltip="Same inputs and seed, same adapter."),
        io.Int.Input("sample_every", default=100, min=0, max=100_000, tooltip="Paint a sample picture every so many steps; 0 paints none."),
        io.String.Input(
            "sample_prompt",
            default="",
            tooltip="What the samples show; {content} and {style} are the words of your pictures. Empty: the first caption, or the "
            "content in the style where both are trained.",
        ),
        io.Combo.Input(
            "run",
            options=[REUSE, RETRAIN, TAKE],
            tooltip="Continue a stopped training and reuse a finished one; train anew; or take what is trained by now, up to the steps.",
        ),
        *sampling_widgets(),
        advanced(io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Pictures of yours in every pass through the network.")),
        advanced(
            io.Int.Input("gradient_accumulation_steps", default=4, min=1, max=64, tooltip="Passes whose gradients are added up for a step.")
        ),
        advanced(io.Float.Input("weight_decay", default=1e-2, min=0.0, max=1.0, step=1e-3, tooltip="Pull of what is learned to zero.")),
        advanced(
            io.Boolean.Input("flip", default=False, tooltip="Train on the mirror images too. Leave it off for faces, text and emblems.")
        ),
        advanced(io.Combo.Input("file_dtype", options=["float16", "bfloat16", "float32"], tooltip="Precision of the saved file.")),
    ]


def _apart_widgets() -> list[Any]:
    """What the content and the style training have besides; both need the same values to fit together."""
    return [
        advanced(
            io.Float.Input(
                "auxiliary_learning_rate",
                default=1e-5,
                min=0.0,
                max=1.0,
                step=1e-6,
                round=False,
                tooltip="Rate of what auxiliary pictures train, where correspondence is multi_correspondence.",
            )
        ),
        advanced(
            io.Int.Input(
                "rank",
                default=TrainingSettings.rank,
                min=1,
                max=512,
                tooltip="Size of the adapter; the same for the content and the style.",
            )
        ),
        advanced(
            io.Int.Input("basis_seed", default=0, min=0, max=2**31, control_after_generate=False, tooltip="Same for content and style.")
        ),
        advanced(
            io.Combo.Input(
                "start",
                options=["zero_start", "published"],
                tooltip="zero_start leaves the model undisturbed at first; published goes with split = halves.",
            )
        ),
        advanced(
            io.Combo.Input(
                "split",
                options=list(SPLITS),
                default=TrainingSettings.split,
                optional=True,
                tooltip="free: content and style learn all of their own. full: each learns against a frozen, shared factor. "
                "halves: as published, each in half of every layer's rows and columns. Same for content and style.",
            )
        ),
        advanced(
            io.Combo.Input(
                "correspondence",
                options=list(CORRESPONDENCES),
                default=TrainingSettings.correspondence,
                optional=True,
                tooltip="What auxiliary pictures do. output_preservation: on them, what is taught must not change the model. "
                "multi_correspondence: they train the other half, as published.",
            )
        ),
    ]


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

    def run(self, plan: Plan, notes: Sequence[str] = ()) -> Adapter:
        """Train, or load what was trained; `notes` and a good end are told on the node."""
        self.prompt = _filled(self.prompt, plan)
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
            self.display.finish("done", "Done.")
        elif self.mode == TAKE:
            self.display.finish("reused", f"Taken as it is at step {adapter.facts.steps}; nothing was trained.")
        else:
            self.display.finish("reused", "Nothing has changed since this was trained, so the result was reused.")
        return adapter

    def _trained(self, plan: Plan) -> Adapter:
        store, key = RunStore(host.run_store_folder()), plan.key(self.base)
        self.display.stored_as(store.open(key).key)
        if self.mode == TAKE:
            return take(plan, self.base, store, self._watch, tell=self.display.say)
        retrain = self.mode == RETRAIN and _retrained.get(self.display.node_id) != key
        if self.mode == RETRAIN and not retrain:
            self.display.say(f"It was trained anew already: to do that once more, run it with {REUSE} in between.")
        if self.mode != RETRAIN:
            _retrained.pop(self.display.node_id, None)
        every = self.every or KEEP_EVERY
        adapter = train(plan, self.base, store, self._watch, retrain=retrain, keep_every=every, tell=self.display.say)
        if retrain:
            _retrained[self.display.node_id] = key
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
        self.progress.update(progress.step)
        self.display.update(progress.step, [own for _, own, _ in progress.losses], progress.seconds_left)
        if self.every and (progress.step % self.every == 0 or progress.step == progress.total):
            self._paint(progress.adapter, progress.step, progress.losses[-1][1])

    def _paint(self, adapter: Adapter, step: int, loss: float | None = None) -> None:
        """A sample from the adapter as it would be saved, by the host's own sampler; one of a training is kept beside it."""
        side = self.settings.resolution
        try:
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


def _filled(prompt: str, plan: Plan) -> str:
    """What the samples show, in the words of the sets; the first caption where nothing is said, the subject in the style for both."""
    own, style = plan.pictures.concept(), plan.others[0].concept() if plan.role == "together" else None
    content = own if plan.role != "style" else None
    words = words_of(content, own if plan.role == "style" else style)
    if not prompt.strip():
        if style is None:
            return plan.pictures.pictures[0].caption
        prompt = DEFAULT if words["style"] else "a {content}"
    trigger = {} if style is not None else {"trigger": own.trigger, "class": own.class_word}
    return fill_prompt(prompt.strip(), {**words, **trigger}, "sample_prompt")


def _display(node: type[io.ComfyNode], role: str, widgets: dict[str, Any]) -> TrainingDisplay:
    return TrainingDisplay(node.hidden.unique_id, f"B4MTrain{role.capitalize()}", widgets["steps"])


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
    names = TrainingSettings.__dataclass_fields__.keys() & widgets.keys()
    settings = TrainingSettings(
        **{key: widgets[key] for key in names} | {"resolution": min(widgets["resolution"], base.native_size)} | fixed
    )
    rows = settings.batch_size * (1 + training(role, settings.correspondence).rows_beside(other_sets))
    base.expect(settings.rank, rows, settings.resolution)
    return _Session(display, base, settings, widgets), settings


def _result(session: _Session, adapter: Adapter) -> io.NodeOutput:
    """The adapter and the last sample; the page learns by the run's name which display belongs to them."""
    picture = torch.zeros(1, 64, 64, 3) if session.sample is None else session.sample[None]
    if session.sample is not None:
        adapter = adapter.shown_by(thumbnail.data_url(session.sample))
    return io.NodeOutput(adapter, picture, ui={RUN_KEY: [session.display.run], STORED_KEY: [session.display.stored]})


def _train_apart(
    node: type[io.ComfyNode],
    role: str,
    pictures: PictureSet,
    auxiliary: tuple[PictureSet, ...] | None,
    wires: tuple[Any, Any, Any],
    widgets: dict[str, Any],
) -> io.NodeOutput:
    display = _display(node, role, widgets)
    with display.ending():
        require_pictures(pictures, "pictures")
        others = auxiliary_sets(auxiliary, "auxiliary")
        off = host.switched_off(node.hidden, "auxiliary")
        notes = [f"{off}, so this trains without auxiliary pictures."] if off and not others else []
        notes += check_apart(role, pictures, others, widgets.get("correspondence", TrainingSettings.correspondence))
        session, settings = _session(node, role, display, wires, widgets, other_sets=len(others))
        notes += enlarged(pictures.pictures, settings.resolution)
        return _result(session, session.run(Plan(role, pictures, others, settings), notes))


def _apart_schema(node_id: str, name: str, description: str, pictures: str, auxiliary: str) -> io.Schema:
    """The face of a stage-one training; content and style differ in words alone."""
    return io.Schema(
        node_id=node_id,
        display_name=name,
        category=CATEGORY,
        description=description,
        inputs=[
            *model_clip_vae(),
            Pictures.Input("pictures", tooltip=pictures),
            Auxiliary.Input("auxiliary", optional=True, tooltip=auxiliary),
            *_training_widgets(),
            *_apart_widgets(),
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
            "B4M Train Content",
            "Learns a subject from a few pictures, into the content part of an adapter. Cancel keeps it; Run goes on.",
            "Pictures of the subject.",
            "Other styles, so that the subject does not stick to one.",
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return unfinished(cls.hidden and cls.hidden.unique_id)

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, pictures: PictureSet, auxiliary: Any = None, **widgets: Any) -> io.NodeOutput:
        return _train_apart(cls, "content", pictures, auxiliary, (model, clip, vae), widgets)


class B4MTrainStyle(io.ComfyNode):
    """Stage one, style: what is style's learns the style, beside other contents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _apart_schema(
            "B4MTrainStyle",
            "B4M Train Style",
            "Learns a style from a few pictures, into the style part of an adapter. Cancel keeps it; Run goes on.",
            "Pictures in the style, each captioned with what it shows.",
            "Other contents, so that the style does not stick to one.",
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return unfinished(cls.hidden and cls.hidden.unique_id)

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, pictures: PictureSet, auxiliary: Any = None, **widgets: Any) -> io.NodeOutput:
        return _train_apart(cls, "style", pictures, auxiliary, (model, clip, vae), widgets)


class B4MTrainTogether(io.ComfyNode):
    """Stage two: content and style on both sets, with the Riemannian optimiser."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="B4MTrainTogether",
            display_name="B4M Train Together",
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
                *_training_widgets(),
                advanced(
                    io.Float.Input(
                        "preconditioner_damping", default=1e-4, min=1e-8, max=1e6, step=1e-5, round=False, tooltip="Of the preconditioner."
                    )
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return unfinished(cls.hidden and cls.hidden.unique_id)

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
        display = _display(cls, "together", widgets)
        with display.ending():
            for value, name in ((content, "content"), (style, "style")):
                require_adapter(value, name)
            for pictures, name in ((content_pictures, "content_pictures"), (style_pictures, "style_pictures")):
                require_pictures(pictures, name)
            beside = auxiliary_sets(content_auxiliary, "content_auxiliary"), auxiliary_sets(style_auxiliary, "style_auxiliary")
            others = (style_pictures, *beside[0], *beside[1])
            taught = content.facts.content, style.facts.style
            notes = check_together(content_pictures, style_pictures, taught, *beside)
            start = merge(content, style)
            wires = (model, clip, vae)
            carried = start.carried
            session, settings = _session(
                cls, "together", display, wires, widgets, other_sets=len(others), carried=carried, **start.facts.common()
            )
            notes += [note for each in (content, style) for note in base_note(each, session.base.network_fingerprint, session.base.name)]
            notes += sum_note(content, style)
            notes += enlarged((*content_pictures.pictures, *style_pictures.pictures), settings.resolution)
            plan = Plan("together", content_pictures, others, settings, start.carrying(()))
            return _result(session, session.run(plan, notes).carrying(carried))


def _again(node: str) -> str:
    return f"What {node} got: on these, what is taught must not change the model. Doubles the rows of every step."
