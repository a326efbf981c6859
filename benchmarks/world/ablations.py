"""What the model in the box owes to what, a measurement each: python -m benchmarks.world.ablations RUN_FOLDER --seconds 520

Trains the second judge anew, judges the shipped model with it, and trains small denoisers for equal times: as the shipped one, without
text pretraining, with SDXL's depths, at 128 px. Last, how much strength of a learned adapter the base bears. Every part saves before it
measures, and its failure does not stop the others. RUN_FOLDER gets second.safetensors, ablations.json and sheets; SCRATCH what is large.
"""

import argparse
import copy
import dataclasses
import gc
import json
import pathlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .captions import plain_prompt
from .clock import Clock, say
from .contents import FOLDER
from .denoiser import DenoiserTraining, Examples, make_unet
from .diffusion import STEPS, add_noise, alphas_cumprod, size_ids
from .evaluate import SHEET_CONTENTS, SHEET_STYLES, Painter, evaluate, judge_on_real, write_report
from .examples import draw_labels, latents_of
from .judge import load_judge, save_judge
from .judge_report import judge_report, some_cheats
from .judge_training import train_judge
from .make import Making, Settings, judge_pools
from .pool import Labels, World
from .sheets import save_sheet
from .strength import strength_sweep
from .styles import NAMES
from .text import TextPair, pretrain

EMBEDDED = FOLDER.parents[1] / "mini"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of the parts, for a GPU."""

    examples: int = 72000
    batch: int = 128
    denoiser_seconds: float = 75  # at most; less if the deadline asks for it
    text_seconds: float = 13
    small_judge_pictures: int = 24000
    small_judge_seconds: float = 10
    real_pictures: int = 4096
    shipped: tuple[int, int, int] = (256, 1024, 1024)
    painted: tuple[int, int] = (128, 512)
    checked: int = 1024  # latents of the validation loss
    adapter_seconds: float = 8
    adapter_each: int = 16
    steps: int = 20
    between: float = 10  # seconds that one denoiser costs beside its training
    kept: float = 48  # seconds for the last part and the saving


TINY = Plan(48, 4, 4, 2, 24, 2, 16, (2, 4, 4), (2, 4), 4, 3, 1, 2, 1, 20)


@dataclasses.dataclass(frozen=True)
class Variant:
    pretrained: bool = True
    channels: tuple[int, ...] = (64, 128, 128)
    depths: tuple[int, ...] = (1, 2, 2)
    size: int = 192


VARIANTS = {
    "as shipped": Variant(),
    "no text pretraining": Variant(pretrained=False),
    "depths 1-2-10, channels 64-128-64": Variant(channels=(64, 128, 64), depths=(1, 2, 10)),
    "128 px": Variant(size=128),
}


class Ablations:
    def __init__(self, folder: pathlib.Path, scratch: pathlib.Path, settings: Settings, plan: Plan, seconds: float) -> None:
        self.folder, self.scratch, self.settings, self.plan = folder, scratch, settings, plan
        self.deadline = time.monotonic() + seconds
        for source, home in ((EMBEDDED, scratch), (FOLDER / "judges", scratch / "judges")):
            shutil.copytree(source, home, dirs_exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.making = Making(scratch, settings, seconds)
        self.worlds = {settings.size: self.making.world}
        self.judges = {settings.size: {kind: self.making.judge(kind) for kind in ("first", "second")}}
        self.autoencoder = self.making.autoencoder()
        self.latents: dict[int, Tensor] = {}
        self.checked: dict[int, Tensor] = {}
        self.report: dict[str, object] = {"settings": dataclasses.asdict(plan)}
        self.rows: list[Tensor] = []
        self.seconds_each = 0.0

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def world(self, size: int) -> World:
        if size not in self.worlds:
            self.worlds[size] = World(self.making.device, size, self.settings.seed)
        return self.worlds[size]

    def second_judge(self) -> None:
        making = self.making
        pools = judge_pools(making.pool(), self.autoencoder, self.settings.round_trips)
        judge = making.make_second_judge(pools)
        for home in (self.folder, self.scratch / "judges"):
            save_judge(judge, home / "second.safetensors")
        self.judges[self.settings.size]["second"] = load_judge("second", self.folder).to(making.device)
        making.forget_pool()

    def judges_on_real(self) -> None:
        world = self.making.world
        self.report["judges"] = judge_report(world, self.judges[self.settings.size], self.autoencoder, self.plan.real_pictures)
        save_sheet(self.folder / "cheats.webp", some_cheats(world, 6), 6)

    def shipped_model(self) -> None:
        counts = dict(zip(("photo", "seen pairs", "unseen pairs"), self.plan.shipped, strict=True))
        painter = Painter(self.scratch, self.making.world)
        guidance, judges = self.settings.guidance, self.judges[self.settings.size]
        self.report["shipped model"] = evaluate(painter, judges, counts, guidance=guidance, seed=7, steps=self.plan.steps)

    def data(self) -> None:
        """The same labels and captions at both sizes; others for the validation loss."""
        s, plan, world = self.settings, self.plan, self.making.world
        labels = draw_labels(world, plan.examples, s.photos, s.pairs_of_objects)
        self.ids, self.told = (each.to(world.device) for each in world.caption(labels))
        self.checked_labels = draw_labels(world, plan.checked, s.photos, 0)
        for size in {variant.size: None for variant in VARIANTS.values()}:
            self.latents[size] = latents_of(self.world(size), self.autoencoder, labels)
            self.checked[size] = latents_of(self.world(size), self.autoencoder, self.checked_labels)
            say("encoded", plan.examples, "latents of", size, "px")

    def text(self) -> None:
        self.pretrained = self.new_text()
        pretrain(self.pretrained, self.ids, self.told, self.making.world.sprites, Clock(self.plan.text_seconds), self.settings.text_batch)

    def new_text(self) -> TextPair:
        torch.manual_seed(self.settings.seed)
        widths = self.settings.text_widths
        return TextPair(self.making.world.tokenizer.known, (widths[0], widths[1])).to(self.making.device)

    def small_judge(self) -> None:
        """A judge of the smaller pictures: the first one, trained on at that size, because crafts keep their period in pixels."""
        size = VARIANTS["128 px"].size
        world, plan = self.world(size), self.plan
        pools = judge_pools(world.picture_pool(plan.small_judge_pictures), self.autoencoder, plan.small_judge_pictures // 2)
        judge = self.making.judge("first")
        judge = train_judge(judge, pools, batch=self.settings.judge_batch, seconds=plan.small_judge_seconds, rate=1e-3)
        self.judges[size] = {"first": judge}
        self.report["judge at 128 px"] = judge_on_real(world, self.judges[size], self.autoencoder, plan.real_pictures // 2)

    def denoiser(self, name: str) -> None:
        """Train one variant, save it, then judge it."""
        s, plan, variant = self.settings, self.plan, VARIANTS[name]
        if not self.seconds_each:
            self.seconds_each = min(plan.denoiser_seconds, (self.left() - plan.kept) / len(VARIANTS) - plan.between)
        text = copy.deepcopy(self.pretrained) if variant.pretrained else self.new_text()
        torch.manual_seed(s.seed + 1)
        unet = make_unet(variant.size // 8, variant.channels, variant.depths, text.context_width, text.pooled_width).to(self.making.device)
        examples = Examples(self.latents[variant.size], self.ids, self.making.world.tokenizer([""]).to(self.making.device))
        training = DenoiserTraining(unet, text, examples, batch=plan.batch, rate=s.denoiser_rate, dropout=s.empty_prompts)
        training.run(self.seconds_each, self.deadline - 12, compiled=False)
        home = self.scratch / name.replace(" ", "_")
        training.save_model(home)
        shutil.copytree(self.scratch / "vae", home / "vae", dirs_exist_ok=True)
        steps = int(training.weights.count.item())
        row: dict[str, object] = {
            "million parameters": round(sum(p.numel() for p in unet.parameters()) / 1e6, 2),
            "seconds": round(training.spent, 1),
            "steps": steps,
            "ms a step": round(1e3 * training.spent / max(1, steps), 1),
            "training loss": round(training.loss.item(), 4),
        }
        self.report[name] = row
        self.save()
        del training, unet, text, examples
        self.tidy()
        painter = Painter(home, self.world(variant.size))
        row.update(self.judged(painter, variant.size))
        self.show(painter)

    def judged(self, painter: Painter, size: int) -> dict[str, object]:
        plan = self.plan
        judges = self.judges.get(size) or {}
        counts = dict(zip(("photo", "seen pairs"), plan.painted, strict=True))
        table = evaluate(painter, judges, counts, guidance=self.settings.guidance, seed=7, steps=plan.steps)
        loss = validation_loss(painter, self.checked[size], [plain_prompt(self.making.world.contents, k) for k in self.checked_labels])
        return {"validation loss": round(loss, 5)} | {key: value for key, value in table.items() if "by style" not in key}

    def show(self, painter: Painter) -> None:
        """One row of the sheet, a picture of each of eight pairs; smaller pictures lie in the corner of their cell."""
        pairs = zip(SHEET_CONTENTS, SHEET_STYLES, strict=True)
        labels = [Labels(painter.world.index(content), NAMES.index(look), k * 3 % 16) for k, (content, look) in enumerate(pairs)]
        pictures = painter.paint_labels(labels, guidance=self.settings.guidance, seed=3, steps=self.plan.steps).cpu()
        gap = self.settings.size - pictures.shape[-1]
        self.rows.append(F.pad(pictures, (0, gap, 0, gap)))
        save_sheet(self.folder / "ablations.webp", torch.cat(self.rows), len(labels))

    def strength(self) -> None:
        plan, judges = self.plan, self.judges[self.settings.size]
        table, sheet = strength_sweep(
            self.scratch,
            self.making.world,
            judges,
            rank=32,
            rate=1e-3,
            seconds=plan.adapter_seconds,
            each=plan.adapter_each,
            guidance=self.settings.guidance,
            steps=plan.steps,
        )
        self.report["adapter strength"] = table
        save_sheet(self.folder / "strength.webp", sheet, 8)

    def tidy(self) -> None:
        gc.collect()
        if self.making.device.type == "cuda":
            torch.cuda.empty_cache()

    def save(self) -> None:
        write_report(self.folder / "ablations.json", self.report)

    def parts(self) -> dict[str, tuple[Callable[[], None], float]]:
        """Every part and the seconds without which it does not begin."""
        runs = {name: (lambda name=name: self.denoiser(name), 20.0) for name in VARIANTS}
        return {
            "second judge": (self.second_judge, self.settings.second_judge_seconds + 20),
            "judges": (self.judges_on_real, 15),
            "shipped model": (self.shipped_model, 25),
            "data": (self.data, 40),
            "text": (self.text, self.plan.text_seconds + 5),
            "small judge": (self.small_judge, self.plan.small_judge_seconds + 10),
            **runs,
            "strength": (self.strength, self.plan.adapter_seconds + 25),
        }

    def go(self) -> int:
        failed = 0
        for name, (part, seconds) in self.parts().items():
            start = time.monotonic()
            if self.left() < seconds * min(1.0, self.plan.kept / 48):
                self.report[f"{name}: not begun"] = f"{self.left():.0f} s were left"
                failed += 1
                continue
            try:
                part()
            except Exception:  # the others are worth having
                traceback.print_exc()
                self.report[f"{name}: failed"] = traceback.format_exc().splitlines()[-1]
                failed += 1
            say(name, "took", round(time.monotonic() - start, 1), "s;", round(self.left()), "s left")
            self.tidy()
            self.save()
        return min(failed, 1)


@torch.no_grad()
def validation_loss(painter: Painter, latents: Tensor, prompts: list[str], batch: int = 256) -> float:
    """Mean squared error of the predicted noise on pictures it was not trained on, the same noises and times for every model of a size."""
    device, total = latents.device, 0.0
    generator, alphas = torch.Generator().manual_seed(17), alphas_cumprod(device)
    ids = painter.world.tokenizer(prompts).long().to(device)
    size = painter.unet.config.sample_size * 8
    for some, words in zip(latents.split(batch), ids.split(batch), strict=True):
        noise = torch.randn(some.shape, generator=generator).to(device)
        times = torch.randint(STEPS, (len(some),), generator=generator).to(device)
        context, pooled = (each.to(painter.unet.dtype) for each in painter.text(words))
        conditions = {"text_embeds": pooled, "time_ids": size_ids(size, device).expand(len(some), -1)}
        noisy = add_noise(some.float(), noise, times, alphas).to(painter.unet.dtype)
        predicted = painter.unet(noisy, times, encoder_hidden_states=context, added_cond_kwargs=conditions).sample
        total += F.mse_loss(predicted.float(), noise).item() * len(some)
    return total / len(latents)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--scratch", type=pathlib.Path, required=True, help="a folder for models and latents, not worth keeping")
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--tiny", action="store_true", help="the same at a size that a CPU does in minutes, of no use")
    args = parser.parse_args()
    numbers = json.loads((FOLDER / ("tiny.json" if args.tiny else "config.json")).read_text(encoding="utf-8"))
    return Ablations(args.folder, args.scratch, Settings(**numbers), TINY if args.tiny else Plan(), args.seconds).go()


if __name__ == "__main__":
    sys.exit(main())
