"""Estimates and their intervals, against hand values, SciPy's own and a direct computation."""

import math
from itertools import product
from statistics import NormalDist, fmean
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from mmsafe.evaluation.paired import Paired, mcnemar, paired
from mmsafe.evaluation.statistics import Estimate, difference, fleiss_kappa, kappa, macro, mean, rate

T = TypeVar("T")
Z = 1.959963984540054


def known(found: T | None) -> T:
    """What was found, which is not nothing."""
    assert found is not None
    return found


def wilson(share: float, n: int) -> tuple[float, float]:
    """The roots of (share - p)² = z² p (1 - p) / n."""
    roots = np.roots([1 + Z**2 / n, -2 * share - Z**2 / n, share**2]).real
    return min(roots), max(roots)


# Rates


@pytest.mark.parametrize(
    ("true", "n", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), method 3
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_wilson_intervals(true: int, n: int, low: float, high: float) -> None:
    found = known(rate([True] * true + [False] * (n - true)))
    assert (found.value, found.n) == (true / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_wilson_interval_is_scipys(outcomes: list[bool]) -> None:
    found = known(rate(outcomes))
    expected = binomtest(sum(outcomes), len(outcomes)).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.value == sum(outcomes) / len(outcomes)


def test_macro_counts_every_group_the_same() -> None:
    """0 of 10 and 1 of 29, with the published intervals above: mean 1/58; half the roots of summed squares away."""
    found = known(macro([[False] * 10, [], [True] + [False] * 28]))
    assert found.value == pytest.approx(1 / 58)
    assert found.n == 39
    below, above = (1 / 29 - 0.0061) / 2, math.hypot(0.2775, 0.1718 - 1 / 29) / 2
    assert (found.low, found.high) == pytest.approx((1 / 58 - below, 1 / 58 + above), abs=1e-4)
    assert macro([[True, False]]) == rate([True, False])
    assert macro([[], []]) is None


def test_a_tie_is_one_half() -> None:
    assert rate([0.5, 0.5]) == rate([True, False])
    found = known(rate([1.0, 1.0, 0.5, 0.0, 0.5, 1.0, 1.0, 0.5]))
    assert (found.value, found.n) == (5.5 / 8, 8)
    assert (found.low, found.high) == pytest.approx(wilson(5.5 / 8, 8))
    alone = known(rate([0.5]))
    assert (alone.low, alone.high) == pytest.approx(wilson(0.5, 1))


def test_nothing_to_measure() -> None:
    assert rate([]) is None
    assert mean([]) is None
    assert difference([], [1.0, 2.0]) is None
    assert difference([1.0, 2.0], []) is None


def test_a_rate_lies_in_its_interval() -> None:
    for n in range(1, 60):
        for halves in range(2 * n + 1):
            outcomes = [1.0] * (halves // 2) + [0.5] * (halves % 2)
            found = known(rate(outcomes + [0.0] * (n - len(outcomes))))
            assert 0 <= found.low <= found.value <= found.high <= 1


# Means and differences


def resampled(rng: np.random.Generator, sample: np.ndarray, times: int) -> np.ndarray:
    return sample[rng.integers(len(sample), size=(times, len(sample)))].mean(axis=1)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return low, high


def test_mean_agrees_with_a_direct_bootstrap() -> None:
    rng = np.random.default_rng(1)
    sample = rng.exponential(size=60)
    found = known(mean(sample.tolist()))
    assert (found.value, found.n) == (pytest.approx(sample.mean()), 60)
    spread = sample.std() / math.sqrt(60)
    assert (found.low, found.high) == pytest.approx(percentiles(resampled(rng, sample, 20000)), abs=0.15 * spread)


def test_difference_agrees_with_a_direct_bootstrap() -> None:
    """Samples of different sizes and spreads, resampled each by itself."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(1, 1, size=40), rng.normal(0, 3, size=90)
    found = known(difference(first.tolist(), second.tolist()))
    assert (found.value, found.n) == (pytest.approx(first.mean() - second.mean()), 130)
    direct = resampled(rng, first, 20000) - resampled(rng, second, 20000)
    assert (found.low, found.high) == pytest.approx(percentiles(direct), abs=0.15 * direct.std())


def test_the_bootstrap_is_decided_by_its_seed() -> None:
    sample = np.random.default_rng(0).normal(size=50).tolist()
    first = mean(sample, seed=3)
    np.random.seed(1)  # the global state must not matter
    assert mean(sample, seed=3) == first
    assert mean(sample, seed=4) != first
    assert difference(sample, sample[:20], seed=3) == difference(sample, sample[:20], seed=3)
    assert difference(sample, sample[:20], seed=3) != difference(sample, sample[:20], seed=4)


@pytest.mark.filterwarnings("error")
def test_outcomes_that_are_all_alike_have_an_exact_interval() -> None:
    """Where a share q is other, n outcomes are alike with probability (1 - q)ⁿ, which is 0.025 at q = 1 - 0.025^(1/n).

    Then a mean of 1 may be 1 - 2q, where the others are -1; one of 0 may be anything within ±q. Two shares of 1 and 0
    are 1 - q and q at their ends, whose distances add as squares, as with the ends of a bootstrap where one varies.
    """
    q2, q3 = 1 - 0.025 ** (1 / 2), 1 - 0.025 ** (1 / 3)
    for found, value, low, high in (
        (mean([1, 1, 1]), 1, 1 - 2 * q3, 1),
        (mean([0, 0]), 0, -q2, q2),
        (difference([1.0, 1.0], [0.0, 0.0, 0.0]), 1, 1 - math.hypot(q2, q3), 1),
        (difference([0.0, 1.0], [0.0, 0.0]), 0.5, 0.5 - math.hypot(0.5, q2), 1),
    ):
        assert found is not None
        assert (found.value, found.low, found.high) == pytest.approx((value, low, high))


@pytest.mark.filterwarnings("error")
def test_a_sample_of_one_says_nothing_about_its_spread() -> None:
    assert mean([0.5]) == Estimate(0.5, -1.0, 1.0, 1)
    assert difference([1.0], [0.0, 1.0]) == Estimate(0.5, -1.0, 1.0, 3)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=40))
def test_a_bootstrapped_mean_stays_in_the_range_of_its_data(sample: list[float]) -> None:
    found = known(mean(sample))
    assert -1 <= found.low < found.high <= 1
    if len(set(sample)) > 1:
        assert min(sample) <= found.low <= found.high <= max(sample)
    assert min(sample) <= found.value <= max(sample)


# Clusters

TEST = [(i, j) for i, j in product(range(12), range(12)) if (i % 6 + j) % 6 == 0]
"""The micro-world's test: 24 combinations of 12 templates and 12 persons."""


def drawn(rng: np.random.Generator, share: float, by_first: float, by_second: float) -> tuple[list[bool], list[tuple]]:
    """Ten outcomes of each combination, whose normal propensities two crossed factors have in common to these parts."""
    first, second = (rng.normal(size=12) * by**0.5 for by in (by_first, by_second))
    propensity = NormalDist().inv_cdf(share) + np.asarray([first[i] + second[j] for i, j in TEST for _ in range(10)])
    noise = rng.normal(size=240) * (1 - by_first - by_second) ** 0.5
    return (noise < propensity).tolist(), [(f"a{i}", f"b{j}") for i, j in TEST for _ in range(10)]


def in_24(rng: np.random.Generator, share: float, correlation: float) -> tuple[list[bool], list[tuple]]:
    """24 clusters of 10, whose own shares are of a beta distribution, so that the correlation within them is this."""
    size = 1 / correlation - 1
    own = rng.beta(share * size, (1 - share) * size, size=24)
    return (rng.random((24, 10)) < own[:, None]).ravel().tolist(), [(str(i),) for i in range(24) for _ in range(10)]


def coverage(draw: Any, share: float, *correlations: float, times: int = 1000) -> tuple[float, float]:
    """How often the interval holds the share, with clusters and without."""
    rng, held = np.random.default_rng(0), [0, 0]
    for _ in range(times):
        outcomes, clusters = draw(rng, share, *correlations)
        for place, found in enumerate((rate(outcomes, clusters), rate(outcomes))):
            assert found is not None
            held[place] += found.low <= share <= found.high
    return held[0] / times, held[1] / times


@pytest.mark.parametrize(
    ("draw", "share", "correlations"),
    [
        (in_24, 0.5, (0.04,)),
        (in_24, 0.8, (0.14,)),
        (in_24, 0.8, (0.4,)),
        (drawn, 0.5, (0.14, 0.14)),
        (drawn, 0.8, (0.3, 0.1)),
    ],
)
def test_intervals_of_clusters_cover_the_truth(draw: Any, share: float, correlations: tuple[float, ...]) -> None:
    """95 % of 1000, within three standard errors of that; the table of docs/evaluation.md has more draws."""
    with_clusters, without = coverage(draw, share, *correlations)
    assert 0.93 <= with_clusters <= 0.97
    assert without < 0.93


@pytest.mark.parametrize(("draw", "correlations"), [(in_24, (0.14,)), (drawn, (0.3, 0.1))])
def test_equal_runs_are_told_apart_as_often_as_a_test_may(draw: Any, correlations: tuple[float, ...]) -> None:
    """5 % of 1000 pairs, within three standard errors of that; McNemar's test takes prompts for independent."""
    rng, found = np.random.default_rng(0), []
    for _ in range(1000):
        (first, clusters), (second, _) = (draw(rng, 0.8, *correlations) for _ in range(2))
        found.append(known(paired(first, second, clusters=clusters)))
    assert 0.03 <= fmean(p.test[1] < 0.05 for p in found) <= 0.07
    assert 0.93 <= fmean(p.difference.low <= 0 <= p.difference.high for p in found) <= 0.97
    assert fmean(p.p < 0.05 for p in found) > 0.12


def test_members_that_differ_in_clusters_that_do_not_are_resampled_by_themselves() -> None:
    """Each cluster won one and lost one: no variance of clusters, which is not to know that there is no difference."""
    first, second, clusters = [True, False] * 5, [False, True] * 5, [(str(i // 2),) for i in range(10)]
    found = known(paired(first, second, clusters=clusters))
    assert (found.test, found.spread) == (("McNemar", 1), None)
    assert found.difference == known(paired(first, second)).difference
    assert found.difference.low < -0.3
    assert known(difference(first, second, clusters=[*clusters, *clusters])).low < -0.3


def test_an_interval_of_clusters_by_hand() -> None:
    """Shares 1, ½ and 0 of three clusters of two: residuals 1, 0 and -1 of 6, variance 3/2 · 2/36; t = 4.3027 at 2."""
    found = known(rate([1, 1, 1, 0, 0, 0], [*"aabbcc"]))
    half = 4.302652729911275 * math.sqrt(3 / 36) / 0.25
    assert (found.value, found.n) == (0.5, 6)
    assert (found.low, found.high) == pytest.approx((1 / (1 + math.exp(half)), 1 / (1 + math.exp(-half))))
    change = known(mean([1, 1, 1, 0, 0, 0], clusters=[*"aabbcc"]))
    assert (change.low, change.high) == pytest.approx((-0.7421, 1), abs=1e-4)


def test_clusters_that_vary_alike_are_no_narrower_than_independent_outcomes() -> None:
    """And where all outcomes are alike each cluster counts as one: Wilson's interval of three, by t."""
    balanced = known(rate([1, 0] * 20, [(i // 2,) for i in range(40)]))
    alike = known(rate([1] * 30, [(i % 3,) for i in range(30)]))
    assert balanced.high - balanced.low > 0.28
    assert (alike.low, alike.high) == (pytest.approx(3 / (3 + 4.302652729911275**2)), 1)


def test_clusters_that_none_share_or_all_share_change_nothing() -> None:
    outcomes = [True, False, True, True]
    for clusters in ([], [()] * 4, [*"abcd"], [*"aaaa"]):
        assert rate(outcomes, clusters) == rate(outcomes)
        assert mean(outcomes, clusters=clusters) == mean(outcomes)
        assert difference(outcomes[:2], outcomes[2:], clusters=clusters) == difference(outcomes[:2], outcomes[2:])


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from("xy")), min_size=1, max_size=40))
def test_intervals_of_clusters_hold_the_value(rows: list[tuple[bool, str, str]]) -> None:
    outcomes, clusters = [row[0] for row in rows], [row[1:] for row in rows]
    share, change = known(rate(outcomes, clusters)), known(mean(outcomes, clusters=clusters))
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert -1 <= change.low <= change.value <= change.high <= 1


# Two outcomes of the same members


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    table = {(True, True): both, (True, False): first, (False, True): second, (False, False): neither}
    rows = [row for row, count in table.items() for _ in range(count)]
    return [a for a, _ in rows], [b for _, b in rows]


@pytest.mark.parametrize(
    ("table", "p"),
    [
        ((9, 0, 0, 4), 1.0),  # nothing changed
        ((0, 1, 0, 0), 1.0),
        ((7, 0, 5, 3), 2 / 2**5),
        ((7, 5, 1, 3), 2 * (1 + 6) / 2**6),
        ((2, 1, 6, 3), 2 * (1 + 7) / 2**7),
        ((0, 4, 4, 0), 1.0),
        ((59, 6, 16, 80), 2 * sum(math.comb(22, k) for k in range(7)) / 2**22),
    ],
)
def test_mcnemar_by_hand(table: tuple[int, int, int, int], p: float) -> None:
    """Twice the probability of so few of the rarer kind under a fair coin, at most 1."""
    found = known(paired(*outcomes(*table)))
    assert (found.both, found.first_only, found.second_only, found.neither) == table
    assert found.p == pytest.approx(p)
    assert found.difference.value == pytest.approx((table[2] - table[1]) / sum(table))
    assert found.difference.n == sum(table)


def test_a_paired_interval_is_that_of_the_differences_and_narrower_than_an_unpaired_one() -> None:
    """Two outcomes that mostly go together: the difference has the variance (b + c - (c - b)²/n)/n²."""
    first, second = outcomes(100, 5, 15, 80)
    found, apart = known(paired(first, second)), known(difference(second, first))
    spread = math.sqrt(5 + 15 - 10**2 / 200) / 200
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (0.05 - Z * spread, 0.05 + Z * spread), abs=0.01
    )
    assert found.difference.high - found.difference.low < 0.6 * (apart.high - apart.low)


def changed(lost: int, won: int, n: int) -> Paired:
    return known(paired(*outcomes(n - lost - won, lost, won, 0)))


@pytest.mark.parametrize(("lost", "won", "n"), [(1, 0, 100), (5, 0, 500), (10, 5, 200), (0, 0, 60)])
def test_what_is_found_from_is_found_by_the_test_in_80_percent(lost: int, won: int, n: int) -> None:
    """Counted exactly over all tables in which so large a share changes as did, or as the difference takes."""
    least = known(changed(lost, won, n).found_from())
    share = max((lost + won) / n, least)
    better = (share + least) / (2 * share)
    power = sum(
        binom.pmf(changes, n, share)
        * sum(binom.pmf(k, changes, better) for k in range(changes + 1) if mcnemar(changes - k, k) < 0.05)
        for changes in range(1, min(n, 60) + 1)
    )
    assert 0.75 < power < 0.85


def test_too_few_members_find_nothing() -> None:
    assert changed(0, 0, 3).found_from() is None
    clusters = [(str(i // 6),) for i in range(12)]
    assert known(paired(*outcomes(6, 4, 2, 0), clusters=clusters)).found_from() is None


def test_equivalence_by_hand() -> None:
    """Tango's score, 6 lost and 1 won of 12, at 0.5: 0.0625 are won in the likeliest model in which 0.5 more are lost.

    (6 - 1 - 6) / √(12 (2 · 0.0625 + 0.25)) = -0.4714. Where nothing is won or lost, the exact test of 12 at 0.1.
    """
    assert changed(6, 1, 12).equivalent_p(0.5) == pytest.approx(NormalDist().cdf(-1 / math.sqrt(4.5)))
    assert changed(0, 0, 12).equivalent_p(0.1) == pytest.approx(0.9**12)
    assert changed(12, 0, 12).equivalent_p(0.9) > 0.5


@given(st.integers(1, 300), st.floats(0.01, 0.9), st.data())
def test_each_loss_more_makes_it_less_sure_that_nothing_is_lost(n: int, margin: float, data: st.DataObject) -> None:
    won = data.draw(st.integers(0, n - 1))
    lost = data.draw(st.integers(won, n - won - 1)) if won <= n - won - 1 else None
    if lost is not None:
        before, after = (changed(lost + more, won, n).equivalent_p(margin) for more in (0, 1))
        assert 0 <= before <= after + 1e-9 <= 1 + 2e-9


@pytest.mark.parametrize(("n", "margin", "won"), [(50, 0.1, 0), (100, 0.05, 0.0), (100, 0.1, 0.1), (300, 0.02, 0.0)])
def test_what_is_as_large_as_the_margin_is_seldom_called_smaller(n: int, margin: float, won: float) -> None:
    rng, shares = np.random.default_rng(0), (margin + won, won, 1 - margin - 2 * won)
    drawn = (rng.multinomial(n, shares) for _ in range(1000))
    assert fmean(changed(int(lost), int(gained), n).equivalent_p(margin) < 0.05 for lost, gained, _ in drawn) < 0.07


def test_paired_outcomes_belong_to_the_same_members() -> None:
    assert paired([], []) is None
    with pytest.raises(ValueError, match="zip"):
        paired([True], [True, False])


def test_kappa_by_hand() -> None:
    """Two labels: see tests/test_agreement.py. Three: counts 4, 3, 2 on the diagonal and one a-b, of 10.

    Shares a 5/10, 4/10; b 3/10, 4/10; c 2/10, 2/10: chance (20 + 12 + 4) / 100, κ = (0.9 - 0.36) / 0.64.
    """
    found = known(kappa([*"aaaaabbbcc"], [*"aaaabbbbcc"]))
    assert (found.value, found.n) == (pytest.approx(0.54 / 0.64), 10)
    assert found.low < found.value <= found.high <= 1
    opposite = known(kappa([*"aabb"], [*"bbaa"]))
    assert opposite.value == -1


RATINGS = """
    0 0 0 0 14, 0 2 6 4 2, 0 0 3 5 6, 0 3 9 2 0, 2 2 8 1 1, 7 7 0 0 0, 3 2 6 3 0, 2 5 3 2 2, 6 5 2 1 0, 0 2 2 3 7
"""


def test_fleiss_kappa_by_hand() -> None:
    """A textbook's table of 14 raters, 10 subjects and 5 labels: (0.378 - 0.213) / (1 - 0.213)."""
    counts = [[int(count) for count in subject.split()] for subject in RATINGS.split(",")]
    subjects = [[label for label, count in zip("abcde", row, strict=True) for _ in range(count)] for row in counts]
    found = known(fleiss_kappa(list(zip(*subjects, strict=True))))
    assert (found.value, found.n) == (pytest.approx(0.20993, abs=1e-5), 10)
    assert found.low < found.value < found.high
    assert fleiss_kappa([[*"aab"]] * 3) == kappa([*"aab"], [*"aab"])
    assert fleiss_kappa([[*"aa"]] * 3) is None
    assert fleiss_kappa([]) is None


def test_kappa_agrees_with_its_large_sample_spread() -> None:
    """Fleiss, Cohen and Everitt (1969): for the table 20, 5, 10, 15 ten times over."""
    first, second = (["yes" if x else "no" for x in side] for side in outcomes(200, 50, 100, 150))
    found = known(kappa(first, second))
    share = [[0.4, 0.1], [0.2, 0.3]]
    rows, columns, kappa_, chance = [0.5, 0.5], [0.6, 0.4], 0.4, 0.5
    diagonal = sum(share[i][i] * (1 - (rows[i] + columns[i]) * (1 - kappa_)) ** 2 for i in range(2))
    beside = (1 - kappa_) ** 2 * sum(share[i][1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in range(2))
    spread = math.sqrt((diagonal + beside - (kappa_ - chance * (1 - kappa_)) ** 2) / 500) / (1 - chance)
    assert (found.low, found.high) == pytest.approx((0.4 - Z * spread, 0.4 + Z * spread), abs=0.015)


@pytest.mark.filterwarnings("error")
def test_kappa_of_labels_that_hardly_differ() -> None:
    """Resamples without the one that differs have no κ. All others have 0, for one rater says the same throughout.

    So the interval is that of 9 equal labels of 10 (Clopper and Pearson: 0.5550 to 0.9975) where chance gives 0.9.
    """
    assert kappa([*"aaaa"], [*"aaaa"]) is None
    assert kappa([], []) is None
    found = known(kappa([*"aaaaaaaaaa"], [*"aaaaaaaaab"]))
    assert (found.value, found.low, found.high) == pytest.approx((0, -1, 1 - 0.0025286 / 0.1), abs=1e-5)

    # Four equal labels of four: as few as 0.025^(1/4) of all may be equal, where chance gives a half.
    found = known(kappa([*"aabb"], [*"aabb"]))
    assert (found.value, found.low, found.high) == pytest.approx((1, 1 - (1 - 0.025**0.25) / 0.5, 1))
