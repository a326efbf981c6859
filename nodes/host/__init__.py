"""All that B4M asks of ComfyUI. Only this package imports the host's own modules (comfy, folder_paths, server)."""

from .asking import ask
from .base_model import HostBaseModel
from .folders import (
    input_subfolders,
    lora_files,
    lora_folder_times,
    lora_stamps,
    loras_folder,
    refresh_lora_list,
    run_store_folder,
    safe_input_folder,
    safe_lora_path,
    safe_new_lora_path,
    sweep_folders,
    writable_input_folder,
)
from .identity import checkpoint_name, fingerprint, network_fingerprint
from .lora import apply_adapter, apply_lora, carried_note, keys_not_loaded, without_clip
from .machine import machine
from .mini_model import mini_model
from .model_support import describe_model, native_size, noise_schedule, require_sdxl
from .network import training_dtype, training_network
from .runtime import Cancelled, Progress, device, end_passes, free_bytes, make_room, stop_if_cancelled
from .sampler import PictureDoesNotFit, Sampling, encode_pictures, encode_text, fits, sampler_names, scheduler_names
from .server import add_json_route, add_picture_route, running_page, send_event
from .switched_off import switched_off
from .text_encoders import require_teachable
from .vision import embed_pictures, embed_prompt
from .vocabulary import vocabulary
from .wires import painting_note, require_clip, require_model, require_vae, training_note

__all__ = [
    "Cancelled",
    "HostBaseModel",
    "PictureDoesNotFit",
    "Progress",
    "Sampling",
    "add_json_route",
    "add_picture_route",
    "apply_adapter",
    "apply_lora",
    "ask",
    "carried_note",
    "checkpoint_name",
    "describe_model",
    "device",
    "embed_pictures",
    "embed_prompt",
    "encode_pictures",
    "encode_text",
    "end_passes",
    "fingerprint",
    "fits",
    "free_bytes",
    "input_subfolders",
    "keys_not_loaded",
    "lora_files",
    "lora_folder_times",
    "lora_stamps",
    "loras_folder",
    "machine",
    "make_room",
    "mini_model",
    "native_size",
    "network_fingerprint",
    "noise_schedule",
    "painting_note",
    "refresh_lora_list",
    "require_clip",
    "require_model",
    "require_sdxl",
    "require_teachable",
    "require_vae",
    "run_store_folder",
    "safe_input_folder",
    "safe_lora_path",
    "safe_new_lora_path",
    "sampler_names",
    "scheduler_names",
    "running_page",
    "send_event",
    "stop_if_cancelled",
    "sweep_folders",
    "training_dtype",
    "training_network",
    "training_note",
    "without_clip",
    "switched_off",
    "vocabulary",
    "writable_input_folder",
]
