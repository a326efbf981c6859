"""The widgets of the trainings. All but the preset and the words are advanced: pages fold them away."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..b4m_core import TrainingSettings
from ..b4m_core.layers import ATTENTION, LAYERS
from ..b4m_core.presets import DEFAULT, NAMES
from ..b4m_core.settings import CORRESPONDENCES
from ..b4m_core.splits import SPLITS
from .widgets import advanced, rate_widget, sampling_widgets, whole_number

REUSE, RETRAIN, TAKE = "continue or reuse", "retrain", "use what is trained"


def training_widgets() -> list[Any]:
    """The widgets of every training, in the order in which saved graphs keep them: new ones go last."""
    return [
        whole_number(
            "steps",
            "0: as the preset says. More when the likeness is weak, fewer when every picture looks like the ones you gave.",
            most=100_000,
        ),
        rate_widget(
            "learning_rate",
            "As the preset says. Lower it when the loss jumps or samples turn to noise; raise it when nothing is learned.",
        ),
        whole_number(
            "resolution",
            "0: as the preset says. Lower it when memory runs out; 1024 learns finer detail and takes twice as long as 768.",
            most=2048,
            step=32,
        ),
        whole_number(
            "seed",
            "Another number is another try with the same pictures. Same inputs and seed, same LoRA.",
            most=2**53,
            control_after_generate=False,
        ),
        whole_number(
            "sample_every",
            "A sample picture every so many steps. -1: as the preset says. 0: none, which saves time and memory.",
            default=-1,
            least=-1,
            most=100_000,
        ),
        io.String.Input(
            "sample_prompt", default="", tooltip="What the samples show; {content} and {style} are your words. Empty: it follows them."
        ),
        advanced(
            io.Combo.Input(
                "run",
                options=[REUSE, RETRAIN, TAKE],
                tooltip="Go on with a stopped training or reuse a finished one; train anew; or take what is trained up to the steps.",
            )
        ),
        *sampling_widgets(),
        whole_number(
            "batch_size",
            "0: as the preset says. Pictures of yours in every pass: more is calmer and takes more memory.",
            most=64,
        ),
        whole_number(
            "gradient_accumulation_steps",
            "0: as the preset says. Passes that make one step: more is calmer and slower, and takes no memory.",
            most=64,
        ),
        rate_widget("weight_decay", "Pull of what is learned to zero. Raise it when the LoRA bends other pictures.", "1e-2"),
        advanced(
            io.Boolean.Input(
                "flip",
                default=False,
                tooltip="Train on the mirror images too. Leave it off for faces, text, emblems, and styles whose strokes have a direction.",
            )
        ),
        advanced(
            io.Combo.Input(
                "file_dtype",
                options=["float16", "bfloat16", "float32"],
                tooltip="Precision of the saved file. float16 is what others use; float32 doubles its size for nothing you can see.",
            )
        ),
    ]


def preset_widget(**more: Any) -> Any:
    """Quick, normal or thorough: what all numbers come from that were not set by hand."""
    return io.Combo.Input(
        "preset",
        options=list(NAMES),
        default=DEFAULT,
        tooltip="quick shows whether your pictures work; normal is for use; thorough takes several times as long, for the final one.",
        **more,
    )


def apart_widgets() -> list[Any]:
    """What the content and the style training have besides; with the same values in both a merge keeps their split."""
    return [
        rate_widget(
            "auxiliary_learning_rate",
            "Only for correspondence = multi_correspondence: how fast auxiliary pictures train the other half. Leave it low.",
            "1e-5",
        ),
        whole_number(
            "rank",
            "0: as the preset says. Size of the LoRA: raise it for fine detail, lower it for smaller files and less memory. "
            "Best the same in content and style.",
            most=512,
        ),
        whole_number(
            "basis_seed",
            "Leave it. Where it, rank, start and split are the same in content and style, the two begin apart from each other and a merge "
            "keeps their split. Others merge too: as their exact sum.",
            most=2**31,
            control_after_generate=False,
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
                "halves: as published, each in half of every layer's rows and columns. Best the same in content and style.",
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


def later_widgets() -> list[Any]:
    """What the content and the style training learn besides. On their own, since they came after the preset: saved graphs
    keep values by position.
    """
    return [
        advanced(
            io.Combo.Input(
                "layers",
                options=list(LAYERS),
                default=ATTENTION,
                optional=True,
                tooltip="Choose attention_and_convolutions (LoCon) when style or subject stay weak at enough steps: a file a quarter "
                "larger, slower steps. Back to attention when both come out well. Content and style may differ.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "textual_inversion",
                default=TrainingSettings.textual_inversion,
                optional=True,
                tooltip="Learn the trigger word itself too, in both text encoders. Switch it on when the likeness stays weak. SDXL: nearly "
                "2 GB more memory and slower steps; prompts then need the CLIP that comes out of B4M Apply LoRA or of a LoRA loader.",
            )
        ),
    ]
