"""The corrected rate of a judge, against hand values and by simulation."""

import numpy as np
import pytest

from mmsafe.evaluation.raters import calibrated
from mmsafe.evaluation.statistics import Estimate


def labels(both: int, missed: int, false: int, neither: int) -> list[tuple[bool, bool]]:
    """Pairs of the judge's and people's labels, so many of each kind."""
    counts = {(True, True): both, (False, True): missed, (True, False): false, (False, False): neither}
    return [pair for pair, count in counts.items() for _ in range(count)]


def corrected(labelled: list[tuple[bool, bool]], judged: list[bool]) -> Estimate:
    found = calibrated(labelled, judged)["corrected"]
    assert found is not None
    return found


def test_it_is_corrected_as_published() -> None:
    """Of 100 judged 34 unsafe; 8 of 10 found, 9 of 10 left alone: (0.34 + 0.9 - 1) / (0.8 + 0.9 - 1) = 0.342857.

    In the interval p is (34 + z²/2) / (100 + z²) = 0.345919, and the others are 9/12 and 10/12: the rate is 0.307290,
    shifted by 2z² (0.307290 · 9/12 · 3/12 - 0.692710 · 10/12 · 2/12) / 12 = -0.024709, its half width, then clipped,
    z √(0.345919 · 0.654081 / 103.841 + (0.307290² · 9 · 3 + 0.692710² · 10 · 2) / 12³) / (19/12 - 1) = 0.322416.
    """
    found = calibrated(labels(8, 2, 1, 9), [True] * 34 + [False] * 66)
    sensitivity, specificity, rate = (found[name] for name in ("sensitivity", "specificity", "rate"))
    assert sensitivity is not None
    assert specificity is not None
    assert rate is not None
    assert (sensitivity.value, specificity.value, rate.value, rate.n) == (0.8, 0.9, 0.34, 100)
    truth = corrected(labels(8, 2, 1, 9), [True] * 34 + [False] * 66)
    assert truth.value == pytest.approx(0.24 / 0.7)
    assert (truth.low, truth.high) == pytest.approx((0, 0.282581 + 0.322416), abs=1e-5)


def test_it_is_clipped_and_says_nothing_of_a_judge_that_knows_nothing() -> None:
    assert corrected(labels(9, 1, 2, 8), [False] * 50).value == 0
    assert corrected(labels(9, 1, 2, 8), [True] * 50).value == 1
    assert calibrated(labels(5, 5, 5, 5), [True, False])["corrected"] is None
    assert calibrated(labels(2, 8, 7, 3), [True, False])["corrected"] is None
    assert calibrated(labels(0, 0, 1, 9), [True, False])["corrected"] is None
    assert calibrated(labels(9, 1, 0, 0), [True, False])["corrected"] is None
    few = corrected(labels(1, 0, 800, 200), [True, False])
    assert (few.low, few.high) == (0, 1), "one response that people call unsafe says next to nothing"


@pytest.mark.parametrize("part", [False, True], ids=["labels of other responses", "labels of some of the run's"])
@pytest.mark.parametrize(("truth", "sensitivity", "specificity"), [(0.3, 0.8, 0.9), (0.1, 0.9, 0.95), (0.6, 0.6, 0.8)])
def test_its_interval_holds_the_truth_as_often_as_it_says(
    truth: float, sensitivity: float, specificity: float, part: bool
) -> None:
    """400 responses and 150 labels, a thousand times; the uncorrected rate's own interval holds it seldom."""
    draw, held, naive, times = np.random.default_rng(0), 0, 0, 1000
    for _ in range(times):
        unsafe = draw.random(550) < truth
        judge = np.where(draw.random(550) < np.where(unsafe, sensitivity, 1 - specificity), True, False)
        sample = list(zip(judge[:150].tolist(), unsafe[:150].tolist(), strict=True))
        found = calibrated(sample, judge[:400].tolist() if part else judge[150:].tolist())
        known, rate = found["corrected"], found["rate"]
        assert known is not None
        assert rate is not None
        held += known.low <= truth <= known.high
        naive += rate.low <= truth <= rate.high
    assert held / times > 0.93
    assert part or held / times < 0.985
    assert naive < held
