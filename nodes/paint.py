"""Node: a picture with a trained LoRA, by the host's own sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..b4m_core import Adapter
from ..b4m_core.set_words import fill_prompt, words_of
from . import host
from .widgets import CATEGORY, AdapterWire, advanced, content_and_style, guidance, model_clip_vae, require_adapter, schema, whole_number


def _sampler_widgets() -> list[Any]:
    """Those of KSampler, with the same meaning."""
    return [
        advanced(io.String.Input("negative", default="", tooltip="What should not be in the picture.")),
        whole_number("width", "0: the model's own size. Others near it paint well too.", most=4096, step=32),
        whole_number("height", "0: the model's own size.", most=4096, step=32),
        whole_number("steps", "Sampler steps. Fewer are faster; over 40 nothing improves.", default=25, least=1, most=200),
        advanced(guidance("cfg")),
        advanced(io.Combo.Input("sampler_name", options=host.sampler_names(), default="euler", tooltip="As in KSampler.")),
        advanced(io.Combo.Input("scheduler", options=host.scheduler_names(), default="normal", tooltip="As in KSampler.")),
    ]


class B4MPaint(io.ComfyNode):
    """One picture with an adapter: what CLIPTextEncode, Apply, EmptyLatentImage, KSampler and VAEDecode would paint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MPaint",
            display_name="B4M Paint with LoRA",
            category=CATEGORY,
            description="Paints a picture with a trained LoRA, with one slider for the content and one for the style. The pixels are those "
            "of B4M Apply LoRA and KSampler with the same values; use these for ControlNet and the like.",
            inputs=[
                *model_clip_vae(),
                AdapterWire.Input("adapter", tooltip="From a training, a merge or a loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="a {content} in {style}",
                    tooltip="{content} and {style} become the trigger words of what was trained; write the rest as in every prompt.",
                ),
                *content_and_style(),
                io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=True, tooltip="Another number, another picture."),
                *_sampler_widgets(),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        adapter: Adapter,
        prompt: str,
        content: float,
        style: float,
        seed: int,
        negative: str,
        width: int,
        height: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
    ) -> io.NodeOutput:
        require_adapter(adapter, "adapter")
        sampling = host.Sampling(steps, cfg, sampler_name, scheduler, negative)
        base = host.HostBaseModel(model, clip, vae, sampling=sampling)
        progress = host.Progress(steps, cls.hidden.unique_id)
        picture = base.with_all_of(adapter, content, style).sample(
            fill_prompt(prompt, words_of(adapter.facts.content, adapter.facts.style), "the prompt"),
            width=width or base.native_size,
            height=height or base.native_size,
            seed=seed,
            watch=progress.update,
        )
        host.end_passes()
        return io.NodeOutput(picture[None])
