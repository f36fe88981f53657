"""Puts the loss curves of run.sh's runs into this page: `python experiments/rounding/curves.py FOLDER`."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import matplotlib
from matplotlib.figure import Figure

from mmsafe.core.files import read_metrics
from mmsafe.reporting.figures import STYLE, look

PAGE = Path(__file__).parent
ARMS = ("fp32", "bf16-nearest", "bf16-stochastic", "bf16-stochastic-8bit")
TERMS = {"train/loss": "BPO's loss", "loss/preference": "of it, DPO's term"}
LAST = 50
Curves = Mapping[tuple[str, str], Sequence[Sequence[float]]]
"""Losses of each step, of each seed, by term and arm; every example is seen once, so each is on unseen examples."""


def collect(folder: Path) -> None:
    """Write results.csv: a row for each term of each run folder."""
    rows = []
    for path in folder.glob("*/*/metrics.json"):
        config = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))["config"]
        steps = read_metrics(path.parent / "metrics.csv")
        rows += [[term, config["name"], config["seed"], *(f"{step[term]:.5f}" for step in steps)] for term in TERMS]
    with (PAGE / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["term", "arm", "seed", *range(1, len(rows[0]) - 2)], *sorted(rows)])


def read(path: Path) -> Curves:
    curves: dict[tuple[str, str], list[list[float]]] = {(term, arm): [] for term in TERMS for arm in ARMS}
    with path.open() as file:
        for term, arm, _, *losses in list(csv.reader(file))[1:]:
            curves[term, arm].append(list(map(float, losses)))
    return curves


def table(curves: Curves) -> str:
    """Of the last steps: the mean loss over seeds, their spread, and how far each seed is from its fp32 twin."""
    steps = len(next(iter(curves.values()))[0])
    lines = [
        f"| loss | arm | mean of steps {steps - LAST + 1}–{steps} | standard deviation over seeds | less that of fp32, "
        "by seed | smoothed curve within the seeds of fp32 |",
        "|---" * 6 + "|",
    ]
    for (term, arm), runs in curves.items():
        twins = curves[term, "fp32"]
        last, exact = ([mean(losses[-LAST:]) for losses in each] for each in (runs, twins))
        apart = [a - b for a, b in zip(last, exact, strict=True)]
        fp32 = list(zip(*map(smoothed, twins), strict=True))
        middle = [mean(values) for values in zip(*map(smoothed, runs), strict=True)]
        inside = mean(min(low) <= value <= max(low) for value, low in zip(middle, fp32, strict=True))
        far = "–" if arm == "fp32" else f"{mean(apart):+.4f} ± {stdev(apart):.4f}".replace("-", "−")
        lines.append(f"| {TERMS[term]} | {arm} | {mean(last):.4f} | {stdev(last):.4f} | {far} | {inside:.0%} |")
    return "\n".join(lines)


def smoothed(losses: Sequence[float], width: int = 20) -> list[float]:
    """Means over the last `width` steps."""
    return [mean(losses[max(0, step + 1 - width) : step + 1]) for step in range(len(losses))]


def draw(curves: Curves) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (term, title) in zip(figure.subplots(1, len(TERMS)), TERMS.items(), strict=True):
        for number, arm in enumerate(ARMS):
            by_step = list(zip(*map(smoothed, curves[term, arm]), strict=True))
            steps, colour = range(1, len(by_step) + 1), look(number)[0]
            axes.plot(steps, list(map(mean, by_step)), color=colour, label=arm, linewidth=1.2)
            if arm == "fp32":
                axes.fill_between(steps, list(map(min, by_step)), list(map(max, by_step)), color=colour, alpha=0.15)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, mean of 20 steps")
    figure.axes[0].legend(fontsize=8)
    return figure


def main() -> None:
    collect(Path(sys.argv[1]))
    curves, readme = read(PAGE / "results.csv"), PAGE / "README.md"
    text = re.sub(
        r"(?<=<!-- results -->\n).*(?=<!-- end)", lambda _: f"\n{table(curves)}\n\n", readme.read_text(), flags=re.S
    )
    readme.write_text(text)
    with matplotlib.rc_context(STYLE):
        draw(curves).savefig(PAGE / "figure.png", dpi=90)


if __name__ == "__main__":
    main()
