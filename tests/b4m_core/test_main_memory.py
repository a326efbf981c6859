"""What an adapter takes of main memory is given back when it is gone."""

import gc
import sys
from pathlib import Path

import pytest

from b4m_core import Adapter, Facts, load_adapter, save_adapter
from b4m_core.fast.driver import trim_main_memory

LAYERS = [f"down_blocks.1.attentions.0.transformer_blocks.{block}.attn1.to_{letter}" for block in range(40) for letter in "qkv"]
SHAPES = dict.fromkeys(LAYERS, (640, 640))


def resident() -> int:
    """Bytes of main memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says in a file what a process holds")
def test_an_adapter_leaves_no_main_memory_behind(tmp_path: Path) -> None:
    def round_trip() -> None:
        adapter = Adapter.fresh(SHAPES, Facts(role="content", rank=64, split="free"))
        load_adapter(save_adapter(adapter, tmp_path / "a.safetensors"))

    round_trip()
    gc.collect()
    trim_main_memory()
    before = resident()
    for _ in range(3):
        round_trip()
    gc.collect()
    trim_main_memory()
    one = 120 * 4 * 640 * 64 * 4  # the four parts of every layer, float32
    assert resident() - before < one / 4
