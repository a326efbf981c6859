"""The pictures of every concept as the network sees them, drawn from the world, and the auxiliary ones, painted by the base model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from benchmarks.world import backgrounds, styles
from benchmarks.world.autoencoder import decode, encode
from benchmarks.world.captions import with_article
from benchmarks.world.pool import World
from benchmarks.world.render import Labels, scene
from benchmarks.world.text import TextPair, load_text

from . import concepts
from .bases import UNET, Base
from .grouped import GroupedNetwork

SIZE = 192
GUIDANCE, STEPS = 4.0, 20


@dataclass
class PictureTable:
    """Sets of pictures on the device, padded to one length.

    latents (S, P, 4, h, w), context (S, P, 77, c), pooled (S, P, p), counts (S,); where they are known, the captions' tokens ids
    (S, P, 77) and what the loss of every place counts, weights (S, P, 1, h, w)."""

    latents: Tensor
    context: Tensor
    pooled: Tensor
    counts: Tensor
    ids: Tensor | None = None
    weights: Tensor | None = None

    def first(self, sets: int) -> "PictureTable":
        """Its first ``sets`` sets."""
        columns = (self.latents, self.context, self.pooled, self.counts, self.ids, self.weights)
        return PictureTable(*(None if column is None else column[:sets] for column in columns))  # type: ignore[arg-type]

    @staticmethod
    def join(tables: Sequence["PictureTable"]) -> "PictureTable":
        most = max(int(table.latents.shape[1]) for table in tables)

        def padded(x: Tensor) -> Tensor:
            return torch.cat([x, x[:, :1].expand(-1, most - x.shape[1], *x.shape[2:])], 1)

        columns = [torch.cat([padded(getattr(table, name)) for table in tables]) for name in ("latents", "context", "pooled")]
        ids = [padded(table.ids) for table in tables if table.ids is not None]
        return PictureTable(*columns, torch.cat([table.counts for table in tables]), torch.cat(ids) if len(ids) == len(tables) else None)


@dataclass(frozen=True)
class Sampling:
    """Euler steps and classifier-free guidance; guidance only from ``first`` to ``last`` of the way (Kynkaanniemi et al. 2024)."""

    guidance: float = GUIDANCE
    steps: int = STEPS
    first: float = 0.0
    last: float = 1.0

    def guided(self, with_text: Tensor, without: Tensor, way: float) -> Tensor:
        """The prediction at ``way`` (0 at the noisiest step)."""
        return without + self.guidance * (with_text - without) if self.first <= way < self.last else with_text


class Studio:
    """A base model on a device: text, autoencoder, its network twice (training precision, painting precision), and the world.

    ``folder`` is the embedded model's, of which every base has text encoders and autoencoder.
    """

    def __init__(
        self, folder: Path, device: torch.device, *, everywhere: bool = False, convolutions: bool = False, base: Base = UNET
    ) -> None:
        on_gpu = device.type == "cuda"
        self.device = device
        self.world = World(device, SIZE, concepts.REFERENCE_SEED)
        self.text: TextPair = load_text(folder).to(device).eval().requires_grad_(False)
        self.autoencoder = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device).eval()
        adapted = {"everywhere": everywhere, "convolutions": convolutions}
        self.learner = GroupedNetwork(base, folder, device, torch.bfloat16 if on_gpu else torch.float32, **adapted)
        self.painter = GroupedNetwork(base, folder, device, base.painted_in, **adapted) if on_gpu else self.learner
        self.noise, self.captured = base.noise(device), on_gpu and base.captured
        self.runs_at_once = base.runs_at_once // (2 if convolutions else 1)
        self.side = SIZE // 8
        self.sampling = Sampling()
        both = self.tokens([concepts.CONTENT_TRIGGER, concepts.STYLE_TRIGGER])
        counts = [len(words.split()) for words in (concepts.CONTENT_TRIGGER, concepts.STYLE_TRIGGER)]
        self.triggers = torch.cat([ids[1 : 1 + count] for ids, count in zip(both, counts, strict=True)])

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Context (N, 77, c) and pooled (N, p), float32; ``words`` (N, tokens, c) as in ``read``."""
        return self.read(self.tokens(prompts), words)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 (N, 77)."""
        return self.world.tokenizer(list(prompts)).long().to(self.device)  # type: ignore[no-any-return]

    def read(self, ids: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor]:
        """Context and pooled of ids (N, 77), the rows of the triggers' tokens moved by ``words`` (N, tokens, c), if there are any."""
        if words is None:
            return self.text(ids)  # type: ignore[no-any-return]
        return self.text(ids, (ids[..., None] == self.triggers).to(words.dtype) @ words)  # type: ignore[no-any-return]

    def table(self, sets: Sequence[tuple[Tensor, Sequence[str]]]) -> PictureTable:
        """Sets of (pictures (P, 3, S, S) in 0..1, their captions), all of one length."""
        columns = [(encode(self.autoencoder, pictures), *self.encode_text(captions), self.tokens(captions)) for pictures, captions in sets]
        latents, context, pooled, ids = (torch.stack(column) for column in zip(*columns, strict=True))
        counts = torch.tensor([len(captions) for _, captions in sets], device=self.device)
        return PictureTable(latents.float(), context, pooled, counts, ids)

    def render(self, labels: Sequence[Labels], seed: int) -> Tensor:
        torch.manual_seed(seed)
        return self.world.render(labels)

    @torch.no_grad()
    def sample(self, context: Tensor, pooled: Tensor, noise: Tensor, start: Tensor | None = None, skip: int = 0) -> Tensor:
        """Pictures float32 (N, 3, S, S) by Euler steps; what the painter wears is used for both passes.
        With ``start`` latents, the first ``skip`` steps are left out and the start is noised to where they would have led.

        Groups are contiguous: row i belongs to group i // (N / groups); with and without text stand one after the other in each group.
        """
        net, n = self.painter, len(noise)
        groups = net.wardrobe.groups
        empty = self.encode_text([""])
        both = [
            torch.cat([x.unflatten(0, (groups, -1)), e.expand(n, *e.shape[1:]).unflatten(0, (groups, -1))], 1).flatten(0, 1)
            for x, e in ((context, empty[0]), (pooled, empty[1]))
        ]
        how = self.sampling
        times, levels = self.noise.course(how.steps)
        predict = Replayed(lambda shown, time: net(shown, time.expand(2 * n), *both), self.captured)
        x = self.noise.start(noise, start, levels[skip])
        for k in range(skip, how.steps):
            net.wardrobe.step.fill_(k)
            shown = self.noise.shown(x, levels[k]).unflatten(0, (groups, -1)).repeat(1, 2, 1, 1, 1).flatten(0, 1)
            predicted = predict(shown, times[k]).unflatten(0, (groups, 2, -1))
            with_text, without = predicted[:, 0].flatten(0, 1), predicted[:, 1].flatten(0, 1)
            x = x + (levels[k + 1] - levels[k]) * how.guided(with_text, without, k / how.steps)
        return decode(self.autoencoder, x)


class Replayed:
    """A function of tensors of unchanging shape; captured, one CUDA graph from the second call on: its small kernels wait for Python."""

    def __init__(self, function: Callable[..., Tensor], captured: bool) -> None:
        self.function, self.captured = function, captured
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not self.captured:
            return self.function(*inputs)
        if not self.inputs:
            self.inputs = tuple(each.clone() for each in inputs)
            return self.function(*inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.output = self.function(*self.inputs)
        self.graph.replay()
        return self.output


def start_noise(seeds: Sequence[int], side: int, device: torch.device) -> Tensor:
    """(seeds, 4, side, side), the same on every device."""
    return torch.stack([torch.randn(4, side, side, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(device)


def content_labels(studio: Studio, content: str) -> list[Labels]:
    where = studio.world.index(content)
    return [Labels(where, styles.PHOTO, backgrounds.NAMES.index(place)) for place in concepts.CONTENT_PLACES]


def style_labels(studio: Studio, style: str) -> list[Labels]:
    look = styles.NAMES.index(style)
    return [Labels(studio.world.index(thing), look, backgrounds.NAMES.index(place)) for thing, place in concepts.STYLE_PICTURES]


def object_masks(studio: Studio, content: str) -> Tensor:
    """Where the content is in its four photographs, (4, 1, S, S) in 0..1."""
    torch.manual_seed(concepts.REFERENCE_SEED)
    return scene(studio.world.sprites, content_labels(studio, content), SIZE)[1]


def content_set(studio: Studio, content: str) -> tuple[Tensor, list[str]]:
    """The four photographs of a content, and what they are called."""
    captions = [f"a photo of {concepts.subject(content)} {phrase(place)}" for place in concepts.CONTENT_PLACES]
    return studio.render(content_labels(studio, content), concepts.REFERENCE_SEED), captions


def style_set(studio: Studio, style: str) -> tuple[Tensor, list[str]]:
    """The four pictures of a style, and what they are called."""
    captions = [f"{with_article(thing)} {phrase(place)} in {concepts.STYLE_TRIGGER} style" for thing, place in concepts.STYLE_PICTURES]
    return studio.render(style_labels(studio, style), concepts.REFERENCE_SEED), captions


def both_triggers() -> list[str]:
    """What the pictures of a style are called if the thing in each were a content to be learned."""
    return [f"{concepts.subject(thing)} {phrase(place)} in {concepts.STYLE_TRIGGER} style" for thing, place in concepts.STYLE_PICTURES]


def auxiliary_sets(studio: Studio, kind: str, sets: int) -> list[tuple[Tensor, list[str]]]:
    """Sets that the base model paints: one style over many contents ("styles"), or photos of one content ("contents")."""
    captions = [auxiliary_captions(kind, k) for k in range(sets)]
    studio.painter.wear(1, [])
    seeds = [1000 * k + i for k in range(sets) for i in range(concepts.AUXILIARY_PICTURES)]
    painted = studio.sample(*studio.encode_text(sum(captions, [])), start_noise(seeds, studio.side, studio.device))
    return list(zip(painted.split(concepts.AUXILIARY_PICTURES), captions, strict=True))


def auxiliary_captions(kind: str, k: int, *, trigger: bool = False) -> list[str]:
    """What set k is called: by its name, or by the trigger, as if it were to be learned."""
    places = [phrase(place) for place in concepts.AUXILIARY_PLACES[: concepts.AUXILIARY_PICTURES]]
    content, style = concepts.AUXILIARY_CONTENTS[k], concepts.AUXILIARY_STYLES[k]
    if kind == "styles":
        look = concepts.STYLE_TRIGGER if trigger else style
        things = [with_article(concepts.AUXILIARY_CONTENTS[(k + i) % 8]) for i in range(len(places))]
        return [f"{thing} {place} in {look} style" for thing, place in zip(things, places, strict=True)]
    shown = concepts.subject(content) if trigger else with_article(content)
    return [f"a photo of {shown} {place}" for place in places]


def told_by_both(k: int) -> dict[str, list[str]]:
    """Captions of the photographs of auxiliary content k: plain, as a content to be learned, in the style to be learned, and both."""
    thing, places = concepts.AUXILIARY_CONTENTS[k], concepts.AUXILIARY_PLACES[: concepts.AUXILIARY_PICTURES]
    known, new, look = with_article(thing), concepts.subject(thing), concepts.STYLE_TRIGGER
    return {
        "plain": [f"a photo of {known} {phrase(place)}" for place in places],
        "content": [f"a photo of {new} {phrase(place)}" for place in places],
        "style": [f"{known} {phrase(place)} in {look} style" for place in places],
        "both": [f"{new} {phrase(place)} in {look} style" for place in places],
    }


def phrase(place: str) -> str:
    return backgrounds.PHRASES[place][0]
