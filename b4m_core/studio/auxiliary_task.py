"""A task that paints the auxiliary pictures that several trainings share, once and before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..auxiliary import BESIDE, sample_auxiliary
from . import stopping
from .place import Place, Tell

if TYPE_CHECKING:
    from ..diffusers_folder import DiffusersFolder


@dataclass(frozen=True)
class AuxiliaryWork:
    """``sets`` of ``pictures`` each, ``resolution`` pixels a side, for the trainings of a ``role``."""

    role: str
    sets: int
    pictures: int
    resolution: int

    def do(self, base: DiffusersFolder, place: Place, tell: Tell) -> str:
        """Paint what is not there yet; what was done, in words."""
        made = sample_auxiliary(
            base,
            BESIDE[self.role],
            sets=self.sets,
            pictures=self.pictures,
            resolution=self.resolution,
            cache=place.store,
            watch=lambda done, total: stopping.check(place.session),
        )
        return f"{sum(len(each.pictures) for each in made)} pictures of {self.resolution} px"
