"""The trainings as rows: they differ in who moves what, in who leads, in what partners are taught, and in the optimiser; the loop is one.

Another training is one more row here; training.py has the loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.optim import AdamW, Optimizer

from .errors import B4MError
from .projection import PartlyLearnableProjection
from .riemannian import RiemannianAdamW
from .row_split import Rows
from .settings import TrainingSettings
from .stacks import Stack

BETAS, EPS = (0.9, 0.999), 1e-8
CONTENT, STYLE = frozenset({"content"}), frozenset({"style"})
Kind = type[PartlyLearnableProjection]


@dataclass(frozen=True)
class Training:
    """One row.

    ``own`` and ``partner`` say whose factors the loss on the own and on the partner pictures moves, content's or style's; ``make`` makes
    the optimiser from the row, the stacks and the settings. ``leaders``: how many sets, the own one first, choose the bucket in turn; a
    partner set that never leads is an auxiliary one. ``keeps``: one row of any auxiliary set stands beside every row of the leading sets,
    and is taught the base model's own prediction instead of the noise.
    """

    own: frozenset[str]
    partner: frozenset[str]
    make: Callable[["Training", Sequence[Stack], TrainingSettings], Optimizer]
    keeps: bool = False
    leaders: int = 1

    def optimiser(self, stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
        """What steps the stacks."""
        return self.make(self, stacks, settings)

    def rows(self, own: int, total: int) -> Rows:
        """Which of ``total`` rows, ``own`` of them own and first, move style and which move content."""
        return Rows(up=self._slice("style", own, total), down=self._slice("content", own, total))

    def _slice(self, concept: str, own: int, total: int) -> slice:
        first = 0 if concept in self.own else own
        last = total if concept in self.partner else own
        return slice(first, max(first, last))

    def kept(self, partners: int) -> bool:
        """Whether rows are kept, with so many partner sets."""
        return self.keeps and partners >= self.leaders

    def beside(self, partners: int) -> int:
        """How many rows stand beside every row of the own set, of so many partner sets."""
        return 2 * self.leaders - 1 if self.kept(partners) else partners

    def moved(self, kind: Kind, *, partners: bool) -> tuple[str, ...]:
        """The parts of ``kind`` that move, with partners or without."""
        return _parts_of(kind, self.own | self.partner if partners else self.own)


def _parts_of(kind: Kind, concepts: frozenset[str]) -> tuple[str, ...]:
    mine = (*(kind.content if "content" in concepts else ()), *(kind.style if "style" in concepts else ()))
    return tuple(part for part in kind.learned() if part in mine)


def _adamw(row: Training, stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
    """Plain AdamW with a rate of its own for what only partners move: the orthogonal break of stage one."""

    def parts(concepts: frozenset[str]) -> list[Tensor]:
        return [stack.parts[part] for part in _parts_of(stacks[0].kind, concepts) for stack in stacks]

    groups = [
        {"params": parts(row.own), "lr": settings.learning_rate},
        {"params": parts(row.partner - row.own), "lr": settings.partner_learning_rate},
    ]
    fused = stacks[0].up.is_cuda or None
    return AdamW([group for group in groups if group["params"]], betas=BETAS, eps=EPS, weight_decay=settings.weight_decay, fused=fused)


def _riemannian(row: Training, stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
    """The preconditioned optimiser of stage two."""
    products = [product for stack in stacks for product in stack.products()]
    return RiemannianAdamW(
        [pair for pair, _ in products],
        lr=settings.learning_rate,
        betas=BETAS,
        eps=EPS,
        weight_decay=settings.weight_decay,
        damping=settings.damping,
        frozen=[frozen for _, frozen in products],
    )


TRAININGS = {
    ("content", "keep"): Training(CONTENT, CONTENT, _adamw, keeps=True),
    ("content", "partner"): Training(CONTENT, STYLE, _adamw),
    ("style", "keep"): Training(STYLE, STYLE, _adamw, keeps=True),
    ("style", "partner"): Training(STYLE, CONTENT, _adamw),
    ("together", "keep"): Training(CONTENT | STYLE, CONTENT | STYLE, _riemannian, keeps=True, leaders=2),
    ("together", "partner"): Training(CONTENT | STYLE, CONTENT | STYLE, _riemannian, leaders=2),
}


def training(role: str, correspondence: str) -> Training:
    """The row of ``role``, ``correspondence`` being checked by the settings. Raises :class:`B4MError` for an unknown role."""
    if (role, correspondence) not in TRAININGS:
        raise B4MError(f"Unknown training {role!r}: choose one of {', '.join(dict.fromkeys(role for role, _ in TRAININGS))}.")
    return TRAININGS[role, correspondence]
