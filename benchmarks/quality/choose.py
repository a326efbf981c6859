"""What every method is run with: a few trials each on the development pairs, the best by the first judge. Written to chosen.json."""

import dataclasses
import json
from pathlib import Path

from . import metrics
from .methods import Apart, Joint
from .tune import Tuning

SUM = Apart(rows=(8, 0))
OURS = Apart(family="free", rows=(4, 4), partners="keep")
FULL = Apart(family="full", rank=32, rows=(4, 4), partners="keep", content_rate=2e-3, style_rate=2e-3)
PAPER = Apart(family="published", rank=32, rows=(2, 6), partners="others", content_rate=3e-3, style_rate=3e-3)
HALVES = dataclasses.replace(PAPER, family="halves")
RATES = {
    "sum": (SUM, (5e-4, 1e-3, 2e-3)),
    "ours": (OURS, (5e-4, 1e-3)),
    "orthogonal": (dataclasses.replace(SUM, family="orthogonal"), (1e-3, 2e-3, 4e-3)),
    "blocks": (dataclasses.replace(SUM, family="blocks"), (2e-3, 4e-3)),
    "rank 4": (dataclasses.replace(OURS, rank=4), (1e-3, 2e-3)),
    "full": (FULL, (2e-3,)),
}
JOINTS = {  # name: (stage one, metric, kept rows)
    "ours, Riemannian": ("ours", metrics.of_two_pairs, 4),
    "ours, AdamW": ("ours", None, 4),
    "sum, AdamW": ("sum", None, 0),
    "sum, Riemannian": ("sum", metrics.of_two_pairs, 0),
}
JOINT_RATES = (3e-4, 1e-3)


def at(apart: Apart, rate: float) -> Apart:
    return dataclasses.replace(apart, content_rate=rate, style_rate=rate)


def choose(tuning: Tuning, file: Path) -> None:
    """Fill ``file`` with the best rate of everything in RATES and JOINTS, the most wanted first."""
    chosen: dict[str, float] = {}
    partial = file.with_suffix(".partial.json")
    order = ("sum", "ours", "ours, Riemannian", "ours, AdamW", "sum, AdamW", "sum, Riemannian", "orthogonal", "blocks", "rank 4", "full")
    for name in order:
        chosen[name], chosen[f"{name}: share"] = _best_apart(tuning, name) if name in RATES else _best_joint(tuning, name, chosen)
        partial.write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")
    partial.rename(file)


def _best_apart(tuning: Tuning, name: str) -> tuple[float, float]:
    apart, rates = RATES[name]
    tuning.contest.prepare([at(apart, rate) for rate in rates])
    found = {rate: tuning.note(name, tuning.contest.merge(at(apart, rate)), rate=rate) for rate in rates}
    best = max(found, key=found.__getitem__)
    return best, found[best]


def _best_joint(tuning: Tuning, name: str, chosen: dict[str, float]) -> tuple[float, float]:
    start, metric, kept = JOINTS[name]
    adapters = tuning.contest.merge(at(RATES[start][0], chosen[start]))
    joints = [Joint(rate, metric=metric, kept=kept) for rate in JOINT_RATES]
    joined = tuning.contest.together(adapters, joints)
    found = {joint.rate: tuning.note(f"{name}, joint", each, rate=joint.rate) for joint, each in zip(joints, joined, strict=True)}
    best = max(found, key=found.__getitem__)
    return best, found[best]
