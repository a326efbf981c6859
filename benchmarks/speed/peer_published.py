"""The authors' published program, from a checkout of it; a process of its own, for peer_process.py.

What runs is the ``main`` of their ``train_content.py``, unchanged, on their own diffusers: their network, attention and LoRA layers, the
order of passes, backward passes, clipping and optimisers, and accelerate around it. Their settings are those of ``train_content.sh``, with
bf16 and with an optimiser step for every round instead of every fourth.

Ours is what stands around the loop. The pretrained network is one with random weights; the autoencoder, the text encoders, the tokenizers
and the pictures are stand-ins that cost nothing, as they are left out for everyone; nothing is saved. The clock hangs on the progress bar.
Some files of their diffusers are not in the checkout, the base class of the noise schedulers among them, so ``add_noise`` is written here.
PEFT and Flax count as not installed: with PEFT their layers would be others than their program expects. Names that newer packages dropped
are put back.

Their Riemannian optimiser (``custom_optimizer.py``) is timed by itself, on as many random pairs as the network has projections.
"""

import contextlib
import importlib
import inspect
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .clock import Reading, timed
from .peer_process import Enough, Job, Watch, answer, asked

PICTURES = 1000
"""So many that an epoch never ends."""


class Anything(torch.nn.Module):
    """Stands in for what is loaded and then left out."""

    @classmethod
    def from_pretrained(cls, *_: object, **__: object) -> "Anything":
        """Nothing is loaded."""
        return cls()


class Pictures(torch.utils.data.Dataset):
    """Their dataset's place: pictures of no size."""

    def __init__(self, **_: object) -> None:
        super().__init__()

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"instance_images": torch.zeros(3, 1, 1)}


class Noise:
    """Their noise scheduler's place, with the sums of diffusers' DDPMScheduler."""

    config = types.SimpleNamespace(num_train_timesteps=1000, prediction_type="epsilon")

    def __init__(self) -> None:
        self.alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, dim=0)

    @classmethod
    def from_pretrained(cls, *_: object, **__: object) -> "Noise":
        """SDXL's schedule."""
        return cls()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noisy latents."""
        kept = self.alphas.to(latents)[timesteps].view(-1, 1, 1, 1)
        return kept**0.5 * latents + (1 - kept) ** 0.5 * noise


def latents_of(job: Job) -> type[Anything]:
    """The autoencoder's place: random latents, whatever the picture. float32, as theirs stays."""
    random = torch.randn(1, 4, job.size // 8, job.size // 8, device=job.device)

    class Latents(Anything):
        config = types.SimpleNamespace(scaling_factor=0.13025)
        dtype = torch.float32

        def encode(self, _: Tensor) -> Any:
            """As much of diffusers' answer as the loop looks at."""
            return types.SimpleNamespace(latent_dist=types.SimpleNamespace(sample=lambda: random))

    return Latents


def prepare(folder: Path) -> None:
    """Let the checkout's diffusers be the one that is imported, on packages that are years newer."""
    sys.path[:0] = [str(folder / "src"), str(folder / "code")]
    sys.modules.update(dict.fromkeys(("peft", "flax"), None))  # type: ignore[arg-type]
    import huggingface_hub
    import huggingface_hub.constants as constants

    for module, name, value in ((constants, "hf_cache_home", constants.HF_HOME), (huggingface_hub, "HfFolder", object)):
        if not hasattr(module, name):
            setattr(module, name, value)
    import diffusers

    for name in ("AutoencoderKL", "DDPMScheduler", "DPMSolverMultistepScheduler", "StableDiffusionXLPipeline"):
        setattr(diffusers, name, Anything)  # before the program imports them: their files are not all there


def train(job: Job) -> Reading:
    """Their program, until it was watched for long enough."""
    program: Any = importlib.import_module("train_content")
    watch = Watch(job.seconds, job.device)

    class Bar:
        """Their progress bar's place."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def update(self, count: int) -> None:
            """A step is done."""
            watch()

        def set_postfix(self, **_: object) -> None:
            """Nobody looks."""

    def network(*_: object, **__: object) -> Any:
        known = inspect.signature(program.UNet2DConditionModel.__init__).parameters
        with job.device:
            return program.UNet2DConditionModel(**{name: value for name, value in job.network.items() if name in known})

    def prompt(*_: object) -> tuple[Tensor, Tensor]:
        wide, dtype = job.network["cross_attention_dim"], getattr(torch, job.dtype)
        return torch.randn(1, 77, wide).to(dtype), torch.randn(1, job.pooled).to(dtype)

    program.tqdm, program.DreamBoothDataset, program.encode_prompt = Bar, Pictures, prompt
    program.AutoTokenizer, program.DDPMScheduler, program.AutoencoderKL = Anything, Noise, latents_of(job)
    program.import_model_class_from_model_name_or_path = lambda *_, **__: Anything
    program.UNet2DConditionModel.from_pretrained = network
    program.Accelerator.save_state = lambda *_, **__: None
    words: dict[str, object] = {"pretrained_model_name_or_path": "none", "pretrained_vae_model_name_or_path": "none"}
    words |= {f"instance_{what}{number}": "none" for what in ("data_dir", "prompt") for number in ("", "_2", "_3", "_4")}
    words |= {"resolution": job.size, "rank": job.rank, "train_batch_size": 1, "gradient_accumulation_steps": 1, "seed": 0}
    words |= {"learning_rate": 1e-4, "learning_rate_2": 1e-5, "lr_scheduler": "constant", "lr_warmup_steps": 0, "max_train_steps": 1000}
    if job.dtype == "bfloat16":
        words["mixed_precision"] = "bf16"
    options = program.parse_args([f"--{name}={value}" for name, value in words.items()] + ["--multi_style"])
    options.report_to = None
    with tempfile.TemporaryDirectory() as options.output_dir, contextlib.suppress(Enough):
        program.main(options)
    return watch.reading("the authors' program", job.size)


def riemannian(job: Job) -> Reading:
    """A step of their optimiser alone, on gradients that stand still."""

    def part(*shape: int) -> torch.nn.Parameter:
        made = torch.nn.Parameter(torch.randn(*shape, device=job.device) * 0.02)
        made.grad = torch.randn_like(made) * 1e-3
        return made

    pairs = [[part(job.rank, wide), part(tall, job.rank)] for tall, wide in job.shapes]
    optimiser = importlib.import_module("custom_optimizer").AdamWr([{"params": pair, "reg": 0.0} for pair in pairs], lr=1e-4)
    return timed("the authors' Riemannian step, all layers", 0, optimiser.step, seconds=job.seconds / 2, device=job.device)


def main() -> None:
    """Do the job that came."""
    job = asked()
    prepare(Path(job.folder))
    answer([riemannian(job), train(job)])


if __name__ == "__main__":
    main()
