"""A whole training of several steps against the method written out: separate passes, one optimiser for each part, every line plain torch.

Only the drawing of the batches is shared with the method. Double precision in the network; the halves are single, as the method keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from b4m_core import Adapter, Facts, PartlyLearnableProjection, Plan, Progress, RunStore, TrainingSettings, train
from b4m_core.batches import Batch, Batches
from b4m_core.free_reach import FreeProjection
from b4m_core.full_reach import FullReachProjection
from b4m_core.samples import encode_sets
from b4m_core.splits import SPLITS

STEPS, LR, PARTNER_LR, DECAY, DAMPING = 3, 2e-3, 4e-4, 0.05, 1e-3
CONTENT, STYLE = "AD", "BC"  # whose factor each is; A and C where they are learned
MOVES = {
    ("content", "partner"): (CONTENT, STYLE), ("style", "partner"): (STYLE, CONTENT), ("together", "partner"): ("ABCD", "ABCD"),
    ("content", "keep"): (CONTENT, CONTENT), ("style", "keep"): (STYLE, STYLE), ("together", "keep"): ("ABCD", "ABCD"),
}  # fmt: skip


class PaperTraining:
    """The training of METHOD.md with hooks on a frozen network."""

    def __init__(self, made: Plan, base: tiny.TinyBase, adapter: Adapter) -> None:
        self.role, self.base, self.layers = made.role, base, adapter.layers
        own, *partners = encode_sets(base, [made.own, *made.partners], 64, leaders=2 if made.role == "together" else 1)
        settings, leaders = made.settings, 2 if made.role == "together" else 1
        self.keeps = settings.correspondence == "keep" and len(partners) >= leaders
        self.batches = Batches(
            own, partners, batch=settings.batch, seed=settings.seed, timesteps=1000, leaders=leaders, one_beside=self.keeps
        )
        self.moves = MOVES[made.role, settings.correspondence]
        self.settings, self.count, self.movable, self.attached = settings, 0, "", True
        self.first_gradients: dict[tuple[str, str], Tensor] = {}
        self.moments: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def run(self) -> None:
        handles = [self.base.unet.get_submodule(name).register_forward_hook(self._hook(layer)) for name, layer in self.layers.items()]
        for step in range(self.settings.steps):
            gradients = self._gradients(step)
            self.count += 1
            self._update(gradients)
        for handle in handles:
            handle.remove()

    def _hook(self, layer: PartlyLearnableProjection) -> Callable[..., Tensor]:
        def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            if not self.attached:
                return output
            parts = (getattr(layer, part).double() for part in "ABCD")
            a, b, c, d = (value if part in self.movable else value.detach() for part, value in zip("ABCD", parts, strict=True))
            if isinstance(layer, FullReachProjection):
                return output + linear(inputs[0], a @ d + b @ c)
            corner = a @ c if layer.keeps_corner else a.new_zeros(len(a), c.shape[1])
            delta = torch.cat([torch.cat([corner, a @ d], dim=1), torch.cat([b @ c, b @ d], dim=1)])
            return output + linear(inputs[0], delta)

        return add

    def _gradients(self, step: int) -> dict[tuple[str, str], Tensor]:
        """Own and partner rows apart, each moving what is its own; then each part's norm is clipped."""
        for layer in self.layers.values():
            layer.zero_grad()
        for micro in range(self.settings.accumulation):
            batch = self.batches.draw(step * self.settings.accumulation + micro)
            for rows, movable in zip((slice(0, batch.own), slice(batch.own, None)), self.moves, strict=True):
                self.movable = movable
                loss = self._loss(batch, rows, self.keeps and rows.start > 0)
                if self.role == "together" and self.keeps and rows.start == 0:  # content's mean and style's
                    both = slice(0, batch.own // 2), slice(batch.own // 2, batch.own)
                    loss = self._loss(batch, both[0], False) + self._loss(batch, both[1], False)
                (loss / self.settings.accumulation).backward()
        every = ((name, part, value) for name, layer in self.layers.items() for part, value in layer.named_parameters())
        found = {(name, part): value.grad.double() for name, part, value in every if value.grad is not None}
        for half in sorted({part for _, part in found}):
            norm = torch.sqrt(sum(gradient.square().sum() for (_, which), gradient in found.items() if which == half))  # type: ignore[arg-type]
            if norm == 0:  # free: nothing reaches D until A has moved
                continue
            assert (float(norm) > self.settings.clip) is (self.settings.clip < 1)  # so that both cases are really tried
            for key in found:
                if key[1] == half:
                    found[key] = found[key] * min(1.0, self.settings.clip / float(norm))
        if step == 0:
            self.first_gradients = found
        return found

    def _loss(self, batch: Batch, rows: slice, keep: bool) -> Tensor:
        alpha = self.base.schedule.alphas_cumprod[batch.timesteps[rows]].view(-1, 1, 1, 1)
        noise = batch.noise[rows].double()
        noisy = alpha.sqrt() * batch.latents[rows].double() + (1 - alpha).sqrt() * noise
        added = {"text_embeds": batch.pooled[rows].double(), "time_ids": batch.size_ids[rows]}
        context = batch.context[rows].double()
        if keep:
            self.attached = False
            noise = self.base.unet(noisy, batch.timesteps[rows], encoder_hidden_states=context, added_cond_kwargs=added).sample.detach()
            self.attached = True
        predicted = self.base.unet(noisy, batch.timesteps[rows], encoder_hidden_states=context, added_cond_kwargs=added).sample
        return (predicted - noise).square().mean()

    @torch.no_grad()
    def _update(self, gradients: dict[tuple[str, str], Tensor]) -> None:
        if self.role == "together":
            gradients = {key: self._preconditioned(key, gradients) for key in gradients}
        for (name, half), gradient in gradients.items():
            weight = getattr(self.layers[name], half)
            rate = LR if half in self.moves[0] else PARTNER_LR
            first, second = self.moments.get((name, half), (torch.zeros_like(gradient), torch.zeros_like(gradient)))
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            self.moments[name, half] = first, second
            step = (first / (1 - 0.9**self.count)) / ((second / (1 - 0.999**self.count)).sqrt() + 1e-8)
            weight.copy_(weight.double() * (1 - rate * DECAY) - rate * step)

    def _preconditioned(self, key: tuple[str, str], gradients: dict[tuple[str, str], Tensor]) -> Tensor:
        (name, part), layer = key, self.layers[key[0]]
        gradient, rank = gradients[key], layer.rank
        if isinstance(layer, FreeProjection):  # the part of the whole pair's preconditioned gradient
            up, down = torch.cat([layer.A, layer.B], 1).double(), torch.cat([layer.D, layer.C]).double()
            if part in "AB":
                both = torch.cat([gradients[name, "A"], gradients[name, "B"]], 1) @ inverse(down @ down.T)
                return both[:, :rank] if part == "A" else both[:, rank:]
            both = inverse(up.T @ up) @ torch.cat([gradients[name, "D"], gradients[name, "C"]])
            return both[:rank] if part == "D" else both[rank:]
        up, down = torch.cat([layer.A, layer.B]).double(), torch.cat([layer.C, layer.D], dim=1).double()
        if isinstance(layer, FullReachProjection):
            up, down = layer.A.double(), layer.C.double()  # the other factor of A D and of B C
        return gradient @ inverse(down @ down.T) if part == "B" else inverse(up.T @ up) @ gradient


def inverse(gram: Tensor) -> Tensor:
    return torch.linalg.inv(gram + DAMPING * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype))


@pytest.mark.parametrize(
    "role,kind,clip,correspondence",
    [
        ("content", "zero_start", 0.02, "partner"), ("style", "published", 1e6, "partner"), ("together", "published", 0.02, "partner"),
        ("together", "zero_start", 1e6, "partner"), ("content", "full", 1e6, "partner"), ("style", "full", 0.02, "partner"),
        ("together", "full", 1e6, "partner"), ("content", "free", 1e6, "keep"), ("style", "free", 0.001, "keep"),
        ("together", "free", 1e6, "keep"), ("together", "free", 0.001, "keep"), ("content", "free", 1e6, "partner"),
        ("style", "published", 1e6, "keep"), ("content", "full", 1e6, "keep"), ("together kept", "free", 1e6, "keep"),
        ("together kept", "free", 0.001, "keep"), ("together kept", "published", 1e6, "keep"), ("together kept", "full", 0.02, "keep"),
    ],
)  # fmt: skip
def test_three_steps_of_each_training_are_the_method_written_out(
    role: str, kind: str, clip: float, correspondence: str, tmp_path: Path
) -> None:
    base = tiny.TinyBase(tiny.tiny_unet(dtype=torch.float64))
    settings = TrainingSettings(
        steps=STEPS, rank=3, learning_rate=LR, partner_learning_rate=PARTNER_LR, weight_decay=DECAY, clip=clip, damping=DAMPING,
        accumulation=2, batch=2, resolution=64, file_dtype="float32", correspondence=correspondence, **tiny.KINDS[kind],
    )  # type: ignore[arg-type]  # fmt: skip
    partners = {
        "together": (tiny.picture_set(4, 5, trigger="w@z"),),
        "together kept": (tiny.picture_set(4, 5, trigger="w@z"), tiny.picture_set(6, 7, trigger="x"), tiny.picture_set(8)),
    }.get(role, (tiny.picture_set(4, 5, trigger="x"), tiny.picture_set(6)))
    role = role.removesuffix(" kept")
    facts = Facts(role="merged" if role == "together" else role, rank=3, **tiny.KINDS[kind])  # type: ignore[arg-type]
    first = Adapter.for_unet(base.unet, facts)
    if role == "together":
        tiny.filled(first, seed=3, scale=0.2)
    made = Plan(role, tiny.picture_set(1, 2, 3), partners, settings, first if role == "together" else None)
    expected = first.clone()
    paper = PaperTraining(made, base, expected)
    paper.run()

    def watch(progress: Progress) -> None:
        if progress.step_done and progress.step == 1 and progress.adapter is not None:
            for (name, half), wanted in paper.first_gradients.items():
                actual = getattr(progress.adapter.layers[name], half).grad.double()
                assert float((actual - wanted).norm()) <= 1e-4 * float(wanted.norm()), f"gradient of {name} {half}"

    trained = train(made, base, RunStore(tmp_path), watch)
    for name, layer in trained.layers.items():
        for half in layer.learned():
            began, now, wanted = (getattr(adapter.layers[name], half).detach() for adapter in (first, trained, expected))
            moved = float((wanted - began).norm())
            assert (moved > 0) is any(half in movable for movable in paper.moves), f"{name} {half}"
            assert float((now - wanted).norm()) <= 1e-3 * moved, f"{name} {half}"
        assert layer.keeps_corner is (kind == "published") and type(layer) is SPLITS[tiny.KINDS[kind]["split"]]
