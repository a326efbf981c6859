"""How a judge is trained: batches from several pools of labelled pictures, until a clock is over."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .clock import Clock, say
from .judge import Judge, as_float, loss_of
from .pool import World


@dataclasses.dataclass
class Pool:
    """Pictures uint8 (N, 3, S, S), their truth int64 (N, 3), and the share of every batch that comes from here; all on the device."""

    pictures: Tensor
    truth: Tensor
    share: float = 1.0


def batch_of(pools: Sequence[Pool], size: int) -> tuple[Tensor, Tensor]:
    """Pictures float32 in 0..1 and their truth, in random order; the first pool fills what the others leave."""
    pictures, truth = [], []
    counts = [int(pool.share * size) for pool in pools[1:]]
    for pool, count in zip(pools, [size - sum(counts), *counts], strict=True):
        rows = torch.randint(len(pool.pictures), (count,), device=pool.pictures.device)
        pictures.append(pool.pictures[rows])
        truth.append(pool.truth[rows])
    order = torch.randperm(size, device=pictures[0].device)
    return as_float(torch.cat(pictures)[order]), torch.cat(truth)[order]


class Renewal:
    """Draws the first pool again, a piece at a time, so that a long training never learns its pictures by heart."""

    def __init__(self, world: World, pool: Pool, piece: int, every: int = 100) -> None:
        self.world, self.pool, self.piece, self.every, self.place = world, pool, piece, every, 0

    def after(self, step: int) -> None:
        if step % self.every == self.every - 1:
            end = min(self.place + self.piece, len(self.pool.pictures))
            self.pool.pictures[self.place : end], self.pool.truth[self.place : end] = self.world.picture_pool(end - self.place)
            self.place = end % len(self.pool.pictures)


def train_judge(
    judge: Judge,
    pools: Sequence[Pool],
    *,
    batch: int,
    seconds: float,
    rate: float,
    deadline: float = math.inf,
    renewal: Renewal | None = None,
) -> Judge:
    """Trains in place for `seconds`, on the pools' device, and gives the judge back in evaluation mode."""
    device = pools[0].pictures.device
    judge = judge.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.02, fused=device.type == "cuda")
    clock, step = Clock(seconds, deadline), 0
    while not clock.over():
        for group in optimizer.param_groups:
            group["lr"] = clock.rate(rate, step)
        pictures, truth = batch_of(pools, batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(judge, pictures, truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
        optimizer.step()
        if renewal is not None:
            renewal.after(step)
        if step % 200 == 0:
            say("judge", step, round(loss.item(), 4))
        step += 1
    say("judge trained", step, "steps of", batch, "loss", round(loss.item(), 4))
    return judge.eval()
