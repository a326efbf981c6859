"""The trainings as rows: they differ in who moves what, in which sets are primary, in what the other rows are for, and
in the optimiser; the loop is one.

A batch has train rows, of the artist's pictures, and beside them auxiliary rows, other pictures under the same noise
and timestep (the paper's multi-correspondence), or preservation rows, which are held to what the base model says
without the adapter (prior preservation with the base model as teacher). Another training is one more row here;
training.py has the loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.optim import AdamW, Optimizer

from .errors import B4MError
from .riemannian import RiemannianAdamW
from .row_split import Rows
from .settings import TrainingSettings
from .splits import Split
from .stacks import Stack

BETAS, EPS = (0.9, 0.999), 1e-8
CONTENT, STYLE = frozenset({"content"}), frozenset({"style"})


@dataclass(frozen=True)
class Training:
    """One row.

    ``train`` and ``others`` say whose parts, content's or style's, the loss of the train rows and that of the rows
    beside them moves. ``make`` makes the optimiser from the row, the stacks and the settings. ``makes`` is the role of
    the adapter that comes out (metadata.py), and ``needs`` what a training goes on from, in words; without it one
    begins afresh. ``primary_sets``: how many picture sets, the first ones, choose the bucket in turn; the sets after
    them are auxiliary. ``preserves``: with auxiliary sets, all primary rows are train rows, and each has one
    preservation row of any auxiliary set beside it.
    """

    train: frozenset[str]
    others: frozenset[str]
    make: Callable[["Training", Sequence[Stack], TrainingSettings], Optimizer]
    makes: str
    needs: str = ""
    preserves: bool = False
    primary_sets: int = 1

    def optimiser(self, stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
        """What steps the stacks."""
        return self.make(self, stacks, settings)

    def rows(self, train_rows: int, total: int) -> Rows:
        """Which of ``total`` rows, the first ``train_rows`` of them train rows, move style and which content."""
        return Rows(up=self._slice("style", train_rows, total), down=self._slice("content", train_rows, total))

    def _slice(self, concept: str, train_rows: int, total: int) -> slice:
        first = 0 if concept in self.train else train_rows
        last = total if concept in self.others else train_rows
        return slice(first, max(first, last))

    def has_preservation_rows(self, other_sets: int) -> bool:
        """Whether there are preservation rows, with so many sets beside the first."""
        return self.preserves and other_sets >= self.primary_sets

    def rows_beside(self, other_sets: int) -> int:
        """How many rows stand beside every row of the first set, with so many other sets."""
        return 2 * self.primary_sets - 1 if self.has_preservation_rows(other_sets) else other_sets

    def moved(self, split: Split, *, other_sets: bool) -> tuple[str, ...]:
        """The parts of ``split`` that move, with other sets or without."""
        return split.parts_of(self.train | self.others if other_sets else self.train)


def adamw(row: Training, stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
    """Plain AdamW with a rate of its own for what only auxiliary rows move: the orthogonal break of stage one."""

    def parts(concepts: frozenset[str]) -> list[Tensor]:
        return [stack.parts[part] for part in stacks[0].split.parts_of(concepts) for stack in stacks]

    groups = [
        {"params": parts(row.train), "lr": settings.learning_rate},
        {"params": parts(row.others - row.train), "lr": settings.auxiliary_learning_rate},
    ]
    fused = stacks[0].up.is_cuda or None
    return AdamW(
        [group for group in groups if group["params"]],
        betas=BETAS,
        eps=EPS,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def riemannian(row: Training, stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
    """The preconditioned optimiser of stage two."""
    products = [product for stack in stacks for product in stack.products()]
    return RiemannianAdamW(
        [pair for pair, _ in products],
        lr=settings.learning_rate,
        betas=BETAS,
        eps=EPS,
        weight_decay=settings.weight_decay,
        damping=settings.preconditioner_damping,
        frozen=[frozen for _, frozen in products],
    )


BOTH = CONTENT | STYLE
ADAPTERS = "a content adapter, a style adapter and the pictures of both"
TRAININGS = {
    ("content", "output_preservation"): Training(CONTENT, CONTENT, adamw, "content", preserves=True),
    ("content", "multi_correspondence"): Training(CONTENT, STYLE, adamw, "content"),
    ("style", "output_preservation"): Training(STYLE, STYLE, adamw, "style", preserves=True),
    ("style", "multi_correspondence"): Training(STYLE, CONTENT, adamw, "style"),
    ("together", "output_preservation"): Training(
        BOTH, BOTH, riemannian, "together", ADAPTERS, preserves=True, primary_sets=2
    ),
    ("together", "multi_correspondence"): Training(BOTH, BOTH, riemannian, "together", ADAPTERS, primary_sets=2),
}
"""By their names and by what auxiliary pictures are for (``correspondence``)."""


def training(role: str, correspondence: str) -> Training:
    """The row of ``role``, ``correspondence`` being checked by the settings. Raises :class:`B4MError` for an unknown
    role.
    """
    if (role, correspondence) not in TRAININGS:
        raise B4MError(
            f"Unknown training {role!r}: choose one of {', '.join(dict.fromkeys(role for role, _ in TRAININGS))}."
        )
    return TRAININGS[role, correspondence]
