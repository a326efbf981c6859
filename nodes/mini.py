"""Node: the small SDXL that comes with B4M, for trying everything out without a download."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from . import host
from .widgets import schema


class B4MMiniModel(io.ComfyNode):
    """Loads the embedded model on the host's own classes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="B4MMiniModel",
            display_name="B4M Mini Model",
            category="B4M",
            description="The small SDXL that comes with B4M: no download, a picture in seconds, trainings in minutes even without "
            "a graphics card. It knows simple scenes only. For real work, replace it by Load Checkpoint with an SDXL model.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The small model's UNet, in SDXL's topology."),
                io.Clip.Output(display_name="clip", tooltip="Its two text encoders."),
                io.Vae.Output(display_name="vae", tooltip="Its picture encoder and decoder."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*host.mini_model())
