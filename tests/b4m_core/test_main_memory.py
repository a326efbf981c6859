"""What an adapter takes of main memory is given back when it is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
import gc, sys
from pathlib import Path
from b4m_core import Adapter, Facts, load_adapter, save_adapter
from b4m_core.fast.native_calls import trim_main_memory

LAYERS = [f"down_blocks.1.attentions.0.transformer_blocks.{block}.attn1.to_{letter}" for block in range(40) for letter in "qkv"]
SHAPES = dict.fromkeys(LAYERS, (640, 640))

def round_trip():
    adapter = Adapter.fresh(SHAPES, Facts(role="content", rank=64, split="free"))
    load_adapter(save_adapter(adapter, Path(sys.argv[1]) / "a.safetensors"))

def resident():
    gc.collect()
    trim_main_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

round_trip()
before = resident()
for _ in range(8):
    round_trip()
print(resident() - before)
"""
ONE = 120 * 4 * 640 * 64 * 4
"""Bytes of the adapter: four parts of every layer, float32."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says in a file what a process holds")
def test_adapters_leave_no_main_memory_behind(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SOURCE, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 * ONE  # three to four where small tensors stay with the C library
