"""What a training is before it begins: its pictures, its settings, the name of its run, and the adapter that it starts
from.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from .adapter import Adapter
from .base_model import BaseModel
from .compose import completed
from .errors import B4MError
from .layers import matrix_shape
from .metadata import Facts
from .models import family_named
from .models.family import adapted_layers
from .pictures import PictureSet
from .runs import content_key
from .settings import TrainingSettings
from .splits import CONCEPTS
from .trainings import training

NOT_IN_THE_KEY = ("steps", "file_dtype")
"""Settings that decide how far a training goes and how its result is stored, and no step of it."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained: the role (a row of trainings.py), its pictures, the other picture sets, the settings.

    ``content`` and ``style`` start from a fresh adapter, ``others`` being auxiliary sets; ``together`` starts from
    ``start``, the merged adapter, ``pictures`` being the content's and ``others`` the style's, then auxiliary sets of
    both kinds. What it carries along is no part of the training: the base model wears it.
    """

    role: str
    pictures: PictureSet
    others: tuple[PictureSet, ...]
    settings: TrainingSettings
    start: Adapter | None = None

    def __post_init__(self) -> None:
        row = training(self.role, self.settings.correspondence)
        if row.needs and (self.start is None or len(self.others) < row.primary_sets - 1):
            raise B4MError(f"Training {self.role} needs {row.needs}.")
        if self.settings.textual_inversion and row.makes not in CONCEPTS:
            raise B4MError(
                f"Training {self.role} learns no words, it wears those of its two adapters as they are: switch textual_inversion off."
            )
        if len(self.others) >= row.primary_sets > 1 and not row.preserves:
            raise B4MError(
                f"Training {self.role} preserves the model on auxiliary pictures or has none: choose "
                "correspondence = output_preservation, or leave them out."
            )

    @property
    def learns_words_of(self) -> str:
        """The concept whose trigger's token embeddings are learned; nothing where none are."""
        return training(self.role, self.settings.correspondence).makes if self.settings.textual_inversion else ""

    def key(self, base: BaseModel) -> str:
        """The content key of the run: equal for identical inputs, and only for those.

        Nothing in a step depends on how many steps there will be, on the file dtype of the result or on how many
        processes share it out, so that these are no part of it.
        """
        return content_key(self._parts(base))

    def facts(self, base: BaseModel) -> dict[str, str]:
        """What all processes of one training must have alike, by what it is in words: digests, and versions as they
        are.
        """
        words = {
            "role": "kind of training", "sets": "set of pictures, captions or words", "settings": "value of a setting",
            "start": "adapter to begin with", "base": "base model", "schedule": "noise schedule", "arithmetic": "precision",
        }  # fmt: skip
        digests = {words[name]: content_key({name: value}) for name, value in self._parts(base).items()}
        asked = content_key({"asked": self.settings.as_dict()})
        return {"PyTorch": torch.__version__, **digests, "number of steps or file dtype": asked}

    def _parts(self, base: BaseModel) -> dict[str, Any]:
        """What decides what a step does."""
        settings = {name: value for name, value in self.settings.as_dict().items() if name not in NOT_IN_THE_KEY}
        sets = [
            {
                "trigger": pictures.trigger,
                "class": pictures.class_word,
                "pictures": [picture.digest() for picture in pictures.pictures],
            }
            for pictures in (self.pictures, *self.others)
        ]
        return {
            "role": self.role,
            "sets": sets,
            "settings": settings,
            "start": None if self.start is None else self.start.digest(),
            "base": base.fingerprint,
            "schedule": base.schedule.describe(),
            "arithmetic": [base.device.type, str(base.dtype)],
        }


def first_adapter(plan: Plan, base: BaseModel) -> Adapter:
    """Where the training begins: a fresh adapter, or for ``together`` a copy of the merged one, with the layers that it
    lacks (:func:`~b4m_core.compose.completed`).
    """
    concept, makes = plan.pictures.concept(), training(plan.role, plan.settings.correspondence).makes
    facts = Facts(
        role=makes,
        rank=plan.settings.rank,
        basis_seed=plan.settings.basis_seed,
        start=plan.settings.start,
        family=base.family.name,
        split=plan.settings.split,
        base=base.network_fingerprint,
        base_name=base.name,
        prediction=base.schedule.prediction,
        content=None if makes == "style" else concept,
        style=concept if makes == "style" else plan.others[0].concept() if makes == "together" else None,
        settings=plan.settings.as_dict(),
        file_dtype=plan.settings.file_dtype,
        layers=plan.settings.layers,
    )
    if plan.start is None:
        return Adapter.for_unet(base.unet, facts)
    start = completed(plan.start, base_shapes(plan.start, base))
    known = start.facts
    facts = dataclasses.replace(
        facts, basis=known.basis, stored_basis=known.stored_basis, parents=known.parents, **known.common()
    )
    return Adapter(start.clone().layers, facts)


def base_shapes(adapter: Adapter, base: BaseModel) -> dict[str, tuple[int, int]]:
    """(m, n) of every layer of the base model that the adapter's family adapts, of the kinds that the adapter has."""
    layers = adapted_layers(family_named(adapter.facts.family), base.unet, adapter.facts.layers)
    return {name: matrix_shape(layer) for name, layer in layers}
