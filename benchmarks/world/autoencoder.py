"""The autoencoder: diffusers' AutoencoderTiny of width 64, which hosts load as a TAESD, trained on the whole world.

Loss: L1 + edges + a distance in the first judge's features, then also a patch critic for crisp borders. Latents are batch-normalised while
training; the statistics are folded into the encoder's last convolution, so that the file needs no scaling. Noise on the latents makes the
decoder forgive a denoiser's errors.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from .clock import Clock, say
from .judge import as_float
from .judge_models import ConvolutionalJudge, Judge

LATENT_NOISE = 0.12  # largest standard deviation of the noise, in standard deviations of the latents


def make_autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(encoder_block_out_channels=(64,) * 4, decoder_block_out_channels=(64,) * 4)


@torch.no_grad()
def encode(autoencoder: AutoencoderTiny, pictures: Tensor, batch: int = 512) -> Tensor:
    """Pictures uint8 or float in 0..1, (N, 3, S, S) -> latents float32 (N, 4, S/8, S/8), on the autoencoder's device."""
    device = autoencoder.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        parts = [
            autoencoder.encoder(channels_last(as_float(some.to(device)) * 2 - 1)).float().contiguous() for some in pictures.split(batch)
        ]
    return torch.cat(parts)


@torch.no_grad()
def decode(autoencoder: AutoencoderTiny, latents: Tensor, batch: int = 512) -> Tensor:
    """Latents -> pictures float32 in 0..1, the same way."""
    device = autoencoder.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        parts = [((autoencoder.decoder(some).float() + 1) / 2).clamp(0, 1) for some in latents.split(batch)]
    return torch.cat(parts)


@torch.no_grad()
def round_trips(autoencoder: AutoencoderTiny, pictures: Tensor, noise: float, batch: int = 512) -> Tensor:
    """Pictures as they come back from noisy latents, uint8."""
    out = torch.empty_like(pictures, dtype=torch.uint8)
    for start in range(0, len(pictures), batch):
        latents = encode(autoencoder, pictures[start : start + batch])
        shaken = latents + noise * torch.rand(len(latents), 1, 1, 1, device=latents.device) * torch.randn_like(latents)
        out[start : start + batch] = (decode(autoencoder, shaken) * 255).round().byte()
    return out


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def make_critic() -> nn.Sequential:
    """Says of every patch of about 46 pixels whether it is a real picture's."""
    widths = (3, 48, 96, 160)
    layers: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(
        *layers, nn.utils.parametrizations.spectral_norm(nn.Conv2d(widths[-1], 128, 3, 1, 1)), nn.LeakyReLU(0.2), nn.Conv2d(128, 1, 1)
    )


def crops(pictures: Tensor, side: int) -> Tensor:
    """The same random square of every picture, at multiples of 8, where the crafts' patterns repeat."""
    places = (pictures.shape[-1] - side) // 8 + 1
    y, x = (int(torch.randint(places, ()).item()) * 8 for _ in range(2))
    return pictures[..., y : y + side, x : x + side]


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


class AutoencoderTraining:
    def __init__(self, pictures: Tensor, judge: Judge, *, batch: int, side: int, rate: float, critic_weight: float) -> None:
        assert isinstance(judge, ConvolutionalJudge)  # it alone has features of every size
        self.pictures, self.judge, self.batch, self.side, self.rate, self.critic_weight = pictures, judge, batch, side, rate, critic_weight
        device = pictures.device
        self.model = make_autoencoder().to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model)
        self.norm = nn.BatchNorm2d(4, affine=False, momentum=0.02).to(device)
        self.critic = make_critic().to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0)
        self.critic_optimizer = torch.optim.AdamW(self.critic.parameters(), lr=4e-4, betas=(0.5, 0.9), weight_decay=0)

    def run(self, clock: Clock, critic_from: float) -> AutoencoderTiny:
        """Train until the clock is over, with the critic from that share of the time on; gives the averaged weights, folded."""
        step = 0
        while not clock.over():
            for group in self.optimizer.param_groups:
                group["lr"] = clock.rate(self.rate, step)
            losses = self.step(with_critic=clock.share() > critic_from)
            self.follow(0.01 if step > 300 else 0.2)
            if step % 200 == 0:
                say("autoencoder", step, {name: round(value.item(), 4) for name, value in losses.items()})
            step += 1
        say("autoencoder trained", step, "steps of", self.batch)
        return self.fold()

    def batch_of_pictures(self) -> Tensor:
        rows = torch.randint(len(self.pictures), (self.batch,), device=self.pictures.device)
        return channels_last(as_float(crops(self.pictures[rows], self.side)))

    def reconstruct(self, real: Tensor) -> Tensor:
        latents = self.norm(self.model.encoder(real * 2 - 1).float())
        noise = LATENT_NOISE * torch.rand(len(real), 1, 1, 1, device=real.device) * torch.randn_like(latents)
        return (self.model.decoder(latents + noise).float() + 1) / 2

    def step(self, with_critic: bool) -> dict[str, Tensor]:
        real = self.batch_of_pictures()
        with self.autocast():
            made = self.reconstruct(real)
            losses = self.likeness(real, made)
            loss = torch.stack(list(losses.values())).sum()
            if with_critic:
                losses["critic"] = -self.critic(channels_last(made)).float().mean()
                loss = loss + self.balance(losses["features"] + losses["l1"], losses["critic"]) * losses["critic"]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if with_critic:
            losses["judged"] = self.train_critic(real, made.detach())
        return losses

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.pictures.device.type, torch.bfloat16, enabled=self.pictures.is_cuda)

    def likeness(self, real: Tensor, made: Tensor) -> dict[str, Tensor]:
        edge = torch.stack([(a - b).abs().mean() for a, b in zip(differences(real), differences(made), strict=True)]).sum()
        pairs = zip(self.judge.features(real, 3), self.judge.features(made, 3), strict=True)
        feature = torch.stack(
            [(F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).pow(2).sum(1).mean() for a, b in pairs]
        ).sum()
        return {"l1": (real - made).abs().mean(), "edges": 0.5 * edge, "features": 0.15 * feature}

    def balance(self, likeness: Tensor, critic: Tensor) -> Tensor:
        """Weight at which the critic pulls the last layer critic_weight times as hard as the likeness does (Esser 2021, eq. 7)."""
        last = self.model.decoder.layers[-1].weight
        pull, push = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (likeness, critic))
        return (self.critic_weight * pull / (push + 1e-6)).clamp(0, 1).detach()

    def train_critic(self, real: Tensor, made: Tensor) -> Tensor:
        with self.autocast():
            verdict = self.critic(torch.cat([real, channels_last(made)])).float()
        good, bad = verdict.chunk(2)
        loss = F.relu(1 - good).mean() + F.relu(1 + bad).mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def follow(self, share: float) -> None:
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), share)

    @torch.no_grad()
    def fold(self) -> AutoencoderTiny:
        """Measure the averaged encoder's latents and put the normalisation into its last convolution."""
        model = self.average.eval()
        sample = torch.cat(list(self.some_latents(model)))
        mean, deviation = sample.mean((0, 2, 3)), sample.std((0, 2, 3))
        last = model.encoder.layers[-1]
        last.weight.div_(deviation.view(-1, 1, 1, 1))
        last.bias.sub_(mean).div_(deviation)
        return model

    def some_latents(self, model: AutoencoderTiny) -> Iterator[Tensor]:
        for some in self.pictures[:4096].split(256):
            yield encode(model, some)


def psnr(real: Tensor, made: Tensor) -> Tensor:
    """Per picture, in dB."""
    return -10 * torch.log10((real - made).pow(2).mean((1, 2, 3)).clamp(min=1e-8))
