"""The three trainings as three rows: they differ in who moves what, in who leads, and in the optimiser; the loop is one (training.py).

A fourth training is one more row here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.optim import AdamW, Optimizer

from .errors import B4MError
from .riemannian import RiemannianAdamW
from .row_split import Rows
from .settings import TrainingSettings
from .stacks import Stack

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Training:
    """One row.

    ``own`` and ``partner`` say which halves the loss on the own and on the partner pictures moves ("up", "down"); ``partners_lead`` lets
    the partner set choose the bucket on every second micro-step; ``optimiser`` is made from the stacks and the settings.
    """

    own: frozenset[str]
    partner: frozenset[str]
    partners_lead: bool
    optimiser: Callable[[Sequence[Stack], TrainingSettings], Optimizer]

    def rows(self, own: int, total: int) -> Rows:
        """Which of ``total`` rows, ``own`` of them own and first, give B and which give D their gradient."""
        return Rows(up=self._slice("up", own, total), down=self._slice("down", own, total))

    def _slice(self, half: str, own: int, total: int) -> slice:
        first = 0 if half in self.own else own
        last = total if half in self.partner else own
        return slice(first, max(first, last))


def _adamw(up_rate: Callable[[TrainingSettings], float], down_rate: Callable[[TrainingSettings], float]) -> Callable[..., Optimizer]:
    """Plain AdamW with a rate for each half: the orthogonal break of stage one."""

    def make(stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
        groups = [
            {"params": [stack.up for stack in stacks], "lr": up_rate(settings)},
            {"params": [stack.down for stack in stacks], "lr": down_rate(settings)},
        ]
        return AdamW(groups, betas=BETAS, eps=EPS, weight_decay=settings.weight_decay)

    return make


def _riemannian(stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
    """The preconditioned optimiser of stage two."""
    return RiemannianAdamW(
        [(stack.up, stack.down) for stack in stacks],
        lr=settings.learning_rate,
        betas=BETAS,
        eps=EPS,
        weight_decay=settings.weight_decay,
        damping=settings.damping,
        frozen=[stack.frozen for stack in stacks],
    )


def _own_rate(settings: TrainingSettings) -> float:
    return settings.learning_rate


def _partner_rate(settings: TrainingSettings) -> float:
    return settings.partner_learning_rate


TRAININGS = {
    "content": Training(frozenset({"down"}), frozenset({"up"}), False, _adamw(up_rate=_partner_rate, down_rate=_own_rate)),
    "style": Training(frozenset({"up"}), frozenset({"down"}), False, _adamw(up_rate=_own_rate, down_rate=_partner_rate)),
    "together": Training(frozenset({"up", "down"}), frozenset({"up", "down"}), True, _riemannian),
}


def training(role: str) -> Training:
    """The row of ``role``. Raises :class:`B4MError` for an unknown one."""
    if role not in TRAININGS:
        raise B4MError(f"Unknown training {role!r}: choose one of {', '.join(TRAININGS)}.")
    return TRAININGS[role]
