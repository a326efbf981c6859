"""What quick, normal and thorough mean for a kind of base model: one table.

SDXL's rows are near what other trainers' users do with it, a few hundred to a few thousand pictures through the network
at 768 or 1024 pixels, one own picture a step; nobody has judged them by pictures yet. The embedded model's ``normal``
row is what its demo was tuned with, and its ``thorough`` row does as well on half the pictures as what its quality was
measured with, 250 steps of four (docs/roads.md, time to quality).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .checked import number
from .errors import B4MError

_HIGHEST_RATE = 1e6  # of a damping; settings.py bounds each by itself
BY_PRESET = "preset"
"""What a rate is set to that the preset decides; a number is left to it by 0, sample_every by -1."""
SMALLEST_REAL = 512
"""The least native size, in pixels, of a model that was made for real pictures; the embedded one has 192."""


@dataclass(frozen=True)
class Stage:
    """What differs between training apart and training together, by the names of the settings."""

    steps: int
    learning_rate: float
    batch_size: int
    gradient_accumulation_steps: int
    sample_every: int


@dataclass(frozen=True)
class Preset:
    """One row. ``trains_together``: whether the merge is trained on. ``auxiliary_sets`` of ``auxiliary_pictures`` each
    are painted for either concept, and ``keeps_together`` says whether training together sees them again.
    """

    apart: Stage
    together: Stage
    trains_together: bool
    keeps_together: bool
    rank: int
    resolution: int
    auxiliary_sets: int
    auxiliary_pictures: int

    def stage(self, role: str) -> Stage:
        """The numbers of the training ``content``, ``style`` or ``together``."""
        return self.together if role == "together" else self.apart


PRESETS: dict[str, dict[str, Preset]] = {
    "embedded": {
        "quick": Preset(Stage(40, 2e-3, 2, 1, 20), Stage(40, 5e-4, 2, 1, 20), False, False, 16, 192, 4, 1),
        "normal": Preset(Stage(100, 1e-3, 3, 1, 50), Stage(90, 5e-4, 2, 1, 45), True, False, 16, 192, 4, 2),
        "thorough": Preset(Stage(500, 1e-3, 1, 1, 100), Stage(50, 5e-4, 4, 1, 25), True, True, 16, 192, 4, 4),
    },
    "sdxl": {
        "quick": Preset(Stage(200, 4e-4, 1, 1, 100), Stage(50, 1e-4, 1, 1, 50), False, False, 32, 768, 4, 1),
        "normal": Preset(Stage(500, 2e-4, 1, 1, 125), Stage(50, 1e-4, 1, 1, 50), True, True, 32, 768, 4, 2),
        "thorough": Preset(Stage(1000, 1e-4, 1, 1, 200), Stage(100, 1e-4, 1, 1, 100), True, True, 32, 1024, 4, 4),
    },
}
"""By the kind of base model (see :func:`kind_of`) and by name."""
NAMES = ("quick", "normal", "thorough")
DEFAULT = "normal"


def kind_of(family: str, native_size: int) -> str:
    """The row of :data:`PRESETS` for a base model of ``family`` made for pictures of ``native_size`` pixels a side.

    Raises :class:`B4MError` for a family without one.
    """
    kind = "embedded" if native_size < SMALLEST_REAL else family
    if kind not in PRESETS:
        raise B4MError(f"There are no presets for {family} models yet: set steps, rates, rank and resolution yourself.")
    return kind


def preset_named(name: str, kind: str) -> Preset:
    """The preset ``name`` for a kind of base model. Raises :class:`B4MError` for an unknown one."""
    if name not in PRESETS[kind]:
        raise B4MError(f"preset is {name!r}: choose one of {', '.join(NAMES)}.")
    return PRESETS[kind][name]


def filled(widgets: Mapping[str, Any], preset: Preset, role: str) -> dict[str, Any]:
    """``widgets`` with what was left to the preset filled in, and rates as numbers.

    Left to it are numbers of 0, a ``sample_every`` of -1 and rates that say :data:`BY_PRESET`; what a node has no
    widget for stays away. Raises :class:`B4MError` for a rate that is no number.
    """
    stage = preset.stage(role)
    left: dict[str, Any] = {
        "steps": stage.steps,
        "batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.gradient_accumulation_steps,
        "rank": preset.rank,
        "resolution": preset.resolution,
    }
    result = dict(widgets)
    for name, value in left.items():
        if name in result and not result[name]:
            result[name] = value
    if result.get("sample_every") == -1:
        result["sample_every"] = stage.sample_every
    for name in result.keys() & {"learning_rate", "auxiliary_learning_rate", "preconditioner_damping", "weight_decay"}:
        by_preset = name == "learning_rate" and result[name] == BY_PRESET
        result[name] = stage.learning_rate if by_preset else rate(result[name], name)
    return result


def rate(value: Any, name: str) -> float:
    """A rate as a list of them says it ("1e-4"), or as a number. Raises :class:`B4MError` for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise B4MError(f"{name} is no number: choose one from the list, or give one such as 1e-4.") from None
    return number(value, name, 0.0, _HIGHEST_RATE)
