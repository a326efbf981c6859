"""A joint or merged adapter as two files, one for each concept, so that any LoRA loader has both sliders: it loads the
two side by side, each at its own strength.

Of a split that is a sum (``free``, ``full``) the two add up to the whole exactly. In ``halves`` they do not: the block
B D, which both learned, is in neither, and the constant A C of the published start is in both.
"""

from pathlib import Path

import torch

from .adapter import Adapter
from .carried import DETAIL, Carried, of_concept
from .errors import B4MError
from .metadata import ROLES
from .splits import CONCEPTS

JOINT = ROLES[2:]


def apart(adapter: Adapter) -> dict[str, Adapter]:
    """The content and the style of a joint or merged adapter, by concept; merged again they are the whole, bit for bit.

    Raises :class:`B4MError` for an adapter of one concept.
    """
    if adapter.facts.role not in JOINT:
        raise B4MError(
            f"This is a {adapter.facts.role} adapter: only one that is merged or trained together can be taken apart."
        )
    fresh = Adapter.fresh(adapter.shapes(), adapter.facts)
    return {"content": _only(adapter, fresh, "content", "style"), "style": _only(adapter, fresh, "style", "content")}


def _only(adapter: Adapter, fresh: Adapter, concept: str, other: str) -> Adapter:
    """The adapter without the ``other`` concept, whose parts are as they begin and say nothing."""
    one, facts = adapter.clone().carrying(_pieces(adapter, concept)), adapter.facts
    parts = getattr(facts.split_row, other)
    with torch.no_grad():
        for name, layer in one.layers.items():
            for part in parts:
                getattr(layer, part).copy_(getattr(fresh.layers[name], part))
            getattr(layer, parts[0]).zero_()  # the published start draws D
    words = " in ".join(each.words() for each in (facts.content, facts.style) if each is not None and each.words())
    return one.with_facts(
        role=concept, **{other: None}, parents=(f"{facts.role}: {words}".strip(": "),), losses=(), compact=False
    )


def _pieces(adapter: Adapter, concept: str) -> tuple[Carried, ...]:
    """What goes with the concept of what is carried along; details go with the content."""
    return of_concept(adapter.carried, concept, *((DETAIL,) if concept == "content" else ()))


def apart_error(adapter: Adapter) -> float:
    """How far the two side by side are from the whole, at full strength: the relative Frobenius difference over all
    layers, 0 of a sum.
    """
    split = adapter.facts.split_row
    if not split.cut:
        return 0.0
    off = whole = 0.0
    with torch.no_grad():
        for layer in adapter.layers.values():
            update = layer.delta_weight()
            off += float((layer.delta_weight(1, 0) + layer.delta_weight(0, 1) - update).square().sum())
            whole += float(update.square().sum())
    return (off / whole) ** 0.5 if whole else 0.0


def apart_note(adapter: Adapter) -> str:
    """What the two files are worth elsewhere, in a sentence."""
    beside = " Its details are in the content's file." if of_concept(adapter.carried, DETAIL) else ""
    if not adapter.facts.split_row.cut:
        return f"One LoRA loader for each gives both sliders in every other tool, exactly.{beside}"
    return beside.lstrip() + (
        f"With the split {adapter.facts.split} the two files side by side in other tools are not the whole: at full strength they "
        f"are {apart_error(adapter):.0%} off; merged in B4M, and each alone, they are exact."
    )


def apart_paths(path: Path) -> dict[str, Path]:
    """Where the two go beside the one file: ``name_content.safetensors`` and ``name_style.safetensors``."""
    return {concept: path.with_name(f"{path.stem}_{concept}{path.suffix}") for concept in CONCEPTS}
