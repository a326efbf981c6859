"""A whole training of several steps against the paper written out: separate passes, one optimiser for each half, every line plain torch.

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
from b4m_core.samples import encode_sets

STEPS, LR, PARTNER_LR, DECAY, DAMPING = 3, 2e-3, 4e-4, 0.05, 1e-3
MOVES = {"content": ("D", "B"), "style": ("B", "D"), "together": ("BD", "BD")}


class PaperTraining:
    """The training of METHOD.md with hooks on a frozen network."""

    def __init__(self, made: Plan, base: tiny.TinyBase, adapter: Adapter) -> None:
        self.role, self.base, self.layers = made.role, base, adapter.layers
        own, *partners = encode_sets(base, [made.own, *made.partners], 64, all_lead=made.role == "together")
        settings = made.settings
        self.batches = Batches(
            own, partners, batch=settings.batch, seed=settings.seed, timesteps=1000, partners_lead=made.role == "together"
        )
        self.settings, self.count, self.movable = settings, 0, ""
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
            b = layer.B.double() if "B" in self.movable else layer.B.double().detach()
            d = layer.D.double() if "D" in self.movable else layer.D.double().detach()
            a, c = layer.A.double(), layer.C.double()
            corner = a @ c if layer.keeps_corner else a.new_zeros(len(a), c.shape[1])
            delta = torch.cat([torch.cat([corner, a @ d], dim=1), torch.cat([b @ c, b @ d], dim=1)])
            return output + linear(inputs[0], delta)

        return add

    def _gradients(self, step: int) -> dict[tuple[str, str], Tensor]:
        """Own and partner rows apart, each moving its own half; then each half's norm is clipped."""
        for layer in self.layers.values():
            layer.B.grad = layer.D.grad = None
        for micro in range(self.settings.accumulation):
            batch = self.batches.draw(step * self.settings.accumulation + micro)
            for rows, movable in zip((slice(0, batch.own), slice(batch.own, None)), MOVES[self.role], strict=True):
                self.movable = movable
                (self._loss(batch, rows) / self.settings.accumulation).backward()
        found = {(name, half): getattr(layer, half).grad.double() for name, layer in self.layers.items() for half in "BD"}
        for half in "BD":
            norm = torch.sqrt(sum(gradient.square().sum() for (_, which), gradient in found.items() if which == half))  # type: ignore[arg-type]
            assert (float(norm) > self.settings.clip) is (self.settings.clip < 1)  # so that both cases are really tried
            for key in found:
                if key[1] == half:
                    found[key] = found[key] * min(1.0, self.settings.clip / float(norm))
        if step == 0:
            self.first_gradients = found
        return found

    def _loss(self, batch: Batch, rows: slice) -> Tensor:
        alpha = self.base.schedule.alphas_cumprod[batch.timesteps[rows]].view(-1, 1, 1, 1)
        noise = batch.noise[rows].double()
        noisy = alpha.sqrt() * batch.latents[rows].double() + (1 - alpha).sqrt() * noise
        added = {"text_embeds": batch.pooled[rows].double(), "time_ids": batch.size_ids[rows]}
        context = batch.context[rows].double()
        predicted = self.base.unet(noisy, batch.timesteps[rows], encoder_hidden_states=context, added_cond_kwargs=added).sample
        return (predicted - noise).square().mean()

    @torch.no_grad()
    def _update(self, gradients: dict[tuple[str, str], Tensor]) -> None:
        if self.role == "together":
            gradients = {key: self._preconditioned(key, gradient) for key, gradient in gradients.items()}
        for (name, half), gradient in gradients.items():
            weight = getattr(self.layers[name], half)
            rate = LR if half in MOVES[self.role][0] else PARTNER_LR
            first, second = self.moments.get((name, half), (torch.zeros_like(gradient), torch.zeros_like(gradient)))
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            self.moments[name, half] = first, second
            step = (first / (1 - 0.9**self.count)) / ((second / (1 - 0.999**self.count)).sqrt() + 1e-8)
            weight.copy_(weight.double() * (1 - rate * DECAY) - rate * step)

    def _preconditioned(self, key: tuple[str, str], gradient: Tensor) -> Tensor:
        layer = self.layers[key[0]]
        up, down = torch.cat([layer.A, layer.B]).double(), torch.cat([layer.C, layer.D], dim=1).double()
        gram = down @ down.T if key[1] == "B" else up.T @ up
        inverse = torch.linalg.inv(gram + DAMPING * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype))
        return gradient @ inverse if key[1] == "B" else inverse @ gradient


@pytest.mark.parametrize(
    "role,start,clip",
    [("content", "zero_start", 0.02), ("style", "published", 1e6), ("together", "published", 0.02), ("together", "zero_start", 1e6)],
)
def test_three_steps_of_each_training_are_the_paper_written_out(role: str, start: str, clip: float, tmp_path: Path) -> None:
    base = tiny.TinyBase(tiny.tiny_unet(dtype=torch.float64))
    settings = TrainingSettings(
        steps=STEPS, rank=3, learning_rate=LR, partner_learning_rate=PARTNER_LR, weight_decay=DECAY, clip=clip, damping=DAMPING,
        accumulation=2, batch=2, resolution=64, start=start, file_dtype="float32",
    )  # fmt: skip
    partners = (
        (tiny.picture_set(4, 5, trigger="w@z"),) if role == "together" else (tiny.picture_set(4, 5, trigger="x"), tiny.picture_set(6))
    )
    first = Adapter.for_unet(base.unet, Facts(role="merged" if role == "together" else role, rank=3, start=start))
    if role == "together":
        tiny.filled(first, seed=2, scale=0.2)
    made = Plan(role, tiny.picture_set(1, 2, 3), partners, settings, first if role == "together" else None)
    expected = first.clone()
    paper = PaperTraining(made, base, expected)
    paper.run()

    def watch(progress: Progress) -> None:
        if progress.step_done and progress.step == 1 and progress.adapter is not None:
            for (name, half), wanted in paper.first_gradients.items():
                actual = getattr(progress.adapter.layers[name], half).grad.double()
                assert float((actual - wanted).norm()) < 1e-4 * float(wanted.norm()), f"gradient of {name} {half}"

    trained = train(made, base, RunStore(tmp_path), watch)
    for name, layer in trained.layers.items():
        for half in "BD":
            began, now, wanted = (getattr(adapter.layers[name], half).detach() for adapter in (first, trained, expected))
            moved = float((wanted - began).norm())
            assert moved > 0 and float((now - wanted).norm()) < 1e-3 * moved, f"{name} {half}"
        assert layer.keeps_corner is (start == "published")
