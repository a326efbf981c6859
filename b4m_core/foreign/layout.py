"""What the layouts have in common: a key of a file is a layer and a part of its update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Parts = dict[str, Tensor]
"""One layer's tensors by the names of carried.py."""
Configuration = Mapping[str, object]
"""What stands beside the tensors: the header of the file, and PEFT's adapter_config.json."""


@dataclass(frozen=True)
class Layout:
    """One tool's way to name tensors: another one is one more file here and its row in :data:`LAYOUTS`.

    ``title`` is for people. ``split`` gives of a key the layer's name as the tool writes it and the part, by a name of
    carried.py or one of the tool's own; None for a key of another layout. ``finish`` (layer, parts, configuration)
    makes the parts those of carried.py.
    """

    name: str
    title: str
    split: Callable[[str], tuple[str, str] | None]
    finish: Callable[[str, Parts, Configuration], Parts]


def unchanged(layer: str, parts: Parts, configuration: Configuration) -> Parts:
    """For layouts whose parts have the names of carried.py already."""
    return parts
