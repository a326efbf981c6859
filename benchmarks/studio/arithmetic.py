"""1,000 contents and 1,000 styles on SDXL by arithmetic: bytes, hours, and what a merge on demand costs. Each figure with its
source; the merge of two adapters of SDXL's real size is measured here.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from b4m_core import Adapter, Facts, load_adapter, merge, save_adapter
from b4m_core.presets import PRESETS

BLOCKS = {640: 10, 1280: 60}
"""SDXL's transformer blocks by their width; each has two attentions of four projections, the second reading 2,048 features."""
CONTEXT = 2048
MS_512, MS_1024 = 36.4, 95.8
"""A micro-step on one H100 with the defaults, rank 32, free split: docs/speed.md."""
SECONDS_AROUND = 3.5 + 6.2
"""Until the first step, and from the last one to the saved adapter (4.7 to 7.6): docs/speed.md."""
SECONDS_TO_ADD, MS_PASS_OF_FOUR = 0.51, 111.0
"""Adding an adapter to the weights, and one pass of four pictures at 1024 px: docs/speed.md."""
SAMPLER_STEPS = 25
"""Of a picture: the nodes' default."""


def shapes() -> dict[str, tuple[int, int]]:
    """(m, n) of SDXL's 560 adapted layers; the names are ours to draw them, not SDXL's."""
    found = {}
    for place, (width, count) in zip(("down_blocks.1", "down_blocks.2"), BLOCKS.items(), strict=True):
        for block in range(count):
            for attention, features in (("attn1", width), ("attn2", CONTEXT)):
                for name in ("to_q", "to_k", "to_v", "to_out.0"):
                    n = features if name in ("to_k", "to_v") else width
                    found[f"{place}.attentions.0.transformer_blocks.{block}.{attention}.{name}"] = (width, n)
    return found


def merge_seconds(rank: int) -> tuple[float, int]:
    """Seconds to load a content and a style of SDXL's size from disk and to merge them here; bytes of one file."""
    with tempfile.TemporaryDirectory(prefix="b4m-merge-") as place:
        files = []
        for role, learned in (("content", "AD"), ("style", "BC")):
            made = Adapter.fresh(shapes(), Facts(role=role, rank=rank, split="free", file_dtype="float16"))
            with torch.no_grad():
                for layer in made.layers.values():
                    for part in learned:
                        getattr(layer, part).fill_(0.01)
            files.append(save_adapter(made.rounded(), Path(place) / f"{role}.safetensors"))
        size = files[0].stat().st_size
        began = time.monotonic()
        merge(*(load_adapter(file) for file in files))
        return time.monotonic() - began, size


def table(many: int = 1000) -> list[tuple[str, str, str]]:
    """(what, how much, whence)."""
    preset = PRESETS["sdxl"]["normal"]
    numbers = preset.rank * sum(m + n for m, n in shapes().values())
    seconds, size = merge_seconds(preset.rank)
    share = (preset.resolution**2 - 512**2) / (1024**2 - 512**2)
    micro = MS_512 + share * (MS_1024 - MS_512)
    stage = preset.apart
    training = stage.steps * stage.gradient_accumulation_steps * micro / 1000 + SECONDS_AROUND
    picture = SAMPLER_STEPS * MS_PASS_OF_FOUR / 1000
    trainings, pairs = 2 * many, many * many
    again, interpolated = "the same, times so many", f"one H100, {preset.resolution} px, between 512 and 1024 px by area (speed.md)"
    how = f"preset normal: {stage.steps} steps of {stage.gradient_accumulation_steps}, and start and save (speed.md)"
    threads = f"measured here, {torch.get_num_threads()} thread(s) of a processor"
    all_pictures = pairs * (seconds + SECONDS_TO_ADD + picture) / 3600
    return [
        ("one adapter", f"{size / 1e6:.0f} MB", f"rank {preset.rank}, {numbers:,} numbers in float16; a file of that size, written here"),
        (f"the library of {trainings:,}", f"{trainings * size / 1e9:.0f} GB", again),
        (f"{pairs:,} merged files instead", f"{2 * pairs * size / 1e12:.0f} TB", "twice the rank each"),
        ("a micro-step", f"{micro:.0f} ms", interpolated),
        ("one training", f"{training:.0f} s", how),
        (f"{trainings:,} trainings", f"{trainings * training / 3600:.0f} h of a card", f"{again}; on 8 cards an eighth"),
        (f"{pairs:,} joint trainings instead", f"{pairs * training / 3600:,.0f} h of a card", "if one took no longer than one apart"),
        ("a merge: load both, merge", f"{seconds:.1f} s", threads),
        ("a merge: put it into the weights", f"{SECONDS_TO_ADD} s", "one H100, rank 64 (speed.md)"),
        ("a picture of a pair, 1024 px", f"{picture:.1f} s", f"one H100, {SAMPLER_STEPS} steps, by the pass of four (speed.md)"),
        (f"one picture of all {pairs:,}", f"{all_pictures:,.0f} h of a card", "so sheets show chosen ones"),
    ]
