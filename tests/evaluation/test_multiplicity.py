"""Corrections for the number of tests, equivalence and power, by hand and against published tables."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from mmsafe.evaluation.multiplicity import benjamini_hochberg, equivalence, holm, smallest_found

NAN = math.nan


def test_holm_by_hand() -> None:
    """Of 0.01, 0.04, 0.03, 0.005: times 4, 3, 2 and 1 in order of size, none less than one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, NAN, 0.6]) == pytest.approx([0.8, NAN, 0.8], nan_ok=True)
    assert holm([]) == []


def test_benjamini_hochberg_by_hand() -> None:
    """Of the same: times 4/2, 4/4, 4/3 and 4/1 by rank, none more than one after it."""
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert benjamini_hochberg([NAN, 0.5]) == pytest.approx([NAN, 0.5], nan_ok=True)
    assert benjamini_hochberg([NAN]) == pytest.approx([NAN], nan_ok=True)


def test_equivalence_is_the_greater_p_of_two_one_sided_tests() -> None:
    values = [0.01, -0.02, 0.03, 0.0, 0.015]
    half = float(t.ppf(0.975, 4) * np.std(values, ddof=1) / math.sqrt(5))
    above, below = (ttest_1samp(values, m, alternative=a).pvalue for m, a in ((-0.05, "greater"), (0.05, "less")))
    assert equivalence(float(np.mean(values)), half, 4, 0.05) == pytest.approx(max(above, below))
    assert equivalence(0.06, half, 4, 0.05) > 0.5


@pytest.mark.parametrize(("n", "effect"), [(3, 3.263), (5, 1.68), (10, 0.996), (34, 0.495)])
def test_the_smallest_effect_that_is_found_is_that_of_power_tables(n: int, effect: float) -> None:
    """Paired t test, two sides at 5 %, power 0.8, in standard deviations of the differences; and by simulation."""
    half = float(t.ppf(0.975, n - 1)) / math.sqrt(n)
    assert smallest_found(half, n - 1) == pytest.approx(effect, rel=0.005)
    drawn = np.random.default_rng(0).normal(effect, size=(4000, n))
    assert (ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)
