"""Which checkpoints are best by a metric, and whether training still gets better. Importing this imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.settings import Checkpoint, EarlyStopping

Mode = Literal["min", "max"]
BETTER: Mapping[str, Mode] = {"loss": "min", "rewards/margins": "max", "rewards/accuracies": "max"}
"""What is better of the metrics of a step, by how their names begin behind `train/` and `val/`."""


def better(monitor: str, measures: Iterable[Metric]) -> Mode | None:
    """What is better of a metric, as it is declared of a step's metrics or in the `measures` of a benchmark."""
    name = monitor.removeprefix("train/").removeprefix("val/")
    declared: dict[str, Mode] = {m.name: "max" if m.better == "higher" else "min" for m in measures if m.better}
    begins = (mode for start, mode in BETTER.items() if f"{name}/".startswith(f"{start}/"))
    return declared.get(name) or next(begins, None)


class Best:
    """The best validations so far by `options.monitor`, and how many came since one was better than all before it."""

    def __init__(self, options: Checkpoint, mode: Mode, early: EarlyStopping) -> None:
        self.options = options
        self.mode = mode
        self.early = early
        self.ranked: list[tuple[float, int]] = []
        """Value and step, the best first; as many as are kept."""
        self.reached = math.inf
        """What the next one has to be better than, negated where more is better."""
        self.waited = 0

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in what a validation measured; raises `UserError` if the metric is not among it, or is not finite."""
        monitor = self.options.monitor
        if monitor not in metrics:
            known = ", ".join(sorted(metrics))
            raise UserError(f"checkpoint.monitor={monitor}: is not measured; choose one of {known}")
        value = metrics[monitor]
        if not math.isfinite(value):
            raise UserError(f"step {step}: {monitor} is {value}, by which no checkpoint can be chosen")
        self.ranked = sorted([*self.ranked, (value, step)], key=lambda known: (self._cost(known[0]), known[1]))
        del self.ranked[self.options.keep_best :]
        if improved := self._cost(value) < self.reached - self.early.min_delta:
            self.reached = self._cost(value)
        self.waited = 0 if improved else self.waited + 1

    @property
    def steps(self) -> list[int]:
        """Steps whose checkpoints are kept, the best first."""
        return [step for _, step in self.ranked]

    @property
    def exhausted(self) -> bool:
        """Whether training is to end early."""
        return self.early.patience is not None and self.waited >= self.early.patience

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"ranked": self.ranked, "reached": self.reached, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.ranked = [(float(value), int(step)) for value, step in state["ranked"]]
        self.reached, self.waited = float(state["reached"]), int(state["waited"])

    def _cost(self, value: float) -> float:
        return value if self.mode == "min" else -value
