"""Pictures that must not count: a content or a style that was pasted instead of painted. A judge is trained to call their style UNCLEAR.

"object": only the object is in the style, or only what is around it. "picture": a photo, shrunk, lies on a picture in a style. "doubled":
a photo shines through a picture in a style. A whole photo of the content or a whole picture in the style is refused by its other labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import styles
from .judge_models import IGNORED, UNCLEAR
from .pool import Labels, World, truth_of
from .render import scene, stylize, uniform

KINDS = ("object", "picture", "doubled")
WHOLE = ("photo", "look")  # not trained on: the photo alone, the picture in the style alone
LEAST_DIFFERENCE = 0.1  # between photo and style, over the object: below it nobody could tell that half of the picture is a photo


def pairs_of_labels(world: World, count: int) -> tuple[list[Labels], list[Labels]]:
    """Photos, and pictures in any style: content, style and background drawn apart."""
    drawn = [world.draw(everything=True, photos=0, pairs_of_objects=0) for _ in range(2 * count)]
    photos = [Labels(each.content, styles.PHOTO, each.background) for each in drawn[:count]]
    return photos, drawn[count:]


def half_styled(world: World, labels: list[Labels]) -> tuple[Tensor, Tensor]:
    """Pictures with the object in the style and its surroundings a photo, or the other way round; and which of them show it, bool (N,)."""
    picture, alpha = scene(world.sprites, labels, world.size)
    photo = stylize(picture.clone(), alpha, [styles.PHOTO] * len(labels))
    styled = stylize(picture, alpha, [each.style for each in labels])
    inside = (alpha > 0.5).float()
    swap = (uniform(len(labels), 0, 1, picture.device) < 0.5).float().view(-1, 1, 1, 1)
    styled_here = inside * swap + (1 - inside) * (1 - swap)
    difference = ((photo - styled).abs().mean(1, keepdim=True) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)
    return photo + (styled - photo) * styled_here, difference > LEAST_DIFFERENCE


def pasted(photos: Tensor, pictures: Tensor) -> Tensor:
    """Each photo shrunk to 40-75 % of the side and laid somewhere on its picture."""
    out, size = pictures.clone(), pictures.shape[-1]
    side = int(uniform(1, 0.4, 0.75, photos.device).item() * size)
    small = F.interpolate(photos, size=side, mode="bilinear", antialias=True, align_corners=False)
    places = (torch.rand(len(photos), 2) * (size - side)).long().tolist()
    for k, (y, x) in enumerate(places):
        out[k, :, y : y + side, x : x + side] = small[k]
    return out


def refused(world: World, kind: str, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` pictures of a kind, float32 in 0..1, and what a cheat would claim they show: (N, 3), on the CPU."""
    photos, looks = pairs_of_labels(world, count)
    claimed = truth_of([Labels(a.content, b.style, b.background) for a, b in zip(photos, looks, strict=True)])
    if kind == "object":
        labels = [Labels(int(c), int(s), int(b)) for c, s, b in claimed]
        pictures, shown = half_styled(world, labels)
        return pictures[shown], claimed[shown.cpu()]
    first, second = world.render(photos), world.render(looks)
    if kind == "picture":
        return pasted(first, second), claimed
    if kind in WHOLE:
        return (first if kind == "photo" else second), claimed
    share = uniform(count, 0.35, 0.65, first.device).view(-1, 1, 1, 1)
    return first + (second - first) * share, claimed


def refused_pool(world: World, count: int, batch: int = 384) -> tuple[Tensor, Tensor]:
    """Pictures of all kinds for a training: uint8 (count, 3, S, S) and truth (count, 3) that asks only for UNCLEAR."""
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        found += [(refused(world, kind, min(batch, count))[0] * 255).round().byte() for kind in KINDS]
    pictures = torch.cat(found)[:count]
    truth = torch.full((count, 3), IGNORED, device=world.device)
    truth[:, 1] = UNCLEAR
    return pictures[torch.randperm(count, device=world.device)], truth
