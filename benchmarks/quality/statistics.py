"""What the marks say: shares with intervals, differences by a paired two-way bootstrap, Holm's correction over the planned comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """One method less another on the primary number: mean, 95 % interval, two-sided p, pairs won and lost."""

    mean: float
    low: float
    high: float
    p: float
    won: int
    lost: int


def draw_weights(seeds: int, contents: int, styles: int, draws: int = DRAWS) -> tuple[np.ndarray, ...]:
    """How often each seed, content and style is drawn in each resample, as shares, (draws, count) each; fixed random numbers."""
    generator = np.random.default_rng(0)
    return tuple(generator.multinomial(count, np.full(count, 1 / count), size=draws) / count for count in (seeds, contents, styles))


def resampled(cells: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """The mean of ``cells`` (seeds, contents, styles) under resampling of contents and of styles, seeds with them: (draws,)."""
    seed, content, style = draw_weights(*cells.shape, draws)
    return np.einsum("scy,ds,dc,dy->d", cells, seed, content, style, optimize=True)


def interval(cells: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(resampled(cells), (0.025, 0.975))
    return float(low), float(high)


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Paired: both are (seeds, contents, styles), shares of pictures with all three right, on the same pairs and noises."""
    drawn = resampled(ours - theirs)
    low, high = np.quantile(drawn, (0.025, 0.975))
    p = min(1.0, 2 * min(float((drawn <= 0).mean()), float((drawn >= 0).mean())))
    by_pair = (ours - theirs).mean(0)
    return Difference(float((ours - theirs).mean()), float(low), float(high), p, int((by_pair > 0).sum()), int((by_pair < 0).sum()))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values (Holm 1979), by name."""
    adjusted, most = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = most
    return adjusted
