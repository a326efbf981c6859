"""A training that ends at a moment: one step as a CUDA graph, a rate that follows the clock, a moving average, a checkpoint."""

import math
import pathlib
import time
from collections.abc import Callable

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .clock import Clock, say
from .flat import FlatWeights


class TimedTraining:
    """What a subclass gives is ``step``, which draws its own batch and keeps ``loss`` up to date."""

    compiled_blocks: tuple[str, ...] = ()  # classes of modules that torch.compile takes one by one

    def __init__(self, network: nn.Module, weights: FlatWeights, batch: int, rate: float, device: torch.device) -> None:
        self.network, self.weights, self.batch, self.rate = network, weights, batch, rate
        self.loss = torch.ones((), device=device)  # a running mean
        self.spent = 0.0  # seconds of training in earlier pieces

    def step(self) -> None:
        """One training step; needs nothing from the CPU."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        for module in self.network.modules():
            if type(module).__name__ in self.compiled_blocks:
                module.compile(dynamic=False)

    def prepare(self, compiled: bool) -> Callable[[], None]:
        """The step as one CUDA graph, where there is a GPU. The rate is zero meanwhile, so that the weights stay."""
        if not self.loss.is_cuda:
            return self.step
        if compiled:
            torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 256
            self.compile_blocks()
        before = {name: value.clone() for name, value in self.weights.state().items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.weights.load_state(before)
        self.loss.fill_(1)
        torch.cuda.synchronize()
        return graph.replay

    def run(self, seconds: float | None, deadline: float, compiled: bool = True, warmup: int = 300) -> bool:
        """Go on to `seconds` of training altogether, or until the deadline (time.monotonic). True when all of it is done.

        None: the time that is left until the deadline when the step is ready is all of it."""
        replay = self.prepare(compiled)
        seconds = max(1.0, deadline - time.monotonic()) if seconds is None else seconds
        clock = Clock(seconds)
        clock.start -= self.spent
        stop = Clock(seconds + 1, deadline)
        say("denoiser ready; spent", round(self.spent, 1), "of", round(seconds, 1), "s")
        step = int(self.weights.count.item())
        first = step
        while True:
            if step % 20 == 0:
                loss = self.loss.item()  # waits for the device, so that the clock tells the truth
                if not math.isfinite(loss):
                    self.look_at_weights(step, loss)
                if step - first in (20, 100, 500):
                    say("denoiser", step, "loss", round(loss, 4))
                if clock.over() or stop.over():
                    break
                self.weights.rate.fill_(clock.rate(self.rate, step, warmup=warmup))
                self.weights.share.fill_(0.2 if step < 300 else 0.02 if step < 2000 else 0.002)
            replay()
            step += 1
            if step % 1000 == 0:
                say(
                    "denoiser",
                    step,
                    "loss",
                    round(self.loss.item(), 4),
                    f"{1e3 * (clock.share() * seconds - self.spent) / (step - first):.1f} ms a step",
                )
        self.spent = clock.share() * seconds
        say("denoiser", step, "steps of", self.batch, "loss", round(self.loss.item(), 4), "after", round(self.spent, 1), "s")
        return clock.over()

    def look_at_weights(self, step: int, loss: float) -> None:
        """A step whose loss overflowed leaves the weights alone; where they are lost, nothing that follows is worth its time."""
        if not bool(self.weights.master.isfinite().all()):
            raise FloatingPointError(f"the weights are no longer finite at step {step}")
        say("denoiser", step, "loss", loss, "but finite weights")
        self.loss.fill_(1)

    def save_checkpoint(self, path: pathlib.Path) -> None:
        save_file({**{k: v.cpu() for k, v in self.weights.state().items()}, "spent": torch.tensor(self.spent)}, path)

    def load_checkpoint(self, path: pathlib.Path) -> None:
        state = load_file(path)
        self.spent = float(state.pop("spent"))
        self.weights.load_state(state)
