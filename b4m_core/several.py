"""One training in several processes: which pieces of an optimiser step each of them does, and what it asks of the others.

Micro-step i is drawn from the seed and i alone, so every process draws its own; their gradients are added up, and then
all make the same optimiser step. The first process alone keeps anything. Here is a process by itself, which asks nobody;
process_group.py has the real ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import B4MError
from .settings import TrainingSettings

Made = tuple[int, Mapping[str, Tensor]]
"""What the first process has for all: a number, and tensors by name."""


@dataclass(frozen=True)
class Share:
    """What a process does of every optimiser step: the pieces ``mine`` of ``pieces``, ``cuts`` of which are a
    micro-step.
    """

    pieces: int
    cuts: int
    mine: range


def share_out(settings: TrainingSettings, index: int, count: int) -> Share:
    """The share of process ``index`` of ``count``: whole micro-steps, or where those are too few, equal parts of their
    rows.

    Raises :class:`B4MError` where a process would have nothing to do.
    """
    accumulated, batch_size = settings.gradient_accumulation_steps, settings.batch_size
    enough = [cuts for cuts in range(1, batch_size + 1) if batch_size % cuts == 0 and accumulated * cuts >= count]
    if not enough:
        pictures = accumulated * batch_size
        raise B4MError(
            f"{count} processes cannot share out a step of {pictures} picture{'' if pictures == 1 else 's'} "
            f"(gradient_accumulation_steps {accumulated} x batch_size {batch_size}): set gradient_accumulation_steps to "
            f"{-(-count // batch_size)} with as many times fewer steps, or start at most {pictures}."
        )
    even = [cuts for cuts in enough if accumulated * cuts % count == 0]
    cuts = (even or enough)[0]
    return Share(accumulated * cuts, cuts, range(index, accumulated * cuts, count))


class Processes:
    """The processes of one training; this one is alone."""

    index, count = 0, 1
    lost = False
    """Whether another one is gone, and with it what the cards were still to add up."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that opens the run store, keeps what is learned and speaks."""
        return self.index == 0

    def share(self, settings: TrainingSettings) -> Share:
        """What this one does of every optimiser step."""
        return share_out(settings, self.index, self.count)

    def device(self, asked: str) -> str:
        """Where this one computes, where a person has ``asked`` for "cuda" or "cpu"."""
        return asked

    def require_same(self, facts: Callable[[], Mapping[str, str]]) -> None:
        """Raise :class:`B4MError` unless all processes have the same ``facts``, by what they are in words."""

    def check(self) -> None:
        """Raise KeyboardInterrupt where this process was asked to stop."""

    def from_first(self, make: Callable[[], Made | None]) -> Made | None:
        """What ``make`` gives in the first process, in every process; the others do not call it. The tensors are on the
        CPU.
        """
        return make()

    def summed(self, losses: Tensor, gradients: Sequence[Tensor], share: Share) -> Tensor:
        """Add up the ``gradients`` of all processes, in place. Returns the losses of all pieces, (2 pieces,), in their
        order; ``losses`` are those of this one's.

        Raises :class:`B4MError` where another process has failed, and KeyboardInterrupt where one was asked to stop;
        then no gradient has changed in any of them.
        """
        return losses


ALONE = Processes()
