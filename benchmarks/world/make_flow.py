"""Make the second base model, of another kind: python -m benchmarks.world.make_flow FOLDER --seconds 545

A flow transformer (flow.py) in one call on one GPU, with the embedded model's autoencoder and text encoders: latents, training until the
time is nearly over, FOLDER/transformer, then FOLDER/evaluation.json and FOLDER/sheet.webp. ``flow.json`` has every number.
"""

import argparse
import dataclasses
import json
import pathlib
import time

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from .clock import Clock, say
from .contents import FOLDER
from .evaluate import Painter, contact_sheet, evaluate, write_report
from .examples import draw_labels, latents_of
from .flow import PAINTED_IN, TEXT_TOKENS, FlowTraining, Told, load_flow, make_flow, sample_flow
from .judge import KINDS, load_judge
from .pool import World
from .text import TextPair, load_text

EMBEDDED = FOLDER.parents[1] / "mini"
RENDERED, READ = 2048, 4096  # pictures and captions at once
SAVING = 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class FlowSettings:
    """The numbers of flow.json. ``kept_seconds`` are for what follows the training."""

    seed: int
    size: int
    latents: int
    latents_seconds: float
    photos: float
    pairs_of_objects: float
    width: int
    double: int
    single: int
    batch: int
    rate: float
    matrix_rate: float
    empty_prompts: float
    compiled: bool
    kept_seconds: float
    guidance: float
    guidance_tried: list[float]
    evaluated: dict[str, int]


class FlowPainter(Painter):
    """The transformer in ``folder`` with the rest of the embedded model."""

    def __init__(self, folder: pathlib.Path, world: World, embedded: pathlib.Path = EMBEDDED) -> None:
        dtype = PAINTED_IN if world.device.type == "cuda" else torch.float32
        self.world = world
        self.network = load_flow(folder, dtype).to(world.device).eval()
        self.autoencoder = AutoencoderTiny.from_pretrained(embedded / "vae", torch_dtype=torch.float32).to(world.device).eval()
        self.text: TextPair = load_text(embedded).to(world.device).eval()

    def sample(
        self, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor], *, steps: int, guidance: float, named_size: int, seed: int
    ) -> Tensor:
        return sample_flow(self.network, positive, negative, side=named_size // 8, steps=steps, guidance=guidance, seed=seed)


@torch.no_grad()
def examples(world: World, text: TextPair, autoencoder: AutoencoderTiny, settings: FlowSettings) -> Told:
    """What the embedded model's denoiser was trained on, drawn anew; fewer where the seconds for it are over."""
    s, clock = settings, Clock(settings.latents_seconds)
    latents, contexts, pooleds = [], [], []
    while sum(map(len, latents)) < s.latents and not clock.over():
        labels = draw_labels(world, min(RENDERED, s.latents), s.photos, s.pairs_of_objects)
        latents.append(latents_of(world, autoencoder, labels))
        for ids in world.caption(labels)[0].split(READ):
            context, pooled = text(ids.long().to(world.device))
            contexts.append(context[:, :TEXT_TOKENS].half())
            pooleds.append(pooled.half())
    empty = text(world.tokenizer([""]).long().to(world.device))
    say("encoded", sum(map(len, latents)), "latents and captions")
    return Told(torch.cat(latents), torch.cat(contexts), torch.cat(pooleds), (empty[0][:, :TEXT_TOKENS].half(), empty[1].half()))


def make(folder: pathlib.Path, settings: FlowSettings, seconds: float) -> None:
    """Everything, within the seconds."""
    s, deadline = settings, time.monotonic() + seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch._dynamo.config.suppress_errors = True  # a block that does not compile runs as it is
    folder.mkdir(parents=True, exist_ok=True)
    world = World(device, s.size, s.seed)
    autoencoder = AutoencoderTiny.from_pretrained(EMBEDDED / "vae", torch_dtype=torch.float32).to(device).eval()
    text = load_text(EMBEDDED).to(device).eval()
    told = examples(world, text, autoencoder, s)
    training = train(told, text, s, deadline - s.kept_seconds)
    training.save_model(folder)
    about = {
        "parameters": sum(each.numel() for each in training.network.parameters()),
        "latents": len(told.latents),
        "steps": int(training.weights.count.item()),
        "seconds": round(training.spent, 1),
        "loss": round(training.loss.item(), 4),
    }
    write_report(folder / "evaluation.json", about)
    say(about)
    del training, told
    judge(folder, world, s, about, deadline)


def train(told: Told, text: TextPair, settings: FlowSettings, deadline: float) -> FlowTraining:
    """Until the deadline. Should the fast step lose the weights, anew with the plain one."""
    s = settings
    for compiled in (s.compiled, False):
        torch.manual_seed(s.seed)
        network = make_flow(s.width, s.double, s.single, text.context_width, text.pooled_width).to(told.latents.device)
        training = FlowTraining(network, told, batch=s.batch, rate=s.rate, dropout=s.empty_prompts, matrix_rate=s.matrix_rate)
        try:
            training.run(None, deadline, compiled)
        except FloatingPointError as error:
            say(error)
            continue
        return training
    raise FloatingPointError("the training lost its weights twice")


def judge(folder: pathlib.Path, world: World, settings: FlowSettings, about: dict[str, object], deadline: float) -> None:
    """The sheet, then the judges' tables: as many as the time allows, what matters first."""
    s, painter = settings, FlowPainter(folder, world)
    contact_sheet(painter, folder / "sheet.webp", guidance=s.guidance, seed=3)
    judges = {kind: load_judge(kind).to(world.device) for kind in KINDS}
    report: dict[str, object] = {**about, "guidance": s.guidance, "sampling steps": 20}
    report |= evaluate(painter, judges, s.evaluated, guidance=s.guidance, seed=7)
    write_report(folder / "evaluation.json", report)
    tried: dict[str, object] = {}
    for guidance in s.guidance_tried:
        if time.monotonic() + SAVING > deadline:
            break
        counts = {"seen pairs": min(256, s.evaluated["seen pairs"])}
        tried[str(guidance)] = evaluate(painter, {"first": judges["first"]}, counts, guidance=guidance, seed=5)
    write_report(folder / "evaluation.json", {**report, "guidance tried": tried})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=545, help="end before this many seconds are over")
    parser.add_argument("--evaluate", action="store_true", help="only judge what is in FOLDER")
    parser.add_argument("--config", type=pathlib.Path, default=FOLDER / "flow.json")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other numbers than the configuration's")
    args = parser.parse_args()
    numbers = json.loads(args.config.read_text(encoding="utf-8"))
    numbers |= {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.set)}
    settings = FlowSettings(**numbers)
    if args.evaluate:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        written = args.folder / "evaluation.json"
        about = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
        judge(args.folder, World(device, settings.size, settings.seed), settings, about, time.monotonic() + args.seconds)
        return
    make(args.folder, settings, args.seconds)


if __name__ == "__main__":
    main()
