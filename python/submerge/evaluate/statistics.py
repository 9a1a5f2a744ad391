"""Intervals and rates for paired scores, in NumPy.

The pairs of one prompt (its seeds) are not independent, so what is drawn again and again is
prompts: a cluster bootstrap of the mean over prompts (Davison and Hinkley 1997, 3.8). Everything
random comes from Philox with a given key, so a number in a report is a function of the scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

__all__ = ["Comparison", "Interval", "bootstrap", "compare", "win_rate", "within"]

LEVEL = 0.95
DRAWS = 10_000


class Interval(NamedTuple):
    """A mean and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One model's scores less another's over the same prompts and seeds.

    Attributes:
        difference: the mean over prompts with its interval, in the scorer's unit.
        pairs: prompt and seed pairs both models have a score for.
        win_rate: share of pairs in which the first is better, a draw counting half; NaN where
            neither high nor low is better.
    """

    difference: Interval
    pairs: int
    win_rate: float


def bootstrap(
    values: NDArray[np.float64], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Interval:
    """Return the mean of group means with its percentile bootstrap interval.

    Args:
        values: finite scores, shape `[n]`.
        groups: which values belong together and are drawn together; none: each alone.
        seed: key of the random draws.

    With fewer than two groups the bounds are NaN: one prompt says nothing about others.
    """
    means = _group_means(values, groups)
    if means.size == 0:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(means.mean())
    if means.size == 1:
        return Interval(mean, np.nan, np.nan)
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = np.empty(DRAWS)
    # In slices: 10,000 draws of a thousand prompts at once would be 80 MB.
    for at in range(0, DRAWS, 500):
        picks = random.integers(0, means.size, size=(min(500, DRAWS - at), means.size))
        drawn[at : at + len(picks)] = means[picks].mean(axis=1)
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(mean, float(low), float(high))


def compare(
    first: dict[tuple[str, int], float],
    second: dict[tuple[str, int], float],
    *,
    better: str,
    seed: int = 0,
) -> Comparison:
    """Compare two models by their scores for each `(prompt, seed)`; unpaired ones are left out."""
    keys = [key for key in first if key in second]
    differences = np.array([first[key] - second[key] for key in keys], dtype=np.float64)
    interval = bootstrap(differences, [prompt for prompt, _ in keys], seed=seed)
    return Comparison(interval, len(keys), win_rate(differences, better))


def win_rate(differences: NDArray[np.float64], better: str) -> float:
    """Return the share of differences in favour of the first model, a draw counting half."""
    if better not in ("higher", "lower") or differences.size == 0:
        return float("nan")
    signs = np.sign(differences if better == "higher" else -differences)
    return float((signs + 1.0).mean() / 2.0)


def within(hits: int, trials: int) -> Interval:
    """Return a rate with its Wilson score interval (Wilson 1927), which stays within 0 and 1."""
    if trials == 0:
        return Interval(np.nan, np.nan, np.nan)
    z = 1.959963984540054  # the normal quantile of 0.975
    rate, spread = hits / trials, z * z / trials
    centre = (rate + spread / 2.0) / (1.0 + spread)
    half = z / (1.0 + spread) * np.sqrt(rate * (1.0 - rate) / trials + spread / (4.0 * trials))
    # Exact at the ends, where the two terms cancel only up to rounding.
    low = 0.0 if hits == 0 else float(centre - half)
    return Interval(rate, low, 1.0 if hits == trials else float(centre + half))


def _group_means(
    values: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> NDArray[np.float64]:
    if groups is None:
        return np.asarray(values, dtype=np.float64)
    gathered: dict[Any, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        gathered.setdefault(group, []).append(float(value))
    return np.array([np.mean(found) for found in gathered.values()], dtype=np.float64)
