"""B4M written out: the method in plain torch, one pass through the network for every loss. Read this file first.

"Break for make" (Xu et al., ACM TOG 44(2), 2025; arXiv 2403.19456) teaches a frozen diffusion network a content and a
style as two parts of one low-rank update. Of a layer W (m, n) with up [A, B] and down [D; C], each of rank r:

    halves   dW = [[s A C, A D],    A (m/2, r) and C (r, n/2) frozen, B (m/2, r) the style's, D (r, n/2) the content's;
                   [  B C, B D]]    s = 1 as published, s = 0 leaves the base model undisturbed at first
    full     dW = A D + B C         A (m, r) and C (r, n) frozen, B (m, r) the style's, D (r, n) the content's
    free     dW = A D + B C         nothing frozen: A and D are the content's, B and C the style's

A training sees three kinds of rows, and each kind moves what trainings.py says:

    train rows          the artist's pictures: the mean squared error against the noise (or velocity) mixed in
    auxiliary rows      other pictures with the same noise and timestep, the paper's correspondences: the same error
    preservation rows   other pictures, held to what the network says without the update, so that nothing else is lost

An optimiser step is: the gradients of some micro-steps, each part's norm bounded, for both concepts together
preconditioned by the other factor (Zhang and Pilanci, arXiv 2402.02347), then AdamW (Loshchilov and Hutter, arXiv
1711.05101). What trains in earnest, micro_step.py and fast/, does the same sums in one pass; the tests hold both, and
the contest's step (benchmarks/quality), to this file.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from .batches import Batch
from .models.family import Schedule
from .objective import row_losses
from .projection import PartlyLearnableProjection
from .settings import TrainingSettings
from .splits import PARTS
from .trainings import BETAS, EPS, Training, riemannian

Key = tuple[str, str]
"""A layer's module path, and A, B, C or D."""
Gradients = dict[Key, Tensor]


def update_of(layer: PartlyLearnableProjection, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """dW (m, n) of a layer from its four parts."""
    if not layer.split.cut:
        whole: Tensor = a @ d + b @ c  # (m, r)(r, n) + (m, r)(r, n)
        return whole
    constant = a @ c if layer.start == "published" else a.new_zeros(len(a), c.shape[1])  # (m/2, n/2)
    return torch.cat([torch.cat([constant, a @ d], dim=1), torch.cat([b @ c, b @ d], dim=1)])


def answer(module: nn.Module, x: Tensor, update: Tensor) -> Tensor:
    """dW x of a Linear, or dW * x of a convolution, whose dW (m, n) has the numbers of a kernel in its columns."""
    if isinstance(module, nn.Conv2d):
        return conv2d(x, update.view_as(module.weight), None, module.stride, module.padding)
    return linear(x, update)


def inverse(gram: Tensor, damping: float) -> Tensor:
    """(G + d I)^-1 for a Gram matrix G (r, r), d being ``damping`` times the mean of its diagonal."""
    found: Tensor = torch.linalg.inv(gram + damping * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype))
    return found


def preconditioned(layer: PartlyLearnableProjection, key: Key, gradients: Gradients, damping: float) -> Tensor:
    """The gradient of one part, in its shape, by equation 2 of arXiv 2402.02347: with U an up, V the down that it is
    multiplied with, G_U <- G_U (V V' + d I)^-1 and G_V <- (U' U + d I)^-1 G_V.
    """
    path, part = key
    a, b, c, d = (getattr(layer, each).double() for each in PARTS)
    of_up, gradient = part in ("A", "B"), gradients[key]
    if layer.split.cut:  # one product [A; B] [C, D], frozen in part
        up, down = torch.cat([a, b]), torch.cat([c, d], dim=1)  # (m, r), (r, n)
    elif layer.split.frozen:  # two products, A D and B C, each by itself
        up, down = (a, d) if part in ("A", "D") else (b, c)  # (m, r), (r, n)
    else:  # one product [A, B] [D; C], learned whole
        up, down = torch.cat([a, b], dim=1), torch.cat([d, c])  # (m, 2r), (2r, n)
        pair, dim = (("A", "B"), 1) if of_up else (("D", "C"), 0)
        gradient = torch.cat([gradients[path, each] for each in pair], dim)
    found = gradient @ inverse(down @ down.T, damping) if of_up else inverse(up.T @ up, damping) @ gradient
    if layer.split.cut or layer.split.frozen:
        return found
    first, second = found.chunk(2, dim)
    return first if part in ("A", "D") else second


class ReferenceTraining:
    """One training of ``layers``, by module path, under a frozen ``network``; slow, and short.

    ``predict`` (inputs by name, each (rows, ...)) is the network's answer (rows, C, h, w); it must call ``network``,
    whose layers are watched. ``preserves``: the rows beside the train rows are preservation rows. The sums are those
    of the network's dtype.
    """

    def __init__(
        self,
        network: nn.Module,
        predict: Callable[[Mapping[str, Tensor]], Tensor],
        layers: Mapping[str, PartlyLearnableProjection],
        schedule: Schedule,
        training: Training,
        settings: TrainingSettings,
        *,
        preserves: bool,
    ) -> None:
        self.network, self.predict, self.layers, self.schedule = network, predict, layers, schedule
        self.training, self.settings, self.preserves = training, settings, preserves
        # whose parts move now, content's or style's; None: the network without the update
        self.movable: frozenset[str] | None = frozenset()
        self.steps = 0
        self.moments: dict[Key, tuple[Tensor, Tensor]] = {}

    def train(self, draw: Callable[[int], Batch]) -> None:
        """All steps of the settings; ``draw`` gives micro-step number i."""
        micro_steps = self.settings.gradient_accumulation_steps
        for step in range(self.settings.steps):
            self.update(self.gradients([draw(step * micro_steps + micro) for micro in range(micro_steps)]))

    def gradients(self, micro_steps: Sequence[Batch]) -> Gradients:
        """The gradients of one optimiser step, double, in the shapes of the parts; each part's norm over all layers is
        bounded.
        """
        for layer in self.layers.values():
            layer.zero_grad()
        handles = [
            self.network.get_submodule(path).register_forward_hook(self._hook(layer))
            for path, layer in self.layers.items()
        ]
        for batch in micro_steps:
            for rows in self._of_each_set(batch.train_rows):
                (self.loss(batch, rows, self.training.train) / len(micro_steps)).backward()  # type: ignore[no-untyped-call]
            if batch.train_rows < len(batch.latents):
                others = slice(batch.train_rows, None)
                loss = self.loss(batch, others, self.training.others, preserve=self.preserves)
                (loss / len(micro_steps)).backward()  # type: ignore[no-untyped-call]
        for handle in handles:
            handle.remove()
        every = ((path, part, value) for path, layer in self.layers.items() for part, value in layer.named_parameters())
        return self.clipped(
            {(path, part): value.grad.double() for path, part, value in every if value.grad is not None}
        )

    def _of_each_set(self, train_rows: int) -> list[slice]:
        """The train rows, in slices whose mean losses are added. With preservation rows every set that is taught is one;
        with auxiliary rows, as published, the first set's rows are all the train rows there are.
        """
        sets = self.training.primary_sets if self.preserves else 1
        return [slice(train_rows * number // sets, train_rows * (number + 1) // sets) for number in range(sets)]

    def loss(self, batch: Batch, rows: slice, moves: frozenset[str], *, preserve: bool = False) -> Tensor:
        """The mean over ``rows`` of the squared error; ``moves`` are the concepts whose parts it may move."""
        latents, noise = batch.latents[rows], batch.noise[rows]  # (R, C, h, w) each
        timesteps = batch.timesteps[rows]  # (R,)
        given = {name: value[rows] for name, value in batch.conditioning.items()}
        given |= {"noisy": self.schedule.add_noise(latents, noise, timesteps), "timesteps": timesteps}
        target = self.schedule.target(latents, noise, timesteps)  # (R, C, h, w)
        if preserve:
            self.movable = None
            target = self.predict(given).detach()
        self.movable = moves
        return row_losses(self.predict(given), target, batch.mask[rows]).mean()

    def _hook(self, layer: PartlyLearnableProjection) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        """y = W x + dW x, or of a convolution W * x + dW * x, in which a part that may not move is a constant."""

        def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            if self.movable is None:
                return output
            moving = {part for concept in self.movable for part in getattr(layer.split, concept)}
            parts = [getattr(layer, part).to(output.dtype) for part in PARTS]
            parts = [value if part in moving else value.detach() for part, value in zip(PARTS, parts, strict=True)]
            return output + answer(module, inputs[0], update_of(layer, *parts))

        return add

    def clipped(self, gradients: Gradients) -> Gradients:
        """g <- g min(1, max_norm / |g|), |g| over all layers' A together, over all layers' B together, and so on."""
        norms = {
            part: math.sqrt(sum(float(g.square().sum()) for (_, which), g in gradients.items() if which == part))
            for part in PARTS
        }
        bound = {part: min(1.0, self.settings.max_grad_norm / norm) if norm else 1.0 for part, norm in norms.items()}
        return {(path, part): gradient * bound[part] for (path, part), gradient in gradients.items()}

    @torch.no_grad()
    def update(self, gradients: Gradients) -> None:
        """One step of AdamW; what the preservation or auxiliary rows alone move has a rate of its own."""
        self.steps += 1
        if self.training.make is riemannian:
            damping = self.settings.preconditioner_damping
            gradients = {key: preconditioned(self.layers[key[0]], key, gradients, damping) for key in gradients}
        (beta1, beta2), count, settings = BETAS, self.steps, self.settings
        for (path, part), gradient in gradients.items():
            layer = self.layers[path]
            taught = any(part in getattr(layer.split, concept) for concept in self.training.train)
            rate = settings.learning_rate if taught else settings.auxiliary_learning_rate
            first, second = self.moments.get((path, part), (torch.zeros_like(gradient), torch.zeros_like(gradient)))
            first = beta1 * first + (1 - beta1) * gradient
            second = beta2 * second + (1 - beta2) * gradient**2
            self.moments[path, part] = first, second
            step = (first / (1 - beta1**count)) / ((second / (1 - beta2**count)).sqrt() + EPS)
            weight = getattr(layer, part)
            weight.copy_(weight.double() * (1 - rate * settings.weight_decay) - rate * step)
