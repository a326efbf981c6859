"""Nodes: the three trainings, each on its own. They gather the inputs; a training itself is in session.py."""

from __future__ import annotations

from typing import Any, ClassVar

from comfy_api.v0_0_2 import io

from ..b4m_core import Adapter
from ..b4m_core.pictures import PictureSet
from .live import unfinished
from .session import display_of, result, train_apart, train_together
from .training_widgets import apart_widgets, later_widgets, preset_widget, training_widgets
from .widgets import CATEGORY, AdapterWire, Auxiliary, Pictures, model_clip_vae, rate_widget, rates_accepted, schema


def _outputs() -> list[Any]:
    return [
        AdapterWire.Output(display_name="adapter", tooltip="What was learned: to be saved, applied, merged or trained together."),
        io.Image.Output(display_name="last_sample", tooltip="The last sample picture."),
    ]


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
            *later_widgets(),
        ],
        outputs=_outputs(),
        hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        is_output_node=True,
    )


class TrainingNode(io.ComfyNode):
    """A node that trains. The host asks it again, instead of handing out an older result, after a training of it that did not end."""

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return unfinished(cls.hidden and cls.hidden.unique_id)


class _TrainApart(TrainingNode):
    """A stage-one training; content and style differ in their role and in words."""

    role: ClassVar[str]

    @classmethod
    def validate_inputs(cls, learning_rate: Any = None, weight_decay: Any = None, auxiliary_learning_rate: Any = None) -> bool | str:
        return rates_accepted(
            learning_rate=learning_rate, weight_decay=weight_decay, auxiliary_learning_rate=auxiliary_learning_rate
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, pictures: PictureSet, auxiliary: Any = None, **widgets: Any) -> io.NodeOutput:
        return result(*train_apart(cls, cls.role, display_of(cls), (model, clip, vae), pictures, auxiliary, widgets))


class B4MTrainContent(_TrainApart):
    """Stage one, content: what is content's learns the subject, beside other styles."""

    role = "content"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _apart_schema(
            "B4MTrainContent",
            "B4M Train Content LoRA (Subject, DreamBooth)",
            "Learns a subject from a few pictures, into the content part of an adapter. Cancel keeps it; Run goes on.",
            "Pictures of the subject.",
            "Other styles, so that the subject does not stick to one.",
        )


class B4MTrainStyle(_TrainApart):
    """Stage one, style: what is style's learns the style, beside other contents."""

    role = "style"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _apart_schema(
            "B4MTrainStyle",
            "B4M Train Style LoRA (Finetune)",
            "Learns a style from a few pictures, into the style part of an adapter. Cancel keeps it; Run goes on.",
            "Pictures in the style, each captioned with what it shows.",
            "Other contents, so that the style does not stick to one.",
        )


class B4MTrainTogether(TrainingNode):
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
                AdapterWire.Input("content", tooltip="A content: from B4M Train Content LoRA, or a saved one."),
                AdapterWire.Input("style", tooltip="A style: from B4M Train Style LoRA, or a saved one."),
                Pictures.Input("content_pictures", tooltip="The pictures of the subject again."),
                Pictures.Input("style_pictures", tooltip="The pictures of the style again."),
                Auxiliary.Input("content_auxiliary", optional=True, tooltip=_again("Train Content")),
                Auxiliary.Input("style_auxiliary", optional=True, tooltip=_again("Train Style")),
                *training_widgets(),
                rate_widget(
                    "preconditioner_damping",
                    "Leave it. Raise it to 1e-3 when training together makes the loss jump at once.",
                    "1e-4",
                ),
                preset_widget(optional=True),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

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
        pictures, auxiliary = (content_pictures, style_pictures), (content_auxiliary, style_auxiliary)
        return result(*train_together(cls, display_of(cls), (model, clip, vae), (content, style), pictures, auxiliary, widgets))


def _again(node: str) -> str:
    return f"What {node} got: on these, what is taught must not change the model. Doubles the rows of every step."
