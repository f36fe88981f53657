"""Trains `tiny` with fp32 weights and with bf16 ones, and puts the loss curves into this page of the lab book.

`python experiments/rounding/curves.py [FOLDER]`: FOLDER keeps the base model, and a CSV of each run that has ended.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from mmsafe.core.files import read_metrics
from mmsafe.core.settings import Trainer
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.tiny import TinyModel
from mmsafe.models.model_source import Pretrained
from mmsafe.models.vlm import VLM
from mmsafe.objectives.sft import SFT
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.reporting.figures import STYLE, look
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.fit import fit
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.optimizers.adamw_8bit import AdamW8bit
from mmsafe.training.optimizers.optimizer import Optimizer
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Batching, Loss, Output, Recipe

PAGE = Path(__file__).parent
SEEDS, STEPS, BATCH, LAST = range(1, 6), 150, 4, 50
RATES = (1e-4,)
"""Updates are about as large as half of the distance between two bf16 numbers."""
ARMS: dict[str, tuple[Any, type[Optimizer], Any]] = {
    "fp32": ("float32", AdamW, "nearest"),
    "bf16 nearest": ("bfloat16", AdamW, "nearest"),
    "bf16 stochastic": ("bfloat16", AdamW, "stochastic"),
    "bf16 stochastic, 8-bit moments": ("bfloat16", AdamW8bit, "stochastic"),
}
Curves = Mapping[tuple[float, str], Sequence[Sequence[float]]]
"""The losses of each step, of each seed, by learning rate and arm."""


def train(base: Path, out: Path, dtype: Any, optimizer: Optimizer, seed: int) -> None:
    """One run; the seed draws the examples, each of which is seen once, and the random bits of rounding."""
    llava: VLM = Pretrained(path=str(base), dtype=dtype).load()
    trainer = Trainer(max_steps=STEPS, accelerator="cpu", precision="32-true", progress_bar=False)
    loss = Loss(SFT(), SharedPrefix())
    recipe = Recipe(optimizer, trainer, Batching(BATCH), seed)
    examples = MicroWorld(size=STEPS * BATCH, seed=seed).train().examples
    data = PreferenceData(llava, examples, loss, recipe)
    fit(llava.model, data, loss, recipe, Output(None, None, [CsvLog(out)]))


def run(folder: Path) -> None:
    """Everything that has not ended yet, and results.csv."""
    base = folder / "base"
    if not base.exists():
        TinyModel(pretraining=None).load().save(base)
    rows = []
    for rate in RATES:
        for seed in SEEDS:
            for arm, (dtype, kind, rounding) in ARMS.items():
                out = folder / f"{arm}-{rate}-{seed}".replace(" ", "-").replace(",", "")
                log = out / "metrics.csv"
                if not log.exists() or len(read_metrics(log)) < STEPS:
                    train(base, out, dtype, kind(lr=rate, rounding=rounding), seed)
                losses = [row["train/loss"] for row in read_metrics(log)]
                rows.append([rate, arm, seed, *(f"{loss:.5f}" for loss in losses)])
                print(rate, arm, seed, mean(losses[-LAST:]), flush=True)
    with (PAGE / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["lr", "arm", "seed", *range(1, STEPS + 1)], *rows])


def read(path: Path) -> Curves:
    found: dict[tuple[float, str], list[list[float]]] = {}
    with path.open() as file:
        for rate, arm, _, *losses in list(csv.reader(file))[1:]:
            found.setdefault((float(rate), arm), []).append(list(map(float, losses)))
    return found


def table(curves: Curves) -> str:
    """Of the last steps: the mean loss over seeds, their spread, and how far each seed is from its fp32 twin."""
    lines = [
        f"| lr | arm | loss of steps {STEPS - LAST + 1}–{STEPS} | standard deviation over seeds | less that of fp32, "
        "by seed | smoothed curve within the seeds of fp32 |",
        "|---" * 6 + "|",
    ]
    for (rate, arm), runs in curves.items():
        twins = curves[rate, "fp32"]
        last, exact = ([mean(losses[-LAST:]) for losses in each] for each in (runs, twins))
        apart = [a - b for a, b in zip(last, exact, strict=True)]
        fp32 = [[smooth[step] for smooth in map(smoothed, twins)] for step in range(STEPS)]
        middle = [mean(values) for values in zip(*map(smoothed, runs), strict=True)]
        inside = mean(min(low) <= value <= max(low) for value, low in zip(middle, fp32, strict=True))
        far = "–" if arm == "fp32" else f"{mean(apart):+.4f} ± {stdev(apart):.4f}".replace("-", "−")
        lines.append(f"| {rate:g} | {arm} | {mean(last):.4f} | {stdev(last):.4f} | {far} | {inside:.0%} |")
    return "\n".join(lines)


def smoothed(losses: Sequence[float], width: int = 20) -> list[float]:
    """Means over the last `width` steps."""
    return [mean(losses[max(0, step + 1 - width) : step + 1]) for step in range(len(losses))]


def draw(curves: Curves) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    for axes, rate in zip(figure.subplots(1, len(RATES), squeeze=False)[0], RATES, strict=True):
        steps = range(1, STEPS + 1)
        for number, arm in enumerate(ARMS):
            by_step = list(zip(*map(smoothed, curves[rate, arm]), strict=True))
            colour = look(number)[0]
            axes.plot(steps, list(map(mean, by_step)), color=colour, label=arm, linewidth=1.2)
            if arm == "fp32":
                axes.fill_between(steps, list(map(min, by_step)), list(map(max, by_step)), color=colour, alpha=0.15)
        axes.set_title(f"lr {rate:g}", fontsize=11)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, mean of 20 steps")
    figure.axes[0].legend(fontsize=8)
    return figure


def main() -> None:
    torch.set_num_threads(1)
    run(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/experiments/rounding"))
    curves, readme = read(PAGE / "results.csv"), PAGE / "README.md"
    text = re.sub(
        r"(?<=<!-- results -->\n).*(?=<!-- end)", lambda _: f"\n{table(curves)}\n\n", readme.read_text(), flags=re.S
    )
    readme.write_text(text)
    with matplotlib.rc_context(STYLE):
        draw(curves).savefig(PAGE / "figure.png", dpi=90)


if __name__ == "__main__":
    main()
