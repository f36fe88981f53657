"""Estimates with 95 % intervals. SciPy is imported where it is used: configs are checked without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, the ends of its 95 % interval, and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


def rate(outcomes: Sequence[bool | float]) -> Estimate | None:
    """Share of true outcomes with the Wilson score interval; None without observations.

    A tie counts as one half.
    """
    from scipy.stats import norm

    n = len(outcomes)
    if n == 0:
        return None
    share, z = float(sum(outcomes)) / n, float(norm.ppf(0.5 + CONFIDENCE / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), n)


def difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Estimate | None:
    """Mean share of `first` minus that of `second`, two independent samples; percentile bootstrap over members.

    Where one unit of sampling gives several observations, pass their mean, so that units are resampled as a whole.
    """
    if not len(first) or not len(second):
        return None
    value = sum(first) / len(first) - sum(second) / len(second)
    return _bootstrap((first, second), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), value, seed)


def mean(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """Mean of differences between shares, with a percentile bootstrap interval; None without observations."""
    if not len(values):
        return None
    return _bootstrap((values,), lambda x, axis: x.mean(axis=axis), sum(values) / len(values), seed)


def _bootstrap(
    samples: tuple[Sequence[float], ...], statistic: Callable[..., Any], value: float, seed: int
) -> Estimate:
    """A sample of one cannot be resampled: its interval is all that a difference of shares can be."""
    import numpy as np
    from scipy.stats import bootstrap

    n = sum(map(len, samples))
    arrays = tuple(np.asarray(sample, dtype=float) for sample in samples)
    if any(len(array) < 2 for array in arrays):
        return Estimate(value, -1.0, 1.0, n)
    found = bootstrap(
        arrays,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), n)
