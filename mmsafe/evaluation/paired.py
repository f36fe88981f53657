"""Two outcomes of the same members: how they differ, whether that could be chance, and what could have been found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmsafe.evaluation.clusters import Clusters, Spread, spread, varying
from mmsafe.evaluation.multiplicity import equivalence, smallest_found
from mmsafe.evaluation.statistics import Estimate, mean


@dataclass(frozen=True, slots=True)
class Paired:
    """The 2×2 table of counts, and the difference of shares: that of the second minus that of the first."""

    both: int
    first_only: int
    second_only: int
    neither: int
    difference: Estimate
    """As `mean` estimates it."""
    p: float
    """McNemar's exact two-sided test (1947): members with one outcome alone are as often of either kind."""
    spread: Spread | None
    """Of members that come in clusters; None where they are independent, or all of one cluster."""

    @property
    def test(self) -> tuple[str, float]:
        """Name and p of the test that there is no difference: for clusters Student's t, from their variance."""
        from scipy.stats import t

        if clusters := self._varying:
            error = clusters.variance**0.5
            return f"t({clusters.df})", 2 * float(t.sf(abs(self.difference.value) / error, clusters.df))
        lost, won, n = self._units
        return ("McNemar", self.p) if n == self.difference.n else (f"McNemar of {n}", mcnemar(lost, won))

    def found_from(self) -> float | None:
        """The smallest true difference that `test` finds at 5 % in 80 % of experiments; None: not even the largest.

        McNemar's by Miettinen (1968), where as large a share changes as did here, or all that the difference takes.
        """
        if clusters := self._varying:
            least = smallest_found(clusters.half, clusters.df)
            return least if least <= 1 else None
        lost, won, n = self._units
        return _found_by_mcnemar((lost + won) / n, n)

    def equivalent_p(self, margin: float) -> float:
        """p of two one-sided tests that the difference is smaller than `margin`, between 0 and 1.

        Tango's score test (1998), and for clusters that of their variance, whichever is less sure.
        """
        lost, won, n = self._units
        p = max(_score(won, lost, n, margin), _score(lost, won, n, margin))
        if clusters := self._varying:
            p = max(p, equivalence(self.difference.value, clusters.half, clusters.df, margin))
        return p

    @property
    def _varying(self) -> Spread | None:
        return self.spread if self.spread and self.spread.variance else None

    @property
    def _units(self) -> tuple[int, int, int]:
        """Lost, won, and all; where all members of clusters are alike, each cluster is one."""
        lost, won, n = self.first_only, self.second_only, self.difference.n
        if self.spread is None or self.spread.variance:
            return lost, won, n
        n = self.spread.fewest
        return n * bool(lost), n * bool(won), n


def paired(first: Sequence[bool], second: Sequence[bool], seed: int = 0, clusters: Clusters = ()) -> Paired | None:
    """Compare two outcomes of the same members, given in the same order; None without members."""
    table = Counter(zip(map(bool, first), map(bool, second), strict=True))
    changes = [int(after) - int(before) for before, after in zip(first, second, strict=True)]
    change = mean(changes, seed, clusters)
    if change is None:
        return None
    lost, won = table[True, False], table[False, True]
    apart = spread(clusters, changes) if len(set(changes)) == 1 else varying(clusters, changes)
    return Paired(table[True, True], lost, won, table[False, False], change, mcnemar(lost, won), apart)


def mcnemar(lost: int, won: int) -> float:
    """p of the exact test that a member which changes is as often won as lost."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _found_by_mcnemar(changed: float, n: int) -> float | None:
    from scipy.optimize import brentq
    from scipy.stats import norm

    alpha, power = float(norm.ppf(0.975)), float(norm.ppf(0.8))

    def excess(difference: float) -> float:
        share = max(changed, difference)
        return n * difference**2 - float(alpha * share**0.5 + power * (share - difference**2) ** 0.5) ** 2

    return float(brentq(excess, 1e-9, 1)) if excess(1) > 0 else None


def _score(won: int, lost: int, n: int, margin: float) -> float:
    """One-sided p that the difference is at least `margin`; by the exact test, too, where nothing was lost."""
    from scipy.stats import binom, norm

    b, c = -won - lost + (2 * n - won + lost) * margin, -lost * margin * (1 - margin)
    share = ((b**2 - 8 * n * c) ** 0.5 - b) / (4 * n)  # that is lost in the likeliest model with just this difference
    p = float(norm.cdf((won - lost - n * margin) / (n * (2 * share + margin * (1 - margin))) ** 0.5))
    return p if lost else max(p, float(binom.cdf(won, n, margin)))
