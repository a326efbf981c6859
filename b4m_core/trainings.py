"""The trainings as rows: they differ in who moves what, in who leads, in what partners are taught, and in the
optimiser; the loop is one.

Another training is one more row here; training.py has the loop.
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

    ``own`` and ``partner`` say whose factors the loss on the own and on the partner pictures moves, content's or
    style's; ``make`` makes the optimiser from the row, the stacks and the settings. ``makes`` is the role of the
    adapter that comes out (facts.py), and ``needs`` what a training goes on from, in words; without it one begins
    afresh. ``leaders``: how many sets, the own one first, choose the bucket in turn; a partner set that never leads is
    an auxiliary one. ``keeps``: one row of any auxiliary set stands beside every row of the leading sets, and is taught
    the base model's own prediction instead of the noise.
    """

    own: frozenset[str]
    partner: frozenset[str]
    make: Callable[["Training", Sequence[Stack], TrainingSettings], Optimizer]
    makes: str
    needs: str = ""
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

    def moved(self, split: Split, *, partners: bool) -> tuple[str, ...]:
        """The parts of ``split`` that move, with partners or without."""
        return split.parts_of(self.own | self.partner if partners else self.own)


def adamw(row: Training, stacks: Sequence[Stack], settings: TrainingSettings) -> Optimizer:
    """Plain AdamW with a rate of its own for what only partners move: the orthogonal break of stage one."""

    def parts(concepts: frozenset[str]) -> list[Tensor]:
        return [stack.parts[part] for part in stacks[0].split.parts_of(concepts) for stack in stacks]

    groups = [
        {"params": parts(row.own), "lr": settings.learning_rate},
        {"params": parts(row.partner - row.own), "lr": settings.partner_learning_rate},
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
        damping=settings.damping,
        frozen=[frozen for _, frozen in products],
    )


BOTH = CONTENT | STYLE
ADAPTERS = "a content adapter, a style adapter and the pictures of both"
TRAININGS = {
    ("content", "keep"): Training(CONTENT, CONTENT, adamw, "content", keeps=True),
    ("content", "partner"): Training(CONTENT, STYLE, adamw, "content"),
    ("style", "keep"): Training(STYLE, STYLE, adamw, "style", keeps=True),
    ("style", "partner"): Training(STYLE, CONTENT, adamw, "style"),
    ("together", "keep"): Training(BOTH, BOTH, riemannian, "together", ADAPTERS, keeps=True, leaders=2),
    ("together", "partner"): Training(BOTH, BOTH, riemannian, "together", ADAPTERS, leaders=2),
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
