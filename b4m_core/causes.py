"""What is not a number in a training, and what helps: looked for only when something was found, so no step is slower."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .errors import B4MError
from .settings import TrainingSettings


class NotANumber(B4MError):
    """A step found a loss or a gradient that is not a number; nothing has moved since. ``what`` is "loss" or
    "gradient".
    """

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"The {what} is not a number at step {step}.")
        self.what, self.step = what, step


def explained(
    error: NotANumber,
    kept: int,
    settings: TrainingSettings,
    learned: Mapping[str, Tensor],
    network: nn.Module,
) -> B4MError:
    """The sentence for the artist: what happened, which step is ``kept``, and what helps.

    ``learned`` are the tensors of what is trained, moments among them, by names for people. Texts and pictures were
    looked at when they were encoded.
    """
    happened = f"The {error.what} is not a number at step {error.step} of {settings.steps}: {_stopped(kept)}"
    bad = first_not_finite(learned.items())
    if bad is not None:
        return B4MError(f"{happened}; {bad} holds what is not a number, so {_lower(settings)}.")
    bad = first_not_finite([*network.named_parameters(), *network.named_buffers()])
    if bad is not None:
        return B4MError(
            f"{happened}; the base model itself holds what is not a number in {bad}: load another checkpoint, or take "
            "away the LoRA or patch before this node that brings it in."
        )
    if error.step == 1:  # nothing has been learned yet, so the rate has no part in it
        return B4MError(
            f"{happened}; what is taught is still as it began, so the base model overflows on these pictures: load it "
            "in another precision (bfloat16 or float32), or without the LoRAs before this node."
        )
    return B4MError(f"{happened}; {_lower(settings)}.")


def require_finite(learned: Mapping[str, Tensor], step: int, kept: int, settings: TrainingSettings) -> None:
    """Raise :class:`B4MError`, naming the tensor, unless everything that ``step`` steps have taught is a number."""
    bad = first_not_finite(learned.items())
    if bad is not None:
        raise B4MError(
            f"{bad} holds what is not a number after step {step} of {settings.steps}: {_stopped(kept)}; "
            f"{_lower(settings)}."
        )


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; looked at one by one, where they are."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def _stopped(kept: int) -> str:
    return f"training stopped and step {kept} is kept" if kept else "training stopped, and no step is kept"


def _lower(settings: TrainingSettings) -> str:
    return f"lower learning_rate (now {settings.learning_rate:g})"
