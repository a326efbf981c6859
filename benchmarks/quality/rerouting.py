"""SSR-Merge (ICML 2026): the rank components of two finished LoRAs are routed, so that each answers on its own concept's pictures alone.

With all downs stacked, Z = D X are a layer's hidden values and E_k Z those of concept k alone.
R = (sum E_k Z_k Z_k') (sum Z_k Z_k' + l I)^-1 is the least-squares answer to R Z_k = E_k Z_k over the pictures of both concepts, and the
merged update is U R D.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .families import Adapters
from .grouped import Factors, Segment
from .methods import Contest
from .references import PictureTable

Look = Callable[[int, int, Tensor], None]


@torch.no_grad()
def rerouted(contest: Contest, adapters: Adapters, damping: float, rounds: int = 4) -> Factors:
    """The merged factors of every pair; ``damping`` is l, relative to the Gram's mean diagonal. Every picture of both concepts is shown at
    ``rounds`` noises and timesteps to the base model with its own concept's LoRA."""
    net = contest.studio.learner
    factors = adapters.factors(frozenset(), net.dtype)
    rank = adapters.learned[0]["content_down"].shape[-2]
    grams = [torch.zeros(*down.shape[:3], down.shape[2], device=net.device, dtype=torch.float64) for down in factors.down]
    routed = [torch.zeros_like(gram) for gram in grams]
    generator = torch.Generator().manual_seed(3000)
    for concept, table in enumerate((contest.contents, contest.styles)):
        alone = adapters.scaled(*((1.0, 0.0), (0.0, 1.0))[concept]).factors(frozenset(), net.dtype)
        own = slice(0, rank) if concept == 0 else slice(rank, None)

        def look(shape: int, place: int, x: Tensor, own: slice = own) -> None:
            hidden = torch.bmm(x.flatten(1, 2), factors.down[shape][place].mT).double()
            square = hidden.mT @ hidden
            grams[shape][place] += square
            routed[shape][place, :, own] += square[:, own]

        worn = Segment(0, table.latents.shape[1], alone)
        _show(contest, table, [pair[1 + concept] for pair in contest.pairs], worn, look, generator, rounds)
    exact, ups, downs = adapters.factors(frozenset(), torch.float32), [], []
    for up, down, gram, square in zip(exact.up, exact.down, grams, routed, strict=True):
        mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        damped = gram + damping * mean * torch.eye(gram.shape[-1], device=net.device, dtype=gram.dtype)
        # R may be large and cancel in the product: told on an orthonormal basis of the rows, half precision keeps it
        basis, triangle = torch.linalg.qr(down.double().mT)
        ups.append((up.double() @ torch.linalg.solve(damped, square).mT @ triangle.mT).float())
        downs.append(basis.mT.float())
    return Factors(ups, downs)


def _show(
    contest: Contest, table: PictureTable, sets: list[int], worn: Segment, look: Look, generator: torch.Generator, rounds: int
) -> None:
    """The pictures of ``sets``, one of them for each pair, to the network, whose layers' inputs go to ``look``."""
    net, process = contest.studio.learner, contest.studio.noise
    which = torch.tensor(sets, device=net.device)
    latents, context, pooled = (x[which].flatten(0, 1) for x in (table.latents, table.context, table.pooled))
    net.wear(len(sets), [worn])
    net.wardrobe.spy = look
    for _ in range(rounds):
        noise = torch.randn(latents[0].shape, generator=generator).to(net.device).expand_as(latents)
        times = process.draw(table.latents.shape[1], generator, 1.0).to(net.device).repeat(len(sets))
        net(process.add(latents, noise, times), times, context, pooled)
    net.wardrobe.spy = None
    net.wear(1, [])
