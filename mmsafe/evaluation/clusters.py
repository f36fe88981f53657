"""Observations that come in clusters: how far a statistic of them varies, when whole clusters are drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from mmsafe.data.example import Example

Clusters = Sequence[Sequence[str]]
"""For each observation the names of its clusters, one for each factor; empty, or of no factors: all independent."""


def clusters_of(example: Example, tags: Sequence[str]) -> tuple[str, ...]:
    """The values of `tags`, which are the factors; an example without one is a cluster of its own."""
    return tuple(example.tags.get(tag, example.id) for tag in tags)


class Spread(NamedTuple):
    """The variance of a statistic, and the number of clusters that tell of it, of the factor with fewest."""

    variance: float
    count: int

    @property
    def t(self) -> float:
        """How many standard errors away the ends of a 95 % interval are: Student's t, clusters less one."""
        from scipy.stats import t

        return float(t.ppf(0.975, self.count - 1))


def spread(influence: Sequence[float], clusters: Clusters) -> Spread | None:
    """Of a statistic, to which each observation adds its `influence` about the estimate; None if none share a cluster.

    The cluster-robust variance, for crossed factors Cameron, Gelbach and Miller's (2011), at least that by one factor.
    A factor with one value says nothing of others: the interval is about that value then.
    """
    factors = [names for names in zip(*clusters, strict=True) if 1 < len(set(names)) < len(names)]
    if not factors:
        return None
    single = [_variance(influence, names) for names in factors]
    crossed = (
        (-1) ** (size + 1) * _variance(influence, [*zip(*some, strict=True)])
        for size in range(1, len(factors) + 1)
        for some in combinations(factors, size)
    )
    return Spread(max(sum(crossed), *single), min(len(set(names)) for names in factors))


def _variance(influence: Sequence[float], names: Sequence[object]) -> float:
    sums: dict[object, float] = defaultdict(float)
    for value, name in zip(influence, names, strict=True):
        sums[name] += value
    return len(sums) / (len(sums) - 1) * sum(total**2 for total in sums.values())
