"""How far a judge can be trusted: on fresh real pictures, on held-out contents in held-out styles, and with pictures that cheat."""

import torch
from diffusers import AutoencoderTiny

from . import backgrounds, refused, styles
from .evaluate import judge_on_real
from .judge import UNCLEAR, Judge, ask, spoil
from .pool import Labels, World, truth_of


def judge_report(world: World, judges: dict[str, Judge], autoencoder: AutoencoderTiny, count: int) -> dict[str, object]:
    return {
        "whole world": {"pictures": count, **judge_on_real(world, judges, autoencoder, count)},
        "held-out contents in held-out styles": held_out(world, judges, count // 4),
        "cheats": cheats(world, judges, count // 4),
    }


def held_out(world: World, judges: dict[str, Judge], count: int) -> dict[str, object]:
    contents = [k for k, content in enumerate(world.contents) if content.held_out]
    looks, places = styles.held_out_styles(), range(len(backgrounds.NAMES))
    labels = [Labels(world.rng.choice(contents), world.rng.choice(looks), world.rng.choice(places)) for _ in range(count)]
    pictures = world.render(labels)
    return {"pictures": count, **{name: ask(judge, pictures).shares(truth_of(labels)) for name, judge in judges.items()}}


def cheats(world: World, judges: dict[str, Judge], count: int) -> dict[str, dict[str, object]]:
    """By kind of cheat: the share that a judge accepts as right in content, style and background, and the share that it calls unclear."""
    report: dict[str, dict[str, object]] = {}
    sets = {kind: refused.refused(world, kind, count) for kind in (*refused.KINDS, *refused.WHOLE)}
    labels = [world.draw(everything=True, photos=0, pairs_of_objects=0) for _ in range(count)]
    sets["blurred"] = (spoil(world.render(labels)), truth_of(labels))
    for kind, (pictures, claimed) in sets.items():
        report[kind] = {"pictures": len(pictures)}
        for name, judge in judges.items():
            verdict = ask(judge, pictures)
            accepted, unclear = verdict.shares(claimed)["all three"], (verdict.style == UNCLEAR).float().mean().item()
            report[kind][name] = {"accepted": accepted, "called unclear": round(unclear, 4)}
    return report


@torch.no_grad()
def some_cheats(world: World, each: int) -> torch.Tensor:
    """Examples to look at: `each` of every kind that is trained on, (3 each, 3, S, S) on the CPU."""
    return torch.cat([refused.refused(world, kind, 4 * each)[0][:each].cpu() for kind in refused.KINDS])
