"""The ways to split a layer's update between content and style, by name: free for both, as published in halves, or with full reach."""

from .errors import B4MError
from .free_reach import FreeProjection
from .full_reach import FullReachProjection
from .projection import PartlyLearnableProjection

SPLITS: dict[str, type[PartlyLearnableProjection]] = {
    "free": FreeProjection,
    "full": FullReachProjection,
    "halves": PartlyLearnableProjection,
}


def projection_of(split: str) -> type[PartlyLearnableProjection]:
    """The projection of ``split``. Raises :class:`B4MError` for an unknown one."""
    if split not in SPLITS:
        raise B4MError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    return SPLITS[split]
