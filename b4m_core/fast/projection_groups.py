"""Which layers of the network read the same input, by their names alone.

A kind is a list of groups, a group a list of module paths: q, k and v of every self-attention of one width; every other
projection by itself; all keys and values of the text, which are one group since all of them read the prompt; and every
convolution by itself, shortcuts apart: they see one place at a time, as a Linear does.
"""

from collections import defaultdict
from collections.abc import Mapping

MEMBERS = {
    "self": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "self out": ("attn1.to_out.0",),
    "cross": ("attn2.to_q",),
    "cross out": ("attn2.to_out.0",),
}
SHORTCUT, CONVOLUTION = "shortcut", "convolution"
TEXT = ("attn2.to_k", "attn2.to_v")
FOR_ATTENTION = ("self", "cross", "text")
"""Kinds whose answers an attention reads, and keeps."""
Shape = tuple[int, int]


def kinds(shapes: Mapping[str, Shape]) -> dict[tuple[str, Shape], list[list[str]]]:
    """The groups of every kind: (what it is, its members' shape) to groups of module paths, for layers of those names
    and shapes.
    """
    blocks = sorted({name.split(".attn")[0] for name in shapes if ".attn" in name})
    found: dict[tuple[str, Shape], list[list[str]]] = defaultdict(list)
    for block in blocks:
        for kind, members in MEMBERS.items():
            paths = [f"{block}.{member}" for member in members]
            found[kind, shapes[paths[0]]].append(paths)
        paths = [f"{block}.{member}" for member in TEXT]
        texts = found["text", shapes[paths[0]]]
        texts[:] = [[*texts[0], *paths]] if texts else [paths]
    for path in sorted(name for name in shapes if ".attn" not in name):
        found[SHORTCUT if path.endswith("conv_shortcut") else CONVOLUTION, shapes[path]].append([path])
    return dict(found)
