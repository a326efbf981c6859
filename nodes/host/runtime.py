"""The host's device, memory manager, progress bar and Cancel button."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from PIL import Image

from ...b4m_core import memory
from ...b4m_core.fast.native_calls import trim_main_memory
from .asking import ask

# Raised by the host when the artist presses Cancel. It is an Exception: catch it before any general handler.
Cancelled = comfy.model_management.InterruptProcessingException

_PREVIEW_LONGEST_SIDE = 512


def device() -> torch.device:
    """The device that the host computes on."""
    return comfy.model_management.get_torch_device()


def free_bytes() -> int:
    """Memory in bytes that is free on the host's device now, what torch holds in its cache included."""
    return int(comfy.model_management.get_free_memory(device()))


def make_room(wanted: int) -> int:
    """Ask the host's memory manager to unload models until `wanted` bytes are free on its device; returns the free bytes.

    Where the device has not that much, all models are unloaded, and with them go the copies that newer hosts keep of them in main memory,
    which such a machine needs. The host loads its models again by itself when a later node needs them.
    """
    comfy.model_management.free_memory(wanted, device())
    if device().type != "cpu":
        if free_bytes() < wanted:
            comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        trim_main_memory()
    return free_bytes()


def end_passes() -> None:
    """What newer hosts do after every node: let go of the pinned patches, buffers and mapped pages of the last passes."""
    ask(comfy.model_management, "reset_cast_buffers", lambda: None)()


def is_out_of_memory(error: Exception) -> bool:
    """Whether the host's device has run out of memory. A host that can tell is asked: it clears what the driver still holds."""
    told = ask(comfy.model_management, "is_oom", lambda error: isinstance(error, comfy.model_management.OOM_EXCEPTION))
    return bool(told(error)) or memory.is_out_of_memory(error)


def stop_if_cancelled() -> None:
    """Raise `Cancelled` when the artist pressed Cancel (which also resets the host's flag, so it is raised once)."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class Progress:
    """The host's progress bar on one node. `node_id` is the hidden unique_id, inside subgraphs "1:2:3"."""

    def __init__(self, total: int, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def update(self, step: int, preview: Image.Image | None = None) -> None:
        """Show `step` of the total and, if given, a preview picture; raises `Cancelled` when Cancel was pressed."""
        shown = None if preview is None else ("JPEG", preview, _PREVIEW_LONGEST_SIDE)
        self._bar.update_absolute(step, None, shown)
        stop_if_cancelled()
