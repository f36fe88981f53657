"""Whether the judges of the same runs agree on which of them are better."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from mmsafe.core.declared import BY_JUDGE, Metric, by_tag
from mmsafe.reporting.summary import Run, declared_by, mean_of

TITLE, HEAD = "Ranks by judge", ("compared", "outcome")


def rank_stability(groups: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    """Rows as in `HEAD`; none unless two groups have two judges in common.

    Kendall's τ-b (1945) between every two judges' ranks of the groups by their mean score, then of every two groups
    whether all judges that both have order them alike.
    """
    return [row for metric in declared_by(groups).metrics if metric.is_score for row in _ranks(groups, metric)]


def _ranks(groups: Mapping[str, Sequence[Run]], metric: Metric) -> list[tuple[str, str]]:
    from numpy import isnan, sign
    from scipy.stats import kendalltau

    prefix, unit = f"{metric.key}{BY_JUDGE}", -1 if metric.better == "lower" else 1
    scores: dict[str, dict[str, float]] = defaultdict(dict)  # by judge, then by group; more is better
    for name, runs in groups.items():
        for key in sorted({key for run in runs for key in by_tag(run.metrics) if key.startswith(prefix)}):
            if mean := mean_of(runs, key):
                scores[key.removeprefix(prefix)][name] = round(unit * mean.mean, 9)
    rows, alike = [], dict[tuple[str, str], bool]()
    for (a, first), (b, second) in combinations(scores.items(), 2):
        shared = [name for name in first if name in second]
        for x, y in combinations(shared, 2):
            same = sign(first[x] - first[y]) == sign(second[x] - second[y])
            alike[x, y] = same and alike.get((x, y), True)
        if len(shared) > 1:
            tau = kendalltau([first[name] for name in shared], [second[name] for name in shared]).statistic
            shown = "–" if isnan(tau) else f"{tau:.3f}"  # a judge that finds all alike ranks nothing
            rows.append((f"{metric.label} by {a} and {b}", f"τ = {shown} of {len(shared)} groups"))
    words = {True: "ordered alike by all judges", False: "ordered otherwise by some judge"}
    return rows + [(f"{metric.label} of {x} and {y}", words[same]) for (x, y), same in alike.items()]
