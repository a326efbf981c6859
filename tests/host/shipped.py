"""Graphs in the host's API format: shipped ones made short enough for a test, and small ones made here."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from launcher.client import Graph

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "workflows").glob("*.json"))
SHIPPED = sorted((ROOT / "workflows" / "api").glob("*.json"))
NODES = (
    "B4MAdapterFacts",
    "B4MApplyAdapter",
    "B4MAuxiliaryPictures",
    "B4MCompareAdapters",
    "B4MContactSheet",
    "B4MJudge",
    "B4MLoadAdapter",
    "B4MMergeAdapters",
    "B4MMiniModel",
    "B4MPaint",
    "B4MPictures",
    "B4MPrompt",
    "B4MSaveAdapter",
    "B4MStrengthTable",
    "B4MTrain",
    "B4MTrainContent",
    "B4MTrainStyle",
    "B4MTrainTogether",
)
"""Every node type of the pack."""

FEWER: dict[str, dict[str, int]] = {
    "B4MTrain": {"steps": 4, "together_steps": 4, "sample_every": 2, "sample_steps": 2},
    "B4MAuxiliary": {"sets": 1, "pictures": 2},
    "B4MContactSheet": {"steps": 2},
    "B4MPaint": {"steps": 2},
    "B4MStrengthTable": {"steps": 2},
    "KSampler": {"steps": 2},
}
"""What the inputs of shipped nodes become in a test, by the beginning of the node's type."""


def load(path: Path) -> Graph:
    """The graph in a file."""
    graph: Graph = json.loads(path.read_text(encoding="utf-8"))
    return graph


def runs_here(graph: Graph) -> bool:
    """Whether a graph needs nothing but the embedded model: a checkpoint of six gigabytes is not in a test's reach."""
    return not any(node["class_type"].startswith("Checkpoint") for node in graph.values())


def shortened(graph: Graph) -> Graph:
    """The same graph with few pictures, trainings of a few steps and pictures painted in as few."""
    short = copy.deepcopy(graph)
    for node in short.values():
        for start, fewer in FEWER.items():
            if node["class_type"].startswith(start):
                node["inputs"].update({name: value for name, value in fewer.items() if name in node["inputs"]})
    return short


def up_to(graph: Graph, node: str) -> Graph:
    """The part of a graph that one node needs, itself included."""
    kept: Graph = {}
    waiting = [node]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = graph[name]
            waiting += [value[0] for value in graph[name]["inputs"].values() if isinstance(value, list)]
    return kept


def first_of(graph: Graph, class_type: str) -> str:
    """The id of the first node of a type."""
    return next(name for name, node in graph.items() if node["class_type"] == class_type)


def blue_picture(prefix: str = "tests/blue") -> dict[str, dict[str, Any]]:
    """A graph of the host's own nodes that saves a blue picture."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x3377CC}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }
