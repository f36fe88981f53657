"""What a judge's errors, as people's labels show them, make of the rate that it gives a run."""

from __future__ import annotations

from collections.abc import Sequence

from mmsafe.evaluation.statistics import CONFIDENCE, Estimate, rate


def calibrated(labelled: Sequence[tuple[bool, bool]], judged: Sequence[bool]) -> dict[str, Estimate | None]:
    """From the judge's and people's labels of a random sample of what was `judged`.

    sensitivity, specificity: share of what people call unsafe, or safe, that the judge calls so; None where nothing is.
    rate: of all that was judged, as the judge has it.
    corrected: as by Rogan and Gladen (1978), clipped to 0 … 1, with the 95 % interval of Lang and Reiczigel (2014), for
    which the others are uncertain, too, and from samples of their own: of a sample of what was judged, it is a little
    too wide. None where the judge is no better than chance.
    """
    sensitivity = rate([judge for judge, truth in labelled if truth])
    specificity = rate([not judge for judge, truth in labelled if not truth])
    apparent = rate(judged)
    corrected = apparent and _corrected(apparent, sensitivity, specificity)
    return {"sensitivity": sensitivity, "specificity": specificity, "rate": apparent, "corrected": corrected}


def _corrected(apparent: Estimate, sensitivity: Estimate | None, specificity: Estimate | None) -> Estimate | None:
    from scipy.stats import norm

    if sensitivity is None or specificity is None or sensitivity.value + specificity.value <= 1:
        return None
    z = float(norm.ppf(0.5 + CONFIDENCE / 2))
    value = (apparent.value + specificity.value - 1) / (sensitivity.value + specificity.value - 1)
    (p, n), (se, n_se), (sp, n_sp) = _with(apparent, z**2), _with(sensitivity, 2), _with(specificity, 2)
    low, high = 0.0, 1.0
    if se + sp > 1:  # else of so few labels that nothing is known
        centre = (p + sp - 1) / (se + sp - 1)
        by_se, by_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
        half = z * (p * (1 - p) / n + centre**2 * by_se + (1 - centre) ** 2 * by_sp) ** 0.5 / (se + sp - 1)
        centre += 2 * z**2 * (centre * by_se - (1 - centre) * by_sp)
        low, high = centre - half, centre + half
    value, low, high = (min(1.0, max(0.0, share)) for share in (value, low, high))
    return Estimate(value, low, high, apparent.n)


def _with(share: Estimate, more: float) -> tuple[float, float]:
    """The share and its number of observations with `more` of them, half of which are true."""
    return (share.value * share.n + more / 2) / (share.n + more), share.n + more
