"""Observations that come in clusters: how far their mean varies when whole clusters are drawn."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

ROUNDING = 1e-9
Clusters = Sequence[Sequence[str]]
"""For each observation the names of its clusters, one for each factor; empty, or of no factors: all independent."""


def clusters_of(name: str, tags: Mapping[str, str], by: Sequence[str]) -> tuple[str, ...]:
    """The values of the tags `by`, which are the factors, of example `name`; without one it is a cluster of its own."""
    return tuple(tags.get(tag, name) for tag in by)


class Spread(NamedTuple):
    """A variance, the number of clusters of the factor with fewest, and Student's t for 95 % of that less one."""

    variance: float
    fewest: int
    t: float

    @property
    def df(self) -> int:
        """Degrees of freedom of that t."""
        return self.fewest - 1

    @property
    def half(self) -> float:
        """Half of the 95 % interval, wherever the quantity itself ends."""
        return float(self.t * self.variance**0.5)


def spread(clusters: Clusters, *samples: Sequence[float]) -> Spread | None:
    """Of the mean of a sample, or of the first's minus the second's; None where no two observations share a cluster.

    The cluster-robust variance, for crossed factors Cameron, Gelbach and Miller's (2011), at least that by one factor.
    A factor with one value says nothing of others: the interval is about that value then.
    """
    from scipy.stats import t

    factors = [names for names in zip(*clusters, strict=True) if 1 < len(set(names)) < len(names)]
    if not factors:
        return None
    centred = [(1 - 2 * i, fmean(sample), sample) for i, sample in enumerate(samples)]
    influence = [sign * (value - mean) / len(sample) for sign, mean, sample in centred for value in sample]
    every = [some for size in range(len(factors)) for some in combinations(factors, size + 1)]
    parts = [_variance(influence, [*zip(*some, strict=True)]) * (-1) ** (len(some) - 1) for some in every]
    fewest = min(len(set(names)) for names in factors)
    return Spread(max(sum(parts), *parts), fewest, float(t.ppf(0.975, fewest - 1)))


def varying(clusters: Clusters, *samples: Sequence[float]) -> Spread | None:
    """Their spread; None also where members of clusters differ and clusters do not: that tells of no others."""
    found = spread(clusters, *samples)
    return found if found and found.variance > ROUNDING**2 else None


def _variance(influence: Sequence[float], names: Sequence[object]) -> float:
    sums: dict[object, float] = defaultdict(float)
    for value, name in zip(influence, names, strict=True):
        sums[name] += value
    return len(sums) / (len(sums) - 1) * sum(total**2 for total in sums.values())
