"""Estimates with 95 % intervals. SciPy is imported where it is used: configs are checked without it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmsafe.evaluation.clusters import ROUNDING, Clusters, Spread, spread, varying

CONFIDENCE = 0.95
RESAMPLES = 2000
Values = Sequence[float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, the ends of its 95 % interval, and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


def rate(outcomes: Sequence[bool | float], clusters: Clusters = ()) -> Estimate | None:
    """Share of true outcomes with the Wilson score interval; None without observations.

    A tie counts as one half. With clusters, Student's t interval on the logit scale (Korn and Graubard, 1998; Dean and
    Pagano, 2015), never from a smaller variance than that of independent outcomes. Where all outcomes are alike,
    nothing tells how far clusters differ: each counts as one observation then.
    """
    from scipy.stats import norm

    n = len(outcomes)
    if n == 0:
        return None
    share, z = float(sum(outcomes)) / n, float(norm.ppf(0.5 + CONFIDENCE / 2))
    clustered = spread(clusters, outcomes)
    if clustered is None or share in (0, 1):
        return Estimate(share, *_wilson(share, *((clustered.fewest, clustered.t) if clustered else (n, z))), n)
    half = clustered.t * max(clustered.variance, share * (1 - share) / n) ** 0.5 / (share * (1 - share))
    low, high = (1 / (1 + (1 - share) / share * math.exp(by)) for by in (min(half, 700), -half))
    return Estimate(share, low, high, n)


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def reach(outcomes: Iterable[bool], unknown: Iterable[bool]) -> tuple[float, float]:
    """The least and the greatest share of outcomes that are true, where the unknown ones may be either."""
    pairs = list(zip(outcomes, unknown, strict=True))
    sure = sum(outcome and not open_ for outcome, open_ in pairs)
    return sure / len(pairs), (sure + sum(open_ for _, open_ in pairs)) / len(pairs)


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


def difference(first: Values, second: Values, seed: int = 0, clusters: Clusters = ()) -> Estimate | None:
    """Mean share of `first` minus that of `second`, two independent samples; percentile bootstrap over members.

    Where one unit of sampling gives several observations, pass their mean, so that units are resampled as a whole.
    A sample that does not vary has nothing to resample: then the intervals of both means are combined (MOVER).
    With clusters, those of `first` and then of `second`, Student's t interval of their robust variance.
    """
    if not len(first) or not len(second):
        return None
    value, n = sum(first) / len(first) - sum(second) / len(second), len(first) + len(second)
    if min(len(first), len(second)) < 2:
        return Estimate(value, -1.0, 1.0, n)
    if len(set(first)) == 1 or len(set(second)) == 1:
        a, b = _mean(first, 0.0, seed, clusters[: len(first)]), _mean(second, 0.0, seed, clusters[len(first) :])
        below, above = math.hypot(a.value - a.low, b.high - b.value), math.hypot(a.high - a.value, b.value - b.low)
        return Estimate(value, value - below, value + above, n)
    if clustered := varying(clusters, first, second):
        return _by_clusters(value, clustered, -1.0, n)
    return Estimate(
        value, *_bootstrap((first, second), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), seed), n
    )


def mean(values: Sequence[float], seed: int = 0, clusters: Clusters = ()) -> Estimate | None:
    """Mean of differences between shares, with a percentile bootstrap interval; None without observations.

    Where all are the same, any other may still be as frequent as Clopper and Pearson's exact interval allows; one alone
    says nothing. With clusters, Student's t interval of their robust variance. Of values that are not between -1 and 1,
    and have no known range, the interval of a constant is that value.
    """
    return _mean(values, -1.0, seed, clusters) if len(values) else None


def _by_clusters(value: float, clustered: Spread, least: float, n: int) -> Estimate:
    return Estimate(value, max(least, value - clustered.half), min(1.0, value + clustered.half), n)


def _mean(values: Sequence[float], least: float, seed: int, clusters: Clusters) -> Estimate:
    """Of values between `least` and 1; where all are alike, each cluster counts as one."""
    n, value = len(values), sum(values) / len(values)
    if len(set(values)) == 1 and not least <= value <= 1:
        return Estimate(value, value, value, n)
    if len(set(values)) == 1:
        units = clustered.fewest if (clustered := spread(clusters, values)) else n
        others = 1 - _exact_share(units, units)[0] if n > 1 else 1.0
        return Estimate(value, value - others * (value - least), value + others * (1 - value), n)
    if clustered := varying(clusters, values):
        return _by_clusters(value, clustered, least, n)
    return Estimate(value, *_bootstrap((values,), lambda x, axis: x.mean(axis=axis), seed), n)


def _bootstrap(samples: Sequence[Sequence[float]], statistic: Callable[..., Any], seed: int) -> tuple[float, float]:
    """Percentile interval of a statistic of independent samples."""
    import numpy as np
    from scipy.stats import bootstrap

    ends = bootstrap(
        [np.asarray(sample, dtype=float) for sample in samples],
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def _exact_share(true: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934)."""
    from scipy.stats import binomtest

    ends = binomtest(true, n).proportion_ci(CONFIDENCE, method="exact")
    return float(ends.low), float(ends.high)


def kappa(first: Sequence[str], second: Sequence[str], seed: int = 0) -> Estimate | None:
    """Cohen's κ (1960) of two raters' labels, by chance as often alike as each one's own labels make it: `_kappa`."""
    return _kappa((first, second), lambda shares: shares.prod(axis=-2).sum(axis=-1), seed)


def fleiss_kappa(raters: Sequence[Sequence[str]], seed: int = 0) -> Estimate | None:
    """Fleiss' κ (1971) of any number of raters, by chance as often alike as all labels together make it: `_kappa`."""
    return _kappa(raters, lambda shares: (shares.mean(axis=-2) ** 2).sum(axis=-1), seed)


def _kappa(raters: Sequence[Sequence[str]], by_chance: Callable[..., Any], seed: int) -> Estimate | None:
    """Agreement of pairs of raters beyond that by chance, with a bootstrap interval over what they rated.

    None where all labels are the same, for then any agreement is by chance; resamples like that are left out. Where all
    others give one value, as when the raters agree throughout, the interval is that of Clopper and Pearson's for the
    share of what all label alike, at the agreement by chance that was found. `by_chance` is of shares
    `[…, raters, labels]`.
    """
    import numpy as np

    patterns = Counter(zip(*raters, strict=True))
    labels = sorted({label for pattern in patterns for label in pattern})
    if len(labels) < 2:
        return None
    given = np.asarray(
        [[[chosen == label for label in labels] for chosen in pattern] for pattern in patterns], dtype=float
    )
    votes, counts = given.sum(axis=1), np.asarray([*patterns.values()])
    alike = (votes * (votes - 1)).sum(axis=1) / (len(raters) * (len(raters) - 1))  # share of pairs, by pattern

    def beyond(agreed: Any, shares: Any) -> Any:
        chance = by_chance(np.tensordot(shares, given, 1))
        return 1 - (1 - agreed) / np.where(chance < 1 - ROUNDING, 1 - chance, np.nan)

    n, observed = int(counts.sum()), counts / counts.sum()
    value = float(beyond(observed @ alike, observed))
    if n < 2:
        return Estimate(value, -1.0, 1.0, n)
    drawn = np.random.default_rng(seed).multinomial(n, observed, size=RESAMPLES) / n
    low, high = np.nanpercentile(beyond(drawn @ alike, drawn), [50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE])
    if high - low < ROUNDING:
        low, high = np.clip(beyond(np.asarray(_exact_share(int(counts[alike == 1].sum()), n)), observed), -1, 1)
    return Estimate(value, float(low), float(high), n)
