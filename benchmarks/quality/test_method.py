"""What the contest trains is what the product trains: both do the sums of b4m_core/reference.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from b4m_core import NoiseSchedule, PartlyLearnableProjection, TrainingSettings
from b4m_core.batches import Batch as Rows
from b4m_core.models.sdxl import SDXL
from b4m_core.objective import linear_beta_schedule
from b4m_core.reference import ReferenceTraining
from b4m_core.trainings import training as training_named
from tests.b4m_core.tiny import POOLED, TEXT_WIDTH, TOKENS, tiny_unet

from . import metrics, training
from .bases import UNET, EpsilonNoise
from .families import FAMILIES, Adapters
from .grouped import GroupedNetwork
from .methods import Apart, Contest, Joint
from .references import PictureTable

STEPS, RATE, RANK = 2, 3e-3, 3
PARTS = {
    "free": {"A": "content_up", "B": "style_up", "C": "style_down", "D": "content_down"},
    "halves": {part: part for part in "ABCD"},
    "published": {part: part for part in "ABCD"},
}
"""What the contest calls the parts of a layer."""


def pictures(sets: int, seed: int) -> PictureTable:
    """Random pictures, as many of each set as its number and two."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(sets, 4, *shape, generator=generator)

    return PictureTable(draw(4, 8, 8), draw(TOKENS, TEXT_WIDTH), draw(POOLED), torch.arange(sets) % 3 + 2)


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contest:
    """A contest of two contents and two styles on the tiny network; ``seen`` is filled with the rows of every step."""
    tiny_unet().save_pretrained(tmp_path / "unet")
    learner = GroupedNetwork(UNET, tmp_path, torch.device("cpu"), torch.float64)
    made = Contest.__new__(Contest)
    noise, device = EpsilonNoise(linear_beta_schedule()), torch.device("cpu")
    made.studio = SimpleNamespace(learner=learner, noise=noise, device=device, runs_at_once=9)  # type: ignore[assignment]
    made.contents, made.styles, made.seeds, made.most_steps = pictures(2, 0), pictures(2, 1), [5], None
    made.auxiliary = {"styles": pictures(3, 2), "contents": pictures(3, 3)}
    made.pairs = [(0, 0, 1), (0, 1, 0)]
    made.rows = []  # type: ignore[attr-defined]

    class Seen(training.Batch):
        def fill(self) -> None:
            super().fill()
            made.rows.append({name: getattr(self, name).clone() for name in ("latents", "noise", "times", "context", "pooled")})  # type: ignore[attr-defined]

    monkeypatch.setattr(training, "Batch", Seen)
    return made


def layers_of(adapters: Adapters, learner: GroupedNetwork, group: int, family: str) -> dict[str, PartlyLearnableProjection]:
    """One of the contest's adapters as the product's layers."""
    layers = {}
    for place, ((m, n), names) in enumerate(zip(learner.shapes, learner.names, strict=True)):
        tensors = adapters.learned[place] | adapters.frozen[place]
        for index, name in enumerate(names):
            start = "published" if family == "published" else "zero_start"
            layers[name] = PartlyLearnableProjection(m, n, RANK, name=name, start=start, split="free" if family == "free" else "halves")
            for part, called in PARTS[family].items():
                value = tensors[called][index]  # of every adapter, or the same for all
                value = value[group % len(value)]
                getattr(layers[name], part).data.copy_(value)
    return layers


def assert_the_reference_comes_to_the_same(
    contest: Contest,
    family: str,
    role: str,
    correspondence: str,
    own: int,
    preserves: bool,
    before: Adapters,
    after: Adapters,
) -> None:
    settings = TrainingSettings(
        steps=STEPS,
        rank=RANK,
        learning_rate=RATE,
        auxiliary_learning_rate=RATE / 10,
        gradient_accumulation_steps=1,
        correspondence=correspondence,
    )
    base, rows = tiny_unet(dtype=torch.float64), contest.rows[1:]  # type: ignore[attr-defined]
    assert len(rows) == STEPS
    for group in range(before.count):
        first, found = (layers_of(adapters, contest.studio.learner, group, family) for adapters in (before, after))
        layers = layers_of(before, contest.studio.learner, group, family)
        reference = ReferenceTraining(
            base, lambda given: SDXL.predict(base, given, torch.float64), layers, NoiseSchedule(linear_beta_schedule()),
            training_named(role, correspondence), settings, preserves=preserves,
        )  # fmt: skip

        def drawn(step: int, group: int = group) -> Rows:
            given = {name: value[group] for name, value in rows[step].items()}
            count = len(given["noise"])
            conditioning = {name: given[name] for name in ("context", "pooled")}
            conditioning["size_ids"] = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * count)
            return Rows(given["latents"], given["noise"], given["times"], torch.ones(count, 1, 8, 8), conditioning, own)

        reference.train(drawn)
        for name, layer in layers.items():
            for part in layer.split.learned:
                began, now, wanted = (getattr(each[name], part).detach() for each in (first, found, layers))
                moved = float((wanted - began).norm())
                assert float((now - wanted).norm()) <= 2e-3 * moved, f"{name} {part}"
        assert any(not torch.equal(layers[name].B, first[name].B) for name in layers) or role == "content"


@pytest.mark.parametrize("role", ["content", "style"])
@pytest.mark.parametrize(
    ("family", "partners", "rows"),
    [("free", "keep", (2, 2)), ("free", "keep", (3, 1)), ("free", "none", (2, 0)), ("published", "others", (1, 3))],
)  # fmt: skip
def test_a_training_apart_with_and_without_kept_rows_is_the_reference(
    contest: Contest, family: str, partners: str, rows: tuple[int, int], role: str
) -> None:
    apart = Apart(family, RANK, RATE, RATE, STEPS, rows, partners, sets=3)  # type: ignore[arg-type]
    (after,) = contest._apart([apart], role, contest.contents if role == "content" else contest.styles, contest.seeds)
    before = Adapters.fresh(FAMILIES[family], contest.studio.learner, RANK, 2, seed=contest.seeds[0])
    correspondence = "multi_correspondence" if partners == "others" else "output_preservation"
    assert_the_reference_comes_to_the_same(contest, family, role, correspondence, rows[0], partners == "keep", before, after)


@pytest.mark.parametrize("kept", [0, 2, 3])
@pytest.mark.parametrize(("family", "metric"), [("free", metrics.of_two_pairs), ("halves", metrics.of_halves)])
def test_the_joint_stage_with_and_without_kept_rows_is_the_reference(
    contest: Contest, family: str, metric: metrics.Metric, kept: int
) -> None:
    before = Adapters.fresh(FAMILIES[family], contest.studio.learner, RANK, 2, seed=0)
    generator = torch.Generator().manual_seed(4)
    for stack in before.learned:
        for name in stack:
            stack[name] = 0.2 * torch.randn(stack[name].shape, generator=generator)
    (after,) = contest.together(before, [Joint(RATE, STEPS, (2, 2), metric, kept=kept)])
    own = 4 if kept else 2
    assert_the_reference_comes_to_the_same(contest, family, "together", "output_preservation", own, bool(kept), before, after)
