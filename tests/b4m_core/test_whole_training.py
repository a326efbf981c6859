"""A whole training of several steps against the method written out (reference.py), for every split and every training.

Only the drawing of the batches is shared with the method. Double precision in the network; the halves are single, as the method keeps them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from b4m_core import Adapter, Facts, Plan, Progress, RunStore, TrainingSettings, train
from b4m_core.batches import Batches
from b4m_core.encoding import encode_sets
from b4m_core.layers import ATTENTION, CONVOLUTIONS
from b4m_core.models.sdxl import SDXL
from b4m_core.reference import Gradients, ReferenceTraining
from b4m_core.trainings import training

STEPS, LR, PARTNER_LR, DECAY, DAMPING = 3, 2e-3, 4e-4, 0.05, 1e-3
MOVES = {
    ("content", "multi_correspondence"): "ABCD", ("style", "multi_correspondence"): "ABCD", ("together", "multi_correspondence"): "ABCD",
    ("content", "output_preservation"): "AD", ("style", "output_preservation"): "BC", ("together", "output_preservation"): "ABCD",
}  # fmt: skip
"""What must move, where it is learned at all."""


def reference_of(made: Plan, base: tiny.TinyBase, adapter: Adapter) -> tuple[ReferenceTraining, Batches]:
    """The reference for a plan, and the batches that it draws."""
    row, settings = training(made.role, made.settings.correspondence), made.settings
    own, *partners = encode_sets(base, [made.pictures, *made.others], 64, primary_sets=row.primary_sets)
    preserves = row.has_preservation_rows(len(partners))
    batches = Batches(
        own,
        partners,
        batch_size=settings.batch_size,
        seed=settings.seed,
        schedule=base.schedule,
        primary_sets=row.primary_sets,
        preserves=row.preserves,
    )
    dtype = next(base.unet.parameters()).dtype
    reference = ReferenceTraining(
        base.unet, lambda given: SDXL.predict(base.unet, given, dtype), adapter.layers, base.schedule, row, settings, preserves=preserves
    )
    return reference, batches


@pytest.mark.parametrize(
    "role,kind,clip,correspondence",
    [
        ("content", "zero_start", 0.02, "multi_correspondence"),
        ("style", "published", 1e6, "multi_correspondence"),
        ("together", "published", 0.02, "multi_correspondence"),
        ("together", "zero_start", 1e6, "multi_correspondence"),
        ("content", "full", 1e6, "multi_correspondence"),
        ("style", "full", 0.02, "multi_correspondence"),
        ("together", "full", 1e6, "multi_correspondence"),
        ("content", "free", 1e6, "output_preservation"),
        ("style", "free", 0.001, "output_preservation"),
        ("together", "free", 1e6, "output_preservation"),
        ("together", "free", 0.001, "output_preservation"),
        ("content", "free", 1e6, "multi_correspondence"),
        ("style", "published", 1e6, "output_preservation"),
        ("content", "full", 1e6, "output_preservation"),
        ("together kept", "free", 1e6, "output_preservation"),
        ("together kept", "free", 0.001, "output_preservation"),
        ("together kept", "published", 1e6, "output_preservation"),
        ("together kept", "full", 0.02, "output_preservation"),
        ("style", "published with convolutions", 0.02, "multi_correspondence"),
        ("together kept", "free with convolutions", 1e6, "output_preservation"),
    ],
)
def test_three_steps_of_each_training_are_the_method_written_out(
    role: str, kind: str, clip: float, correspondence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused step's, and the plain step's."""
    base = tiny.TinyBase(tiny.tiny_unet(dtype=torch.float64))
    kind, _, more = kind.partition(" with ")
    known = {**tiny.KINDS[kind], "layers": CONVOLUTIONS if more else ATTENTION}
    settings = TrainingSettings(
        steps=STEPS,
        rank=3,
        learning_rate=LR,
        auxiliary_learning_rate=PARTNER_LR,
        weight_decay=DECAY,
        max_grad_norm=clip,
        preconditioner_damping=DAMPING,
        gradient_accumulation_steps=2,
        batch_size=2,
        resolution=64,
        file_dtype="float32",
        correspondence=correspondence,
        **known,
    )  # type: ignore[arg-type]
    partners = {
        "together": (tiny.picture_set(4, 5, trigger="w@z"),),
        "together kept": (tiny.picture_set(4, 5, trigger="w@z"), tiny.picture_set(6, 7, trigger="x"), tiny.picture_set(8)),
    }.get(role, (tiny.picture_set(4, 5, trigger="x"), tiny.picture_set(6)))
    role = role.removesuffix(" kept")
    facts = Facts(role="merged" if role == "together" else role, rank=3, **known)  # type: ignore[arg-type]
    first = Adapter.for_unet(base.unet, facts)
    if role == "together":
        tiny.filled(first, seed=3, scale=0.2)
    made = Plan(role, tiny.picture_set(1, 2, 3), partners, settings, first if role == "together" else None)
    expected = first.clone()
    reference, batches = reference_of(made, base, expected)
    gradients: list[Gradients] = []

    def clipped(found: Gradients) -> Gradients:
        result = ReferenceTraining.clipped(reference, found)
        bounded = [key for key in found if float(found[key].norm()) and float(result[key].norm()) < 0.999 * float(found[key].norm())]
        assert bool(bounded) is (clip < 1)  # so that both cases are really tried
        gradients.append(result)
        return result

    monkeypatch.setattr(reference, "clipped", clipped)
    reference.train(batches.draw)

    def watch(progress: Progress) -> None:
        if progress.step_done and progress.step == 1 and progress.adapter is not None:
            for (name, half), wanted in gradients[0].items():
                actual = getattr(progress.adapter.layers[name], half).grad.double()
                assert float((actual - wanted).norm()) <= 1e-4 * float(wanted.norm()), f"gradient of {name} {half}"

    assert any(SDXL.kernel(name) for name in first.layers) is bool(more)
    for step in ("fused", "plain"):
        if step == "plain":
            monkeypatch.setattr("b4m_core.engine.fused_step_for", lambda network, family: None)
        trained = train(made, base, RunStore(tmp_path / step), watch)
        for name, layer in trained.layers.items():
            for half in layer.split.learned:
                began, now, wanted = (getattr(adapter.layers[name], half).detach() for adapter in (first, trained, expected))
                moved = float((wanted - began).norm())
                assert (moved > 0) is (half in MOVES[role, correspondence]), f"{step}: {name} {half}"
                assert float((now - wanted).norm()) <= 1e-3 * moved, f"{step}: {name} {half}"
            assert {"start": layer.start, "split": layer.split.name} == tiny.KINDS[kind]
