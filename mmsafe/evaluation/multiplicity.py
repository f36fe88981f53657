"""What holds of many tests together, what a test could have found, and what counts as no difference."""

import math
from collections.abc import Sequence


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979), in the order of `ps`; NaN is of no test and stays."""
    adjusted, least = [math.nan] * len(ps), 0.0
    order = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    for rank, (p, place) in enumerate(order):
        adjusted[place] = least = max(least, min(1.0, p * (len(order) - rank)))
    return adjusted


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """The least rates of false discoveries (Benjamini and Hochberg, 1995) at which each is one; NaN stays."""
    from scipy.stats import false_discovery_control

    tested = [p for p in ps if not math.isnan(p)]
    rates = iter(false_discovery_control(tested) if tested else ())
    return [p if math.isnan(p) else float(next(rates)) for p in ps]


CORRECTIONS = {"holm": holm, "benjamini_hochberg": benjamini_hochberg}


def equivalence(mean: float, half: float, df: float, margin: float) -> float:
    """p of two one-sided t tests (Schuirmann, 1987) against `margin` or more; `half` is that of a 95 % interval."""
    from scipy.stats import t

    return float(t.sf((margin - abs(mean)) / half * t.ppf(0.975, df), df))


def smallest_found(half: float, df: float, power: float = 0.8) -> float:
    """The smallest true mean that a t test at 5 % finds so often, where 95 % intervals are as wide as this one."""
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    limit = float(t.ppf(0.975, df))
    return half / limit * float(brentq(lambda shift: nct.sf(limit, df, shift) - power, 0, 1.5 * limit + 2))
