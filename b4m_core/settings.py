"""The settings of a training, checked where they are made."""

from dataclasses import asdict, dataclass
from typing import Any

from .bounds import MOST_RANK
from .checked import number, text, whole, yes_or_no
from .errors import B4MError
from .layers import ATTENTION, LAYERS
from .metadata import FILE_DTYPES
from .splits import STARTS, split_named

CORRESPONDENCES = ("output_preservation", "multi_correspondence")
_MOST = 1e9  # far beyond sense, far below what float32 can hold
_WHOLE = {
    "steps": (1, 10**7), "rank": (1, MOST_RANK), "batch_size": (1, 1024), "gradient_accumulation_steps": (1, 4096),
    "resolution": (64, 8192), "seed": (-(2**63), 2**63), "basis_seed": (-(2**63), 2**63),
}  # fmt: skip
"""The least and the most of every whole number: what a training can be at all, far beyond what makes sense."""
_AS_BEFORE = (("layers", ATTENTION), ("textual_inversion", False))
"""What later settings say where a training is what it was without them."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything about a training but its pictures and its base model.

    ``steps`` optimiser steps of ``gradient_accumulation_steps`` micro-steps of ``batch_size`` own pictures each;
    ``learning_rate`` moves what is being taught; ``resolution`` is the side of the square whose area all buckets have,
    in pixels; ``max_grad_norm`` bounds the gradient norm of each part; ``preconditioner_damping`` is the Riemannian
    one; ``split`` is a name in splits.py, and ``start`` = published belongs to ``halves`` alone. ``correspondence``
    says what auxiliary pictures are for: ``output_preservation``, one row of them beside every own row holds what is
    being taught to the base model's own prediction there; ``multi_correspondence``, the paper's, one row of each set
    moves the other half, at ``auxiliary_learning_rate``. Training together knows ``output_preservation`` alone, beside
    the rows of the content and of the style. ``layers``: what is adapted, one of layers.py's. ``textual_inversion``: the
    token embeddings of the trigger are learned beside the adapter (learned_words.py); training together wears those of
    its two adapters and learns none.

    The defaults won on the embedded model; rank and rate for SDXL itself are not measured. The paper's are split =
    halves, start = published, correspondence = multi_correspondence, rank = 64.
    """

    steps: int = 1000
    rank: int = 32
    learning_rate: float = 1e-4
    auxiliary_learning_rate: float = 1e-5
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    preconditioner_damping: float = 1e-4
    batch_size: int = 1
    gradient_accumulation_steps: int = 4
    resolution: int = 512
    flip: bool = False
    seed: int = 0
    basis_seed: int = 0
    start: str = "zero_start"
    split: str = "free"
    correspondence: str = "output_preservation"
    file_dtype: str = "float16"
    layers: str = ATTENTION
    textual_inversion: bool = False

    def __post_init__(self) -> None:
        for name, (least, most) in _WHOLE.items():
            object.__setattr__(self, name, whole(getattr(self, name), name, least, most))
        for name in ("learning_rate", "auxiliary_learning_rate", "weight_decay", "max_grad_norm", "preconditioner_damping"):
            object.__setattr__(self, name, number(getattr(self, name), name, 0, _MOST))
        for name in ("flip", "textual_inversion"):
            yes_or_no(getattr(self, name), name)
        for name in ("start", "split", "correspondence", "file_dtype", "layers"):
            text(getattr(self, name), name)
        for name in ("learning_rate", "max_grad_norm", "preconditioner_damping"):
            if not 0 < getattr(self, name) < _MOST:
                raise B4MError(f"{name} is {getattr(self, name)}: it must be above 0 and below {_MOST:g}.")
        for name in ("auxiliary_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < _MOST:
                raise B4MError(f"{name} is {getattr(self, name)}: it must be at least 0 and below {_MOST:g}.")
        if self.resolution % 32:
            raise B4MError(
                f"resolution is {self.resolution}: choose a multiple of 32 from 64 up, such as 512, 768 or 1024."
            )
        if self.start not in STARTS:
            raise B4MError(f"start is {self.start!r}: choose one of {', '.join(STARTS)}.")
        row = split_named(self.split)
        if self.correspondence not in CORRESPONDENCES:
            raise B4MError(f"correspondence is {self.correspondence!r}: choose one of {', '.join(CORRESPONDENCES)}.")
        if self.start not in row.blocks:
            raise B4MError("start = published belongs to split = halves: choose that split, or zero_start.")
        if self.file_dtype not in FILE_DTYPES:
            raise B4MError(f"file_dtype is {self.file_dtype!r}: choose one of {', '.join(FILE_DTYPES)}.")
        if self.layers not in LAYERS:
            raise B4MError(f"layers is {self.layers!r}: choose one of {', '.join(LAYERS)}.")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for run keys and file headers; what came later, where it is not as before: so
        runs keep their keys, and adapters their bytes.
        """
        return {name: value for name, value in asdict(self).items() if (name, value) not in _AS_BEFORE}
