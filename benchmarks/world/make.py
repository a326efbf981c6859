"""Make the model in the box: python -m benchmarks.world.make RUN_FOLDER --seconds 570

Pieces in order: judge, autoencoder, judges again (on round trips), latents, text and denoiser, evaluation. Each leaves its file in
RUN_FOLDER before anything is measured; a piece whose file is there is not done again. The command stops at its deadline; give it again
and it goes on, the denoiser from its checkpoint. Exit code 0: all done; 3: stopped at the deadline, run it again.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from .autoencoder import AutoencoderTraining, round_trips
from .clock import Clock, say
from .contents import FOLDER
from .denoiser import DenoiserTraining, Examples, make_unet
from .evaluate import Painter, autoencoder_report, contact_sheet, evaluate, judge_on_real, write_report
from .examples import draw_labels, latents_of
from .judge import KINDS, Judge, load_judge, save_judge
from .judge_training import Pool, Renewal, train_judge
from .pool import World
from .refused import refused_pool
from .text import TextPair, pretrain

OPEN_ENDED = 15.0  # seconds kept at the end for saving
LATENTS_A_SECOND = 4000  # at least, on a GPU
ROUND_TRIP_SHARE, REFUSED_SHARE = 0.35, 0.1  # of a judge's batch
SECOND_RATE = 1e-3
STOPPED = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of config.json; seconds are training time of one piece."""

    seed: int
    size: int
    pictures: int
    judge_seconds: float
    judge_batch: int
    autoencoder_seconds: float
    autoencoder_batch: int
    autoencoder_crop: int
    autoencoder_rate: float
    critic_from: float
    critic_weight: float
    round_trips: int
    judge_again_seconds: float
    second_judge_seconds: float
    refused: int
    renewed: int
    latents: int
    photos: float
    pairs_of_objects: float
    text_widths: list[int]
    text_seconds: float
    text_batch: int
    channels: list[int]
    depths: list[int]
    denoiser_seconds: float
    denoiser_batch: int
    denoiser_rate: float
    empty_prompts: float
    compiled: bool
    guidance: float
    guidance_tried: list[float]
    evaluated: dict[str, int]


def judge_pools(pool: tuple[Tensor, Tensor], autoencoder: AutoencoderTiny, trips: int) -> list[Pool]:
    """Rendered pictures, and round trips of the first of them."""
    pictures, truth = pool
    return [Pool(pictures, truth), Pool(round_trips(autoencoder, pictures[:trips], 0.1), truth[:trips].clone(), ROUND_TRIP_SHARE)]


class Making:
    """One run of the command: the pieces, each a method, in a folder with a deadline."""

    def __init__(self, folder: pathlib.Path, settings: Settings, seconds: float) -> None:
        self.folder, self.settings, self.deadline = folder, settings, time.monotonic() + seconds
        (folder / "judges").mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        self.world = World(self.device, settings.size, settings.seed + int(time.time()) % 1000)
        self._pool: tuple[Tensor, Tensor] | None = None

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def out_of_time(self, wanted: float = OPEN_ENDED) -> bool:
        return time.monotonic() + wanted > self.deadline

    def pool(self) -> tuple[Tensor, Tensor]:
        if self._pool is None:
            self._pool = self.world.picture_pool(self.settings.pictures)
            say("rendered", self.settings.pictures, "pictures", self._pool[0][0, 0, 0, 0].item())
        return self._pool

    def forget_pool(self) -> None:
        self._pool = None

    def judge(self, kind: str) -> Judge:
        return load_judge(kind, self.folder / "judges").to(self.device)

    def autoencoder(self) -> AutoencoderTiny:
        return AutoencoderTiny.from_pretrained(self.folder / "vae", torch_dtype=torch.float32).to(self.device).eval()

    def train_judge(self, judge: Judge, pools: Sequence[Pool], seconds: float, rate: float, renewal: Renewal | None = None) -> Judge:
        deadline = self.deadline - OPEN_ENDED
        return train_judge(judge, pools, batch=self.settings.judge_batch, seconds=seconds, rate=rate, deadline=deadline, renewal=renewal)

    def make_first_judge(self) -> None:
        judge = self.train_judge(KINDS["first"](), [Pool(*self.pool())], self.settings.judge_seconds, 2e-3)
        save_judge(judge, self.folder / "judges/first.safetensors")

    def make_autoencoder(self) -> None:
        s = self.settings
        judge = self.judge("first").requires_grad_(False).to(memory_format=torch.channels_last)
        training = AutoencoderTraining(
            self.pool()[0],
            judge,
            batch=s.autoencoder_batch,
            side=s.autoencoder_crop,
            rate=s.autoencoder_rate,
            critic_weight=s.critic_weight,
        )
        model = training.run(Clock(s.autoencoder_seconds, self.deadline - OPEN_ENDED), s.critic_from)
        model.to(memory_format=torch.contiguous_format).half().save_pretrained(self.folder / "vae")
        write_report(
            self.folder / "autoencoder.json",
            autoencoder_report(self.world, self.autoencoder(), min(2048, self.settings.pictures), self.folder / "autoencoder.png"),
        )

    def make_judges(self) -> None:
        """The first judge goes on, the second begins, both on round trips too; the second also on pictures to refuse, and on new ones."""
        s = self.settings
        pools = judge_pools(self.pool(), self.autoencoder(), s.round_trips)
        save_judge(self.train_judge(self.judge("first"), pools, s.judge_again_seconds, 6e-4), self.folder / "judges/first.safetensors")
        second = self.make_second_judge(pools)
        save_judge(second, self.folder / "judges/second.safetensors")
        judges = {kind: self.judge(kind) for kind in KINDS}
        write_report(self.folder / "judges.json", judge_on_real(self.world, judges, self.autoencoder(), min(2048, self.settings.pictures)))
        self.forget_pool()

    def make_second_judge(self, pools: list[Pool]) -> Judge:
        s = self.settings
        refused = Pool(*refused_pool(self.world, s.refused), REFUSED_SHARE)
        renewal = Renewal(self.world, pools[0], s.renewed)
        return self.train_judge(KINDS["second"](), [*pools, refused], s.second_judge_seconds, SECOND_RATE, renewal)

    def make_latents(self) -> None:
        s, world = self.settings, self.world
        labels = draw_labels(world, s.latents, s.photos, s.pairs_of_objects)
        ids, told = world.caption(labels)
        latents = latents_of(world, self.autoencoder(), labels)
        say("encoded", s.latents, "latents, deviation", [round(v, 3) for v in latents.float().std((0, 2, 3)).tolist()])
        save_file({"latents": latents.cpu(), "ids": ids, "told": told}, self.folder / "latents.safetensors")

    def make_denoiser(self) -> bool:
        s = self.settings
        data = {key: value.to(self.device) for key, value in load_file(self.folder / "latents.safetensors").items()}
        torch.manual_seed(s.seed)
        text = TextPair(self.world.tokenizer.known, (s.text_widths[0], s.text_widths[1])).to(self.device)
        unet = make_unet(s.size // 8, tuple(s.channels), tuple(s.depths), text.context_width, text.pooled_width).to(self.device)
        fresh = not self.has("denoiser.safetensors")
        if fresh:
            pretrain(text, data["ids"], data["told"], self.world.sprites, Clock(s.text_seconds), s.text_batch)
        examples = Examples(data["latents"], data["ids"], self.world.tokenizer([""]).to(self.device))
        training = DenoiserTraining(unet, text, examples, batch=s.denoiser_batch, rate=s.denoiser_rate, dropout=s.empty_prompts)
        if not fresh:
            training.load_checkpoint(self.folder / "denoiser.safetensors")
        done = training.run(s.denoiser_seconds, self.deadline - OPEN_ENDED, s.compiled)
        training.save_model(self.folder)
        training.save_checkpoint(self.folder / "denoiser.safetensors")
        return done

    def evaluate(self) -> None:
        s, painter = self.settings, Painter(self.folder, self.world)
        judges = {kind: self.judge(kind) for kind in KINDS}
        contact_sheet(painter, self.folder / "sheet.png", guidance=s.guidance, seed=3)
        tried = {
            str(g): evaluate(painter, {"first": judges["first"]}, {"seen pairs": min(256, s.pictures)}, guidance=g, seed=5)
            for g in s.guidance_tried
        }
        report = evaluate(painter, judges, s.evaluated, guidance=s.guidance, seed=7)
        write_report(self.folder / "evaluation.json", {"guidance": s.guidance, "steps": 20, **report, "guidance tried": tried})

    def go(self, until: str) -> int:
        """All pieces in order; `until` names the last one wanted."""
        s = self.settings
        pieces = [
            ("judge", "judges/first.safetensors", self.make_first_judge, s.judge_seconds),
            ("autoencoder", "vae", self.make_autoencoder, s.autoencoder_seconds),
            ("judges", "judges/second.safetensors", self.make_judges, s.judge_again_seconds + s.second_judge_seconds),
            ("latents", "latents.safetensors", self.make_latents, s.latents / LATENTS_A_SECOND),
        ]
        for name, product, piece, seconds in pieces:
            if not self.has(product):
                if self.out_of_time(seconds + 45):
                    say(
                        "no time left for the",
                        name,
                        "piece: run the command again, with more --seconds if this was the first thing it said",
                    )
                    return STOPPED
                piece()
            if until == name:
                return 0
        if not self.has("denoiser_done"):
            if self.out_of_time(45) or not self.make_denoiser():
                return STOPPED
            (self.folder / "denoiser_done").touch()
        if until == "denoiser":
            return 0
        if self.out_of_time(45):
            return STOPPED
        self.evaluate()
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=570, help="stop and save before this many seconds are over")
    parser.add_argument("--config", type=pathlib.Path, default=FOLDER / "config.json")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other numbers than the configuration's")
    parser.add_argument("--until", default="evaluation", choices=["judge", "autoencoder", "judges", "latents", "denoiser", "evaluation"])
    args = parser.parse_args()
    numbers = json.loads(args.config.read_text(encoding="utf-8"))
    numbers |= {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.set)}
    return Making(args.folder, Settings(**numbers), args.seconds).go(args.until)


if __name__ == "__main__":
    sys.exit(main())
