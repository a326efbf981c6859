"""Node: the three trainings one after another, by the functions of the single nodes, so that either finds what the other trained."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..b4m_core import Adapter, TrainingSettings, merge
from ..b4m_core.auxiliary import BESIDE, sample_auxiliary
from ..b4m_core.concepts import check_together
from ..b4m_core.pictures import PictureSet
from ..b4m_core.presets import Preset, filled, kind_of, preset_named
from . import host
from .estimates import later, remember_painted
from .live import TrainingDisplay
from .session import Wires, display_of, result, train_apart, train_together
from .train import TrainingNode
from .training_widgets import apart_widgets, later_widgets, preset_widget, training_widgets
from .widgets import (
    CATEGORY,
    AdapterWire,
    Auxiliary,
    Pictures,
    auxiliary_sets,
    model_clip_vae,
    rate_widget,
    rates_accepted,
    require_pictures,
    schema,
    whole_number,
)

_OF_TOGETHER = {"together_steps": "steps", "together_learning_rate": "learning_rate"}
"""The widgets that training together has of its own here, by what they are called on its own node."""
_APART_ALONE = {each.id for each in (*apart_widgets(), *later_widgets())}


def _together_inputs() -> list[Any]:
    """What training together needs beside the widgets of the other two."""
    return [
        whole_number(
            "together_steps",
            "Steps with both on both sets, after the first two. -1: as the preset says. 0: none, the two are merged. "
            "More when style and subject do not mix; fewer when the style swallows the subject.",
            default=-1,
            least=-1,
            most=100_000,
        ),
        rate_widget("together_learning_rate", "As the preset says. Lower it when training together spoils what was learned."),
    ]


class B4MTrain(TrainingNode):
    """Content, style, then both: one node for the whole of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MTrain",
            display_name="B4M Train LoRA (Subject + Style)",
            category=CATEGORY,
            description="Trains a subject and a style from a few pictures of each, into one LoRA with a slider for either. "
            "Cancel keeps what was trained; Run goes on.",
            inputs=[
                *model_clip_vae(),
                Pictures.Input("content_pictures", tooltip="Pictures of your subject."),
                Pictures.Input("style_pictures", tooltip="Pictures in your style, each captioned with what it shows."),
                Auxiliary.Input("content_auxiliary", optional=True, tooltip=_instead("other styles")),
                Auxiliary.Input("style_auxiliary", optional=True, tooltip=_instead("other contents")),
                preset_widget(),
                *training_widgets(),
                *_together_inputs(),
                *apart_widgets(),
                *later_widgets(),
            ],
            outputs=[
                AdapterWire.Output(display_name="both", tooltip="Subject and style in one: for B4M Paint or B4M Apply LoRA."),
                AdapterWire.Output(display_name="content", tooltip="The subject alone: save it, and merge it with any style later."),
                AdapterWire.Output(display_name="style", tooltip="The style alone: save it, and merge it with any subject later."),
                io.Image.Output(display_name="last_sample", tooltip="The last sample picture."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        learning_rate: Any = None,
        weight_decay: Any = None,
        auxiliary_learning_rate: Any = None,
        together_learning_rate: Any = None,
    ) -> bool | str:
        return rates_accepted(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            auxiliary_learning_rate=auxiliary_learning_rate,
            together_learning_rate=together_learning_rate,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        content_pictures: PictureSet,
        style_pictures: PictureSet,
        content_auxiliary: Any = None,
        style_auxiliary: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        wires, pictures = (model, clip, vae), (content_pictures, style_pictures)
        first = display_of(cls, ("Auxiliary pictures",))
        with first.ending():
            for name, each in zip(("content_pictures", "style_pictures"), pictures, strict=True):
                require_pictures(each, name)
            wired = auxiliary_sets(content_auxiliary, "content_auxiliary"), auxiliary_sets(style_auxiliary, "style_auxiliary")
            correspondence = widgets.get("correspondence", TrainingSettings.correspondence)
            # before hours of training, not after
            notes = check_together(*pictures, (None, None), *wired, correspondence=correspondence)
            base = host.HostBaseModel(*wires)
            if widgets.get("textual_inversion"):
                host.require_teachable(clip)
            preset = preset_named(widgets["preset"], kind_of(base.family.name, base.native_size))
            auxiliary = _auxiliary(base, preset, first, widgets, content_auxiliary, style_auxiliary)
            remember_painted(cls.hidden.prompt, cls.hidden.unique_id, preset)
        return _trained(cls, wires, pictures, auxiliary, preset, widgets, notes)


def _trained(
    node: type[io.ComfyNode],
    wires: Wires,
    pictures: tuple[PictureSet, PictureSet],
    auxiliary: dict[str, tuple[PictureSet, ...]],
    preset: Preset,
    widgets: dict[str, Any],
    notes: list[str],
) -> io.NodeOutput:
    """Content, style, and both: trained on, or merged. The last of the trainings tells the `notes` on the two."""
    steps = widgets["together_steps"]
    goes_on = preset.trains_together if steps == -1 else bool(steps)
    of = 3 if goes_on else 2
    made: list[Adapter] = []
    earlier: list[tuple[str, str]] = []
    for number, (role, each) in enumerate(zip(("content", "style"), pictures, strict=True), start=1):
        display = display_of(node, (role.capitalize(), number, of))
        display.later(later(node.hidden.prompt, node.hidden.unique_id, number))
        display.earlier(earlier)
        known = notes if number == of else []
        session, adapter = train_apart(node, role, display, wires, each, auxiliary[role], apart_settings(widgets), known)
        made.append(adapter)
        earlier.append((role.capitalize(), display.stored))
    content, style = made
    if goes_on:
        display = display_of(node, ("Both", 3, 3))
        display.earlier(earlier)
        again = (auxiliary["content"], auxiliary["style"]) if preset.keeps_together else (None, None)
        session, both = train_together(node, display, wires, (content, style), pictures, again, together_settings(widgets), notes)
    else:
        both = merge(content, style)
    return result(session, both, content, style)


def apart_settings(widgets: dict[str, Any]) -> dict[str, Any]:
    """The widgets as B4M Train Content LoRA and B4M Train Style LoRA have them; a prompt may name both, so theirs is the first caption."""
    return {name: value for name, value in widgets.items() if name not in _OF_TOGETHER} | {"sample_prompt": ""}


def together_settings(widgets: dict[str, Any]) -> dict[str, Any]:
    """The widgets as B4M Train Together LoRA has them."""
    its_own = {single: widgets[name] for name, single in _OF_TOGETHER.items()}
    shared = {name: value for name, value in apart_settings(widgets).items() if name not in _APART_ALONE}
    return shared | its_own | {"steps": max(its_own["steps"], 0), "sample_prompt": widgets["sample_prompt"]}


def _auxiliary(
    base: host.HostBaseModel, preset: Preset, display: TrainingDisplay, widgets: dict[str, Any], content: Any, style: Any
) -> dict[str, tuple[PictureSet, ...]]:
    """What came by wire, or what the model paints (kept, as B4M Auxiliary Pictures keeps it), for either concept."""
    resolution = min(filled(widgets, preset, "content")["resolution"], base.native_size)
    total = preset.auxiliary_sets * preset.auxiliary_pictures
    progress = host.Progress(total, display.node_id)

    def watch(done: int, total: int) -> None:
        progress.update(done)
        display.auxiliary(done, total)

    def painted(kind: str) -> tuple[PictureSet, ...]:
        return sample_auxiliary(
            base,
            kind,
            sets=preset.auxiliary_sets,
            pictures=preset.auxiliary_pictures,
            resolution=resolution,
            cache=host.run_store_folder(),
            watch=watch,
        )

    given = {"content": content, "style": style}
    return {role: painted(kind) if given[role] is None else given[role] for role, kind in BESIDE.items()}


def _instead(what: str) -> str:
    return f"Your own pictures of {what}. Leave it open: the model then paints them itself, once."
