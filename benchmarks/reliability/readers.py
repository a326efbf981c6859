"""Everything that reads a file that somebody else may have made: a further reader is one more line of :data:`READERS`."""

from __future__ import annotations

import io
import json
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image, features

from b4m_core import Adapter, Concept, Facts, load_adapter, read_facts, save_adapter
from b4m_core.auxiliary import sample_auxiliary
from b4m_core.compact_text import FILE, compact_state_dict
from b4m_core.container import read_container, write_container
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.pictures import load_folder
from b4m_core.splits import SPLITS

from .mutations import BYTES, SAFETENSORS, Change, json_text

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "b4m_core" / "golden"
LAYERS = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (8, 8),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (10, 7),
}
PICTURE_KINDS = {
    "PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif", "BMP": ".bmp", "AVIF": ".avif", "JPEG2000": ".jp2",
    "TGA": ".tga", "ICO": ".ico", "PCX": ".pcx", "PPM": ".ppm",
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """``seeds`` are whole files; ``read`` is given the path of a mutated one, with the ending ``suffix``, in a folder of its own, and the
    whole one that it was made from beside it; ``changes`` are how it is mutated; ``share`` is its part of all files.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    suffix: str
    changes: tuple[Change, ...] = BYTES
    share: float = 1.0


def _facts(**changes: Any) -> Facts:
    concept = Concept("snq", "bear", ("a photo of a snq bear", "ein Bär im Schnee"))
    losses = ((1.0, 0.5, 0.25), (12.0, 0.125, 0.5))
    settings = {"resolution": 128, "seed": 3, "learning_rate": 1e-4, "flip": False}
    return Facts(**{"role": "content", "rank": 2, "content": concept, "losses": losses, "settings": settings, "parents": ("x",), **changes})


def _adapters(folder: Path, *, compact: bool) -> Iterator[bytes]:
    """One of every split, role and dtype, in the form that is asked for."""
    for split in SPLITS:
        for role, dtype in (("content", "float16"), ("style", "bfloat16"), ("merged", "float32")):
            adapter = Adapter.fresh(LAYERS, _facts(role=role, split=split, file_dtype=dtype))
            generator = torch.Generator().manual_seed(1)
            for layer in adapter.layers.values():
                for part in layer.parameters():
                    part.data.normal_(generator=generator)
            adapter = adapter.rounded()
            yield save_adapter(adapter.compacted() if compact else adapter, folder / "seed.safetensors").read_bytes()


def golden(folder: Path) -> list[bytes]:
    """Every version of every format that was ever written."""
    return [file.read_bytes() for file in sorted(GOLDEN.glob("format_*.safetensors"))]


def states(folder: Path) -> list[bytes]:
    tensors = {"losses": torch.zeros(3, 3, dtype=torch.float64), "x.D": torch.ones(2, 4), "x.D.exp_avg": torch.ones(2, 4)}
    write_container(folder / "state.safetensors", tensors, json.dumps({"step": 3}))
    return [(folder / "state.safetensors").read_bytes()]


def _picture(side: int = 48, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pictures(kind: str) -> Callable[[Path], list[bytes]]:
    """Small pictures of a kind of file, with what it may carry; none where this Pillow does not write it."""

    def made(folder: Path) -> list[bytes]:
        found = []
        for mode, more in (("RGB", {}), ("L", {}), ("RGBA", {}), ("P", {}), ("RGB", {"save_all": True, "append_images": [_picture()]})):
            buffer = io.BytesIO()
            try:
                _picture(mode=mode).save(buffer, kind, **more)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not every kind has every mode
            found.append(buffer.getvalue())
        return found

    return made


def read_pictures(file: Path) -> object:
    """The folder that holds the mutated picture and a whole one: that one must be read whatever the other is."""
    whole = file.with_name("whole.png")
    if not whole.exists():
        _picture().save(whole)
    found = load_folder(file.parent, trigger="snq", class_word="bear", pattern="a {trigger}")
    if "whole.png" not in [picture.name for picture in found.pictures]:
        raise AssertionError("the whole picture beside it was lost")
    return found


def captions(folder: Path) -> list[bytes]:
    text = "a photo of a snq bear, ein Bär im Schnee, 雪の中の熊"
    return [text.encode(each, "ignore") for each in ("utf-8", "utf-16", "cp1252", "cp932")] + [b""]


def _base() -> Any:
    """What painting asks of a base model."""
    grey = torch.full((64, 64, 3), 0.5)
    schedule = types.SimpleNamespace(prediction="epsilon")
    return types.SimpleNamespace(
        fingerprint="f", schedule=schedule, device=torch.device("cpu"), dtype=torch.float32, sample=lambda prompt, **_: grey
    )


def painted(folder: Path) -> list[bytes]:
    sample_auxiliary(_base(), "styles", sets=1, pictures=1, resolution=64, cache=folder)
    return [next((folder / "auxiliary").iterdir()).read_bytes()]


def read_painted(file: Path) -> object:
    """The mutated picture in its place in the cache: what comes back is what is painted, whatever lies there."""
    cache = file.parent / "cache"
    (cache / "auxiliary" / _cache_name(cache)).write_bytes(file.read_bytes())
    (found,) = sample_auxiliary(_base(), "styles", sets=1, pictures=1, resolution=64, cache=cache)
    if not (found.pictures[0].pixels == 128).all():
        raise AssertionError("another picture than the one that was painted")
    return found


def _cache_name(cache: Path) -> str:
    if not (cache / "auxiliary").is_dir():
        painted(cache)
    return next(file.name for file in (cache / "auxiliary").iterdir() if file.suffix == ".png")


def configs(folder: Path) -> list[bytes]:
    return [(ROOT / "mini" / "unet" / "config.json").read_bytes()]


def weights(folder: Path) -> list[bytes]:
    return [safetensors.torch.save({f"{name}.weight": torch.ones(shape) for name, shape in LAYERS.items()})]


def schedules(folder: Path) -> list[bytes]:
    return [json.dumps({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}).encode()]


def model_with(place: str) -> Callable[[Path], object]:
    """Reads a model folder whose file at ``place`` is the mutated one."""

    def read(file: Path) -> object:
        model = file.parent / "model"
        for name, made in (("unet/config.json", configs), ("unet/x.safetensors", weights), ("scheduler/scheduler_config.json", schedules)):
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_bytes(file.read_bytes() if name == place else made(file.parent)[0])
        base = DiffusersFolder(model)
        return base.native_size, base.network_fingerprint, base.schedule

    return read


def texts(folder: Path) -> list[bytes]:
    tensors = {"known_token_ids": torch.arange(3, dtype=torch.int32), "known_token_rows": torch.ones(3, 8), "x": torch.ones(2)}
    return [safetensors.torch.save(tensors)]


def read_text_encoder(file: Path) -> object:
    folder = file.parent / "text_encoder"
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(file.read_bytes())
    return compact_state_dict(folder)


READERS: dict[str, Reader] = {
    "adapter": Reader(lambda folder: list(_adapters(folder, compact=False)), load_adapter, ".safetensors", SAFETENSORS, 3),
    "compact adapter": Reader(lambda folder: list(_adapters(folder, compact=True)), load_adapter, ".safetensors", SAFETENSORS, 3),
    "older versions": Reader(golden, load_adapter, ".safetensors", SAFETENSORS, 2),
    "facts alone": Reader(golden, read_facts, ".safetensors", SAFETENSORS),
    "state of a run": Reader(states, read_container, ".safetensors", SAFETENSORS),
    "painted picture": Reader(painted, read_painted, ".png", share=0.3),
    "caption": Reader(captions, read_pictures, ".txt"),
    "model: network's settings": Reader(configs, model_with("unet/config.json"), ".json", (*BYTES, json_text, json_text, json_text), 0.5),
    "model: schedule": Reader(
        schedules, model_with("scheduler/scheduler_config.json"), ".json", (*BYTES, json_text, json_text, json_text), 0.5
    ),
    "model: weights": Reader(weights, model_with("unet/x.safetensors"), ".safetensors", SAFETENSORS, 0.5),
    "model: text encoder": Reader(texts, read_text_encoder, ".safetensors", SAFETENSORS, 0.5),
    **{f"picture: {kind}": Reader(pictures(kind), read_pictures, suffix, share=0.5) for kind, suffix in PICTURE_KINDS.items()},
}
if not features.check("avif"):
    del READERS["picture: AVIF"]
