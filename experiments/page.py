"""Puts results of an experiment into its page of the lab book: results.csv, figure.png and the tables of README.md.

`python experiments/page.py experiments/NAME REPORT/results.csv`, as each run.sh does. The verdict is written by hand.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

from mmsafe.core.files import csv_rows
from mmsafe.evaluation.multiplicity import CORRECTIONS, equivalence, holm, smallest_found
from mmsafe.reporting.figures import STYLE, look
from mmsafe.reporting.summary import Interval, over_seeds
from mmsafe.runs.plan import Plan, read_plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = {
    "eval/safety_rate": "safety rate ↑",
    "eval/over_refusal_rate": "over-refusal ↓",
    "eval/cheating_gap": "cheating gap ↓",
    "eval/both_right": "both images right ↑",
    "eval/neutral_accuracy": "neutral questions ↑",
    "eval/fluent_rate": "fluent ↑",
    "eval/pairwise_accuracy": "pairwise, log-prob ↑",
    "eval/pairwise_accuracy_reward": "pairwise, reward ↑",
}
THIRD = {
    "third/right": "right",
    "third/right_where_misled": "right where the words mislead",
    "third/chosen_better": "worse than chosen",
    "third/chosen_worse": "better than chosen",
    "third/tokens": "tokens",
    "third/reference_log_prob": "log π_ref",
}
"""How good the third responses of an arm are."""
MAIN = tuple(METRICS)[:4]
"""Of the figure and of the differences."""
MARKS = ("<!-- results -->", "<!-- end of results -->")
Row = Mapping[str, str]


def main() -> None:
    parser = argparse.ArgumentParser("experiments/page.py", description="Put results into a page of the lab book.")
    parser.add_argument("page", type=Path, help="folder of the page")
    parser.add_argument("results", type=Path, help="results.csv of mmsafe.report")
    parser.add_argument("--arms", nargs="*", default=[], help="those to be shown first, in this order")
    parser.add_argument(
        "--differences", nargs="*", default=[], help="'ARM - ARM', to be paired by seed, beside the plan's"
    )
    args = parser.parse_args()
    rows = read(args.results)
    if args.results.resolve() != (args.page / "results.csv").resolve():
        shutil.copyfile(args.results, args.page / "results.csv")
    first = {name: place for place, name in enumerate(args.arms)}
    rows.sort(key=lambda row: first.get(row["group"], len(first)))
    plan, _ = read_plan(args.page / "plan.yaml")
    contrasts = [text.split(" - ") for text in dict.fromkeys([*plan.contrasts, *args.differences])]
    parts = [means(rows, METRICS), means(rows, THIRD, "arm, third responses"), planned(rows, plan)]
    parts += [differences(rows, contrasts), corrected(rows, contrasts, plan)]
    tables = "\n\n".join("\n".join(part) for part in parts if part)
    write_between_marks(args.page / "README.md", tables)
    with matplotlib.rc_context(STYLE):
        draw(rows).savefig(args.page / "figure.png", dpi=110)


def read(path: Path) -> list[Row]:
    """The rows of finished runs. Ends the program if one is not finished: a page shows whole experiments."""
    with path.open(encoding="utf-8") as file:
        names, *lines = csv_rows(file)
        rows = [dict(zip(names, line, strict=True)) for line in lines]
    if unfinished := [row["folder"] for row in rows if row["status"] != "finished"]:
        raise SystemExit(f"{path}: {', '.join(unfinished)} did not finish; give the command of the sweep again")
    return rows


def values(rows: Sequence[Row], name: str, metric: str) -> dict[str, float]:
    """Of an arm, by seed."""
    return {row["seed"]: float(row[metric]) for row in rows if row["group"] == name and row.get(metric)}


def means(rows: Sequence[Row], metrics: Mapping[str, str], head: str = "arm") -> list[str]:
    """A Markdown table: mean over seeds and half of the 95 % Student t interval; empty where no arm has any metric."""
    shown = [metric for metric in metrics if any(row.get(metric) for row in rows)]
    lines = [f"| {head} | seeds | {' | '.join(metrics[metric] for metric in shown)} |", "|---" * (2 + len(shown)) + "|"]
    for name in dict.fromkeys(row["group"] for row in rows):
        by_metric = [list(values(rows, name, metric).values()) for metric in shown]
        cells = [str(over_seeds(each)).replace("-", "−") if each else "–" for each in by_metric]
        if any(by_metric):
            lines.append(f"| {name} | {max(map(len, by_metric))} | {' | '.join(cells)} |")
    return lines if shown else []


def planned(rows: Sequence[Row], plan: Plan) -> list[str]:
    """A Markdown table of a plan's contrasts by its primary metric, corrected by themselves."""
    gains = {name: over_seeds(paired(rows, *name.split(" - "), plan.primary)) for name in plan.contrasts}
    correct, sizes = CORRECTIONS[plan.correction], [(gain.half, gain.n - 1) for gain in gains.values()]
    columns = {
        METRICS[plan.primary]: [signed(gain) for gain in gains.values()],
        "p": [number(gain.p) for gain in gains.values()],
        f"corrected ({plan.correction})": [*map(number, correct([gain.p for gain in gains.values()]))],
        "found from": [f"{smallest_found(*size):.3f}" if size[0] else "–" for size in sizes],
    }
    if margin := plan.margin:
        alike = [
            equivalence(g.mean, *size, margin) if g.half else 0.0 for g, size in zip(gains.values(), sizes, strict=True)
        ]
        columns |= {f"within ±{margin:g}, p": [*map(number, alike)], "that corrected": [*map(number, correct(alike))]}
    lines = [f"| planned contrast | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, *cells in zip(gains, *columns.values(), strict=True):
        lines.append(f"| {name.replace(' - ', ' − ')} | {' | '.join(cells)} |")
    return lines


def number(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def differences(rows: Sequence[Row], contrasts: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table of differences paired by seed, in bold where the 95 % interval excludes zero."""
    heads = [METRICS[metric] for metric in MAIN]
    lines = [f"| difference | {' | '.join(heads)} | seeds with more of both right |", "|---" * (2 + len(MAIN)) + "|"]
    for first, second in contrasts:
        found = {metric: paired(rows, first, second, metric) for metric in MAIN}
        gains = found["eval/both_right"]
        cells = [signed(over_seeds(each)) for each in found.values()]
        more = f"{sum(gain > 1e-9 for gain in gains)} of {len(gains)}"
        lines.append(f"| {first} − {second} | {' | '.join(cells)} | {more} |")
    return lines if contrasts else []


def corrected(rows: Sequence[Row], contrasts: Sequence[Sequence[str]], plan: Plan) -> list[str]:
    """What Holm's correction for their number leaves of the t-tests of differences, without those that were planned."""
    tests = {
        f"{first} − {second}, {METRICS[metric][:-2]}": float(ttest_1samp(paired(rows, first, second, metric), 0).pvalue)
        for first, second in contrasts
        for metric in MAIN
        if not plan.holds(first, second, metric)
    }
    if not tests:
        return []
    adjusted = dict(zip(tests, holm([*tests.values()]), strict=True))
    texts = {name: f"{name} (p = {adjusted[name]:.3f})" for name in sorted(tests, key=tests.__getitem__)}
    left = [text for name, text in texts.items() if adjusted[name] < 0.05]
    bold = f"{sum(p < 0.05 for p in tests.values())} of {len(tests)}"
    after = "; ".join(left) or f"none; next is {next(iter(texts.values()))}"
    return [f"In bold are {bold}; after Holm's correction for {len(tests)} exploratory ones, at 5 %: {after}."]


def paired(rows: Sequence[Row], first: str, second: str, metric: str) -> list[float]:
    """`first` minus `second`, seed by seed. Ends the program where there is none to pair."""
    a, b = values(rows, first, metric), values(rows, second, metric)
    if not a.keys() & b.keys():
        arms = ", ".join(dict.fromkeys(row["group"] for row in rows))
        raise SystemExit(f"{first} - {second}: no seed of both; arms are {arms}")
    return [a[seed] - b[seed] for seed in a if seed in b]


def signed(found: Interval) -> str:
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-", "−")
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def write_between_marks(path: Path, text: str) -> None:
    """Put `text` between the marks of a file."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise SystemExit(f"{path}: has no lines {MARKS[0]} and {MARKS[1]}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def draw(rows: Sequence[Row]) -> Figure:
    """A panel for each main metric: seeds as points, means with 95 % intervals."""
    figure = Figure(figsize=(14, 3.9), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(MAIN)), MAIN, strict=True):
        by_arm(axes, rows, metric)
        axes.set_title(METRICS[metric], fontsize=11)
        axes.set_ylim(min(0, *axes.get_ylim()), 1)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(f"{seeds} replicates: points; means with 95 % intervals", fontsize=11)
    return figure


def by_arm(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """A place on the x axis for each arm."""
    names = list(dict.fromkeys(row["group"] for row in rows))
    for x, name in enumerate(names):
        if found := list(values(rows, name, metric).values()):
            points(axes, x, found, look(x)[0])
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")


def points(axes: Axes, x: float, found: Sequence[float], colour: str) -> None:
    mean = over_seeds(found)
    axes.plot([x] * len(found), found, ".", color=colour, alpha=0.5)
    axes.errorbar(x, mean.mean, mean.high - mean.mean, fmt="o", color=colour, capsize=4, markersize=5)


if __name__ == "__main__":
    main()
