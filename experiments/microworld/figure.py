"""`python experiments/microworld/figure.py`: draws results.csv into figure.png and docs/microworld.png."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

from mmsafe.reporting.summary import over_seeds

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PANELS = {
    "eval/safety_rate": "safety rate  ↑",
    "eval/over_refusal_rate": "over-refusal  ↓",
    "eval/cheating_gap": "cheating gap  ↓",
    "eval/both_right": "both images decided rightly  ↑",
}
ARMS = {
    "base": "base",
    "dpo": "DPO",
    "dpo-2x": "DPO, 2 epochs",
    "sighted": "sighted",
    "bpo": "BPO",
    "bpo-concat": "BPO, concat",
}
COLOURS = {"base": "#777777", "dpo": "#3b6fb5", "dpo-2x": "#3b6fb5", "bpo": "#c8502d", "bpo-concat": "#c8502d"}


def main() -> None:
    with (HERE / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        for metric in PANELS:
            values[row["group"], metric].append(float(row[metric]))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 3.9), layout="constrained")
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        for x, arm in enumerate(ARMS):
            found = values[arm, metric]
            colour = COLOURS.get(arm, "#8a7a2f")
            axis.plot(
                [x + 0.16 * (i / max(1, len(found) - 1) - 0.5) for i in range(len(found))],
                found,
                ".",
                color=colour,
                alpha=0.5,
            )
            mean = over_seeds(found)
            axis.errorbar(x, mean.mean, mean.high - mean.mean, fmt="o", color=colour, capsize=4, markersize=6)
        axis.set_xticks(range(len(ARMS)), ARMS.values(), rotation=40, ha="right")
        axis.set_title(title, fontsize=11)
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    seeds = len(values["base", "eval/safety_rate"])
    figure.suptitle(f"micro-world, {seeds} replicates: points, means and 95 % intervals", fontsize=12)
    for path in (HERE / "figure.png", HERE.parents[1] / "docs" / "microworld.png"):
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
