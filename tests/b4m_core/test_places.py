"""How many places a new idea touches.

In a copy of the method a training, a split, a family and a file format are each added by one file and one row (with the
import that it needs), and work: they train, save and load.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).parent

REFINE = '''
"""A content adapter, trained further by plain gradient descent."""

from typing import Any

import torch


def descent(row: Any, stacks: Any, settings: Any) -> torch.optim.Optimizer:
    parts = [stack.parts[part] for stack in stacks for part in stack.split.parts_of(row.train)]
    return torch.optim.SGD(parts, lr=settings.learning_rate)
'''
REFINED = """
content = train(tiny.plan("content", split="free", correspondence="output_preservation", steps=2), base, store)
plan = tiny.plan("content", split="free", correspondence="output_preservation", steps=2, learning_rate=1.0)
refined = train(Plan("refine", plan.pictures, plan.others, plan.settings, content), base, store)
assert refined.facts.role == "content" and refined.facts.content == content.facts.content
assert refined.digest() != content.digest() and refined.parts() == ("A", "D")
written(refined)
try:
    Plan("refine", plan.pictures, plan.others, plan.settings)
except B4MError as error:
    assert "Training refine needs a content adapter." in str(error)
else:
    raise AssertionError
"""
FIGURE = '''
"""The paper's figure: the halves with content in up and style in down, the other way round than the published code."""

from .basis import frozen_halves


def draw(m: int, n: int, rank: int, *, name: str, seed: int, start: str) -> dict:
    a, c = frozen_halves(m, n, rank, name=name, seed=seed + 1)
    return {"A": a, "C": c}
'''
DRAWN = """
changes = {"split": "figure", "steps": 2}
content, style = (train(tiny.plan(role, **changes, correspondence="output_preservation"), base, store) for role in ("content", "style"))
first = Adapter.for_unet(base.unet, content.facts)
for name, layer in content.layers.items():
    assert not torch.equal(layer.B, first.layers[name].B) and torch.equal(layer.D, first.layers[name].D)
    assert torch.equal(layer.A, first.layers[name].A) and layer.D.requires_grad and not layer.C.requires_grad
merged = merge(content, style)
layer = next(iter(merged.layers.values())).double()
half = len(layer.A)
assert torch.allclose(layer.delta_weight(2.0, 0.5)[half:], 2.0 * layer.B @ torch.cat([layer.C, 0.5 * layer.D], 1))
for correspondence, auxiliary in (("multi_correspondence", 0), ("output_preservation", 2)):
    plan = tiny.plan("together", adapter=merge(content, style), auxiliary=auxiliary, correspondence=correspondence, **changes)
    written(train(plan, base, store))
for adapter in (content, style, merge(content, style)):
    written(adapter)
    written(adapter.compacted())
"""
FLOW = """
from b4m_core.models.tiny_flow import FlowBase
base = FlowBase()
content, style = (train(tiny.plan(role, split="free", steps=2), base, store) for role in ("content", "style"))
together = train(tiny.plan("together", adapter=merge(content, style), split="free", steps=2), base, store)
for adapter in (content, style, together, content.compacted()):
    assert adapter.facts.family == "tiny_flow"
    written(adapter)
"""
PEFT = '''
"""The parts under the names of PEFT: down is lora_A, up is lora_B."""

from .adapter import Adapter, fresh_layer


def tensors(adapter: Adapter) -> dict:
    found = {}
    for path, layer in adapter.layers.items():
        up, down = layer.lora_factors()
        found[f"base_model.model.{path}.lora_A.weight"] = down.detach().contiguous()
        found[f"base_model.model.{path}.lora_B.weight"] = up.detach().contiguous()
    return found


def layers(tensors: dict, facts: object, shown: str) -> dict:
    found = {}
    for key in tensors:
        if key.endswith(".lora_B.weight"):
            path = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            up, down = tensors[key], tensors[key.replace("lora_B", "lora_A")]
            found[path] = fresh_layer(facts, path, len(up), down.shape[1])
            found[path].load_lora_factors(up, down)
    return found
'''
NAMED = """
from safetensors.torch import load_file
adapter = train(tiny.plan("content", split="halves", steps=2), base, store).with_facts(file_format="peft")
file = written(adapter)
assert all(key.startswith("base_model.model.") for key in load_file(file)) and read_facts(file).form == "peft"
"""
PRELUDE = """
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
import tiny
from b4m_core import *
import b4m_core

assert b4m_core.__file__.startswith(sys.argv[1]), b4m_core.__file__
base, store, count = tiny.TinyBase(), RunStore(Path(sys.argv[2])), iter(range(99))


def written(adapter):
    file = save_adapter(adapter, Path(sys.argv[2]) / f"{next(count)}.safetensors")
    again = load_adapter(file)
    assert again.digest() == adapter.digest() and again.facts == adapter.facts, adapter.facts
    return file

"""


@pytest.mark.parametrize(
    ("new", "source", "table", "after", "line", "row", "script"),
    [
        (
            "refine.py", REFINE, "trainings.py", "from .errors import B4MError\n", "from .refine import descent\n",
            (
                "TRAININGS = {\n",
                '    ("refine", "output_preservation"): Training(CONTENT, CONTENT, descent, "content", "a content adapter",'
                '        preserves=True),\n',
            ),
            REFINED,
        ),
        (
            "figure.py", FIGURE, "splits.py", "from .errors import B4MError\n", "from .figure import draw\n",
            ("    for split in (\n", '        Split("figure", ("B",), ("D",), True, {"zero_start": (("AB", "D"), ("B", "C"))}, draw),\n'),
            DRAWN,
        ),
        (
            "models/tiny_flow/__init__.py", (TINY / "tiny_flow" / "__init__.py").read_text(encoding="utf-8"), "models/__init__.py",
            "from .sdxl import SDXL\n", "from .tiny_flow import FLOW\n",
            ("    SDXL.name: SDXL,\n", "    FLOW.name: FLOW,\n"),
            FLOW,
        ),
        (
            "peft_file.py", PEFT, "files.py", "from .models import family_named\n", "from . import peft_file\n",
            ("FORMATS = {\n", '    "peft": FileFormat(peft_file.tensors, peft_file.layers, "lora", "peft", "Load it with PEFT."),\n'),
            NAMED,
        ),
    ],
    ids=["a fourth training", "a fourth split", "a second family", "a third file format"],
)  # fmt: skip
def test_one_file_and_one_row_are_all_that_it_takes(
    new: str, source: str, table: str, after: str, line: str, row: tuple[str, str], script: str, tmp_path: Path
) -> None:
    method = tmp_path / "copy" / "b4m_core"
    shutil.copytree(ROOT / "b4m_core", method, ignore=shutil.ignore_patterns("__pycache__"))
    assert not (method / new).exists()
    (method / new).parent.mkdir(exist_ok=True)
    (method / new).write_text(source, encoding="utf-8")
    before = (method / table).read_text(encoding="utf-8")
    assert before.count(after) == before.count(row[0]) == 1
    now = before.replace(after, after + line).replace(row[0], row[0] + row[1])
    (method / table).write_text(now, encoding="utf-8")
    changed = [each for each in difflib.ndiff(before.splitlines(), now.splitlines()) if each[0] in "+-"]
    assert changed == [f"+ {line.rstrip()}", f"+ {row[1].rstrip()}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(method.parent), str(TINY)])}
    command = [sys.executable, "-c", PRELUDE + script, str(method), str(tmp_path / "store")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
