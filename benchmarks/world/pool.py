"""Draws labels, renders pictures on the device and keeps them there: the data of every training."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from . import backgrounds, styles
from .captions import UNKNOWN, CaptionWriter, WorldTokenizer
from .contents import Content, load_contents, load_sprites
from .render import NOBODY, Labels, render


def is_unseen_pair(content: int, style: int) -> bool:
    """One content-style pair in ten is kept from training, to measure composition. Photos are all seen."""
    return style != styles.PHOTO and (content * 131 + style * 17) % 10 == 0


class World:
    """Contents, sprites on a device, and the random draws."""

    def __init__(self, device: torch.device, size: int, seed: int) -> None:
        self.device, self.size, self.rng = device, size, random.Random(seed)
        self.contents: list[Content] = load_contents()
        self.sprites = load_sprites(len(self.contents)).to(device)
        self.seen_contents = [k for k, content in enumerate(self.contents) if not content.held_out]
        self.tokenizer, self.writer = WorldTokenizer(), CaptionWriter(self.contents, self.rng)
        torch.manual_seed(seed)

    def index(self, name: str) -> int:
        return [content.name for content in self.contents].index(name)

    def draw(self, *, everything: bool, photos: float, pairs_of_objects: float) -> Labels:
        """Labels from the whole world, or from what the denoiser may see."""
        contents = range(len(self.contents)) if everything else self.seen_contents
        looks = range(1, len(styles.NAMES)) if everything else styles.seen_styles()
        while True:
            style = styles.PHOTO if self.rng.random() < photos else self.rng.choice(looks)
            second = self.rng.choice(contents) if self.rng.random() < pairs_of_objects else NOBODY
            labels = Labels(self.rng.choice(contents), style, self.rng.randrange(len(backgrounds.NAMES)), second)
            if everything or not (is_unseen_pair(labels.content, style) or (second != NOBODY and is_unseen_pair(second, style))):
                return labels

    def render(self, labels: Sequence[Labels]) -> Tensor:
        return render(self.sprites, labels, self.size)

    def picture_pool(self, count: int, batch: int = 1024) -> tuple[Tensor, Tensor]:
        """Pictures of the whole world, one object each: uint8 (count, 3, S, S) and int64 (count, 3) content, style, background."""
        pictures = torch.empty(count, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        truth = []
        for start in range(0, count, batch):
            labels = [self.draw(everything=True, photos=0.1, pairs_of_objects=0) for _ in range(min(batch, count - start))]
            pictures[start : start + len(labels)] = (self.render(labels) * 255).round().byte()
            truth += labels
        return pictures, truth_of(truth).to(self.device)

    def caption(self, labels: Sequence[Labels]) -> tuple[Tensor, Tensor]:
        """Token ids int32 (N, 77) and what the captions tell, int64 (N, 3), UNKNOWN where they do not; both on the CPU."""
        captions = [self.writer.write(each) for each in labels]
        told = torch.tensor([[c.content, c.style, c.background] for c in captions])
        return self.tokenizer([c.words for c in captions]), told


def truth_of(labels: Sequence[Labels]) -> Tensor:
    return torch.tensor([[each.content, each.style, each.background] for each in labels])


__all__ = ["NOBODY", "UNKNOWN", "Labels", "World", "is_unseen_pair", "truth_of"]
