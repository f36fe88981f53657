"""Estimates with 95 % intervals. SciPy is imported where it is used: configs are checked without it."""

from __future__ import annotations

from collections import Counter
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


def macro(groups: Sequence[Sequence[bool | float]]) -> Estimate | None:
    """Mean of the groups' shares, in which each group counts the same; None without observations.

    The groups' Wilson intervals are combined by square-and-add (MOVER; Zou and Donner, 2008).
    """
    shares = [share for group in groups if (share := rate(group)) is not None]
    if not shares:
        return None
    value = sum(share.value for share in shares) / len(shares)
    below = sum((share.value - share.low) ** 2 for share in shares) ** 0.5 / len(shares)
    above = sum((share.high - share.value) ** 2 for share in shares) ** 0.5 / len(shares)
    return Estimate(value, value - below, value + above, sum(share.n for share in shares))


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


@dataclass(frozen=True, slots=True)
class Paired:
    """Two outcomes of each member: the 2×2 table of counts, the difference of shares, and the test that it is none."""

    both: int
    first_only: int
    second_only: int
    neither: int
    difference: Estimate
    """Share of the second minus that of the first, with a paired bootstrap interval."""
    p: float
    """McNemar's exact two-sided test (1947): members with one outcome alone are as often of either kind."""


def paired(first: Sequence[bool], second: Sequence[bool], seed: int = 0) -> Paired | None:
    """Compare two outcomes of the same members, given in the same order; None without members."""
    from scipy.stats import binomtest

    counts = Counter(zip(map(bool, first), map(bool, second), strict=True))
    change = mean([int(after) - int(before) for before, after in zip(first, second, strict=True)], seed)
    if change is None:
        return None
    lost, won = counts[True, False], counts[False, True]
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return Paired(counts[True, True], lost, won, counts[False, False], change, p)


def kappa(first: Sequence[str], second: Sequence[str], seed: int = 0) -> Estimate | None:
    """Cohen's κ (1960) of two raters' labels with a bootstrap interval over what they rated.

    None where all labels are the same, for then any agreement is by chance; a resample like that counts as 1.
    """
    import numpy as np

    labels = sorted({*first, *second})
    if len(labels) < 2:
        return None
    codes = [[labels.index(label) for label in rater] for rater in (first, second)]

    def statistic(a: Any, b: Any, axis: int = -1) -> Any:
        agreed = (a == b).mean(axis=axis)
        chance = sum((a == code).mean(axis=axis) * (b == code).mean(axis=axis) for code in range(len(labels)))
        return 1 - (1 - agreed) / np.where(chance < 1, 1 - chance, 1)

    value = float(statistic(np.asarray(codes[0]), np.asarray(codes[1])))
    return _bootstrap((codes[0], codes[1]), statistic, value, seed, jointly=True)


def _bootstrap(
    samples: tuple[Sequence[float], ...],
    statistic: Callable[..., Any],
    value: float,
    seed: int,
    *,
    jointly: bool = False,
) -> Estimate:
    """A sample of one cannot be resampled: its interval is all that a difference of shares, or κ, can be.

    `jointly`: the samples are of the same members, which are resampled once for all.
    """
    import numpy as np
    from scipy.stats import bootstrap

    n = len(samples[0]) if jointly else sum(map(len, samples))
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
        paired=jointly,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), n)
