"""A training with the defaults inside ComfyUI's own classes, from a folder with its sources; a process of its own, for peer_process.py.

ComfyUI's are the SDXL network, its memory manager and the copy of the model that it keeps; the training is ``train()`` on the nodes' own
base model. Ours are the random weights, in float16 as most checkpoints have them, and encoders that cost nothing.
"""

import importlib.util
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from b4m_core import B4MError, Progress, RunStore, TrainingSettings, train

from . import job as jobs
from .clock import GIB, Reading, main_memory, reading_of, tidy
from .peer_comfyui import random_patcher
from .peer_process import Job, answer, asked

REPOSITORY = Path(__file__).parents[2]
STEPS = 12


def host_package() -> Any:
    """The pack's package ``nodes.host``, loaded as ComfyUI loads the pack."""
    spec: Any = importlib.util.spec_from_file_location("b4m_pack", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)])
    sys.modules["b4m_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["b4m_pack"])
    return importlib.import_module("b4m_pack.nodes.host")


def base_model(job: Job) -> Any:
    """The nodes' base model around ComfyUI's network, loaded on the card, without encoders."""
    import comfy.model_management

    host = host_package()

    class WithoutEncoders(host.HostBaseModel):  # type: ignore[misc,name-defined]
        """Pictures and prompts become noise of the right size; the weights are nobody's."""

        fingerprint, network_fingerprint = "0" * 64, "n1-" + "0" * 64

        def encode_pictures(self, pixels: Tensor) -> Tensor:
            return torch.randn(len(pixels), 4, pixels.shape[-2] // 8, pixels.shape[-1] // 8)

        def encode_text(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
            return torch.randn(len(prompts), 77, job.network["cross_attention_dim"]), torch.randn(len(prompts), job.pooled)

    patcher = random_patcher(job)
    comfy.model_management.load_models_gpu([patcher])
    return WithoutEncoders(patcher, None, None, name="random")


def readings(job: Job, base: Any, size: int) -> list[Reading]:
    """The step, and the time until the first one is done, of a short training at ``size``."""
    settings = TrainingSettings(steps=STEPS, resolution=size)
    base.expect(settings.rank, 2, size)  # as nodes/session.py does
    done: list[float] = []
    free: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.step_done:
            done.append(time.perf_counter())
        if job.device.type == "cuda":
            free.append(torch.cuda.mem_get_info()[0])

    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        train(jobs.plan(None, "content", size, settings), base, RunStore(Path(folder)), watch)
    base.release()
    tidy()
    durations = [(after - before) * 1000 for before, after in zip(done[2:], done[3:], strict=False)]
    name = f"B4M in ComfyUI, its defaults: {{}}{job.card}"
    step = reading_of(name.format(f"a step of {settings.accumulation} micro-steps"), size, durations, job.device)
    if job.device.type == "cuda":
        step.driver = (torch.cuda.mem_get_info()[1] - min(free)) / GIB
    step.main = main_memory()
    first = reading_of(name.format("until the first step is done"), size, [(done[0] - started) * 1000], job.device)
    return [step, first]


def main() -> None:
    """Do the job that came."""
    job = asked()
    sys.path.insert(0, job.folder)
    from comfy.cli_args import args

    args.cpu = job.device.type == "cpu"
    args.base_directory = tempfile.mkdtemp()
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("b4m").setLevel(logging.INFO)  # which way was chosen
    base, found = base_model(job), []
    for size in job.sizes:
        try:
            found += readings(job, base, size)
        except B4MError as error:  # the other size may fit
            print(error, file=sys.stderr)
            base.release()
    answer(found)


if __name__ == "__main__":
    main()
