"""A content in styles that the base model knows, painted by the content's own first adapter and sifted by the network's own error.

No judge is asked: a picture is good where naming its style lowers the base model's error on it against calling it a photo, and where the
content's adapter under its trigger lowers that error further. The best pictures of every style teach the content a second time.
"""

import torch
from torch import Tensor

from benchmarks.world.autoencoder import encode

from . import concepts
from .families import Adapters
from .grouped import Factors, Segment
from .references import PictureTable, Studio, phrase, start_noise

SHARES = (0.25, 0.45, 0.65, 0.85)  # of the way from picture to noise, at which the errors are compared
KEPT = 2  # pictures of every style


def restyled(studio: Studio, adapters: Adapters, contents: list[str]) -> tuple[PictureTable, PictureTable, Tensor]:
    """For content ``contents[g]``, learned by adapter g: its pictures captioned by the styles' names, the same captioned by the style's
    trigger, and which known style each is in, (G, pictures)."""
    looks, places = concepts.AUXILIARY_STYLES, concepts.AUXILIARY_PLACES
    seen = [(look, place) for look in range(len(looks)) for place in places]
    factors, columns, shown = adapters.factors(frozenset(), studio.painter.dtype), [], []
    for g, content in enumerate(contents):
        named = [_caption(concepts.subject(content), place, looks[look]) for look, place in seen]
        worn = factors.take([g])
        latents = _painted(studio, worn, named)
        bare = concepts.subject(content).replace(f"{concepts.CONTENT_TRIGGER} ", "")
        plain = [_caption(bare, place, looks[look]) for look, place in seen]
        photo = [f"a photo of {bare} {phrase(place)}" for _, place in seen]
        of_photo, of_style = (_errors(studio, None, latents, captions) for captions in (photo, plain))
        of_content = _errors(studio, worn, latents, named)
        good = _ranks(of_photo - of_style) + _ranks(of_style - of_content)
        best = torch.cat([k * len(places) + good[k * len(places) : (k + 1) * len(places)].topk(KEPT)[1].cpu() for k in range(len(looks))])
        triggered = [_caption(concepts.subject(content), seen[k][1], concepts.STYLE_TRIGGER) for k in best.tolist()]
        chosen = latents[best.to(studio.device)]
        columns.append((chosen, studio.encode_text([named[k] for k in best.tolist()]), studio.encode_text(triggered)))
        shown.append([seen[k][0] for k in best.tolist()])
    latents = torch.stack([each for each, _, _ in columns])
    counts = torch.full((len(contents),), latents.shape[1], device=studio.device)
    tables = [
        PictureTable(latents, torch.stack([each[which][0] for each in columns]), torch.stack([each[which][1] for each in columns]), counts)
        for which in (1, 2)
    ]
    return tables[0], tables[1], torch.tensor(shown, device=studio.device)


def _caption(thing: str, place: str, look: str) -> str:
    return f"{thing} {phrase(place)} in {look} style"


def _painted(studio: Studio, worn: Factors, captions: list[str]) -> Tensor:
    """Latents (N, 4, h, w) of a picture for every caption."""
    context, pooled = studio.encode_text(captions)
    studio.painter.wear(1, [Segment(0, 2 * len(captions), worn)])
    pictures = studio.sample(context, pooled, start_noise(range(500, 500 + len(captions)), studio.side, studio.device))
    studio.painter.wear(1, [])
    return encode(studio.autoencoder, pictures).float()


@torch.no_grad()
def _errors(studio: Studio, worn: Factors | None, latents: Tensor, captions: list[str]) -> Tensor:
    """The mean squared error of the network on every picture under its caption, (N,), over a few noises that are always the same."""
    context, pooled = studio.encode_text(captions)
    total = torch.zeros(len(latents), device=studio.device)
    studio.painter.wear(1, [] if worn is None else [Segment(0, len(latents), worn)])
    for share in SHARES:
        noise = start_noise([round(1000 * share)], studio.side, studio.device).expand_as(latents)
        times = torch.full((len(latents),), studio.noise.at(share), dtype=studio.noise.dtype, device=studio.device)
        predicted = studio.painter(studio.noise.add(latents, noise, times), times, context, pooled)
        total += (predicted - studio.noise.target(latents, noise)).square().mean((1, 2, 3))
    studio.painter.wear(1, [])
    return total


def _ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().float()
