"""The host's side of B4M. Importing this package imports ComfyUI; only the pack's entry point does so."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from . import estimates, host, kept, picture_panel, shown
from .adapter import B4MAdapterFacts, B4MApplyAdapter, B4MLoadAdapter, B4MMergeAdapters
from .dataset import B4MAuxiliaryPictures, B4MPictures, folder_fingerprint
from .guard import guarded
from .judge import B4MJudge
from .mini import B4MMiniModel
from .paint import B4MPaint
from .prompt import B4MPrompt
from .save import B4MSaveAdapter
from .sheet import B4MCompareAdapters, B4MContactSheet, B4MStrengthTable
from .train import B4MTrainContent, B4MTrainStyle, B4MTrainTogether
from .train_all import B4MTrain

NODES: list[type[io.ComfyNode]] = [
    B4MMiniModel,
    B4MPictures,
    B4MAuxiliaryPictures,
    B4MTrain,
    B4MTrainContent,
    B4MTrainStyle,
    B4MTrainTogether,
    B4MSaveAdapter,
    B4MLoadAdapter,
    B4MApplyAdapter,
    B4MMergeAdapters,
    B4MPaint,
    B4MContactSheet,
    B4MStrengthTable,
    B4MCompareAdapters,
    B4MAdapterFacts,
    B4MPrompt,
    B4MJudge,
]
for _node in NODES:
    guarded(_node)


class B4MExtension(ComfyExtension):
    """What ComfyUI asks for: the list of nodes."""

    async def on_load(self) -> None:
        """Not called by ComfyUI 0.3.52; nothing that matters may depend on it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Called once while ComfyUI starts, before its routes are frozen."""
        for node in NODES:
            node.GET_SCHEMA()  # a copy of the pack that fails must not leave a route behind
        shown.add_route(folder_fingerprint)
        picture_panel.add_routes()
        kept.add_routes()
        estimates.add_route()
        host.sweep_folders()
        return list(NODES)
